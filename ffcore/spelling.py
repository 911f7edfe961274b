"""Misspelt names: the nearest of the possible ones, ready to end a message with."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(found: str, possible: Iterable[str]) -> str | None:
    """The possible name that `found` most likely stands for, if any is near."""
    matches = get_close_matches(found, list(possible), n=1)
    return matches[0] if matches else None


def did_you_mean(found: str, possible: Iterable[str]) -> str:
    """`"; did you mean 'depth'?"`, or nothing where no possible name is near."""
    name = nearest(found, possible)
    return f"; did you mean {name!r}?" if name else ""
