"""New plugins: complete distributions, written from working templates."""

from ffcore.plugins.scaffold.distribution import NewPlugin

__all__ = ["NewPlugin"]
