"""New plugins: whole distributions, written from templates that work as they stand."""

from ffcore.plugins.scaffold.distribution import NewPlugin

__all__ = ["NewPlugin"]
