"""New plugins: whole distributions, written from templates that work as they stand."""

from ffcore.scaffold.distribution import NewPlugin

__all__ = ["NewPlugin"]
