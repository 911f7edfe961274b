"""Laws: the clauses of a role's contract, as checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from ffcore.testing.case import Case

ANY = "component"
"""The role of the laws of every component."""

Check = Callable[[Case, Any], None]
"""(case, live object) -> None; raises Broken or NotChecked."""


class Broken(AssertionError):
    """A component breaks a law. The message says what was found."""


class NotChecked(Exception):
    """A law does not apply in this case. The message says why."""


@attrs.frozen
class Law:
    """One clause of a role's contract."""

    role: str
    number: int
    """Number within its role. It never changes, and the number of a removed law is not reused."""
    name: str
    """Name, such as "is-finite-at-both-ends"."""
    text: str
    """Text for the user."""
    check: Check

    @property
    def label(self) -> str:
        """Role and number, as on the role's page: "teacher 3"."""
        return f"{self.role} {self.number}"


LAWS: list[Law] = []
"""All laws, once `ffcore.testing.laws` is imported."""


def law(role: str, number: int) -> Callable[[Check], Check]:
    """Register a check as a law, with the docstring as text and the function's name as name."""

    def register(check: Check) -> Check:
        text = " ".join((check.__doc__ or "").split())
        LAWS.append(Law(role, number, check.__name__.replace("_", "-"), text, check))
        return check

    return register


def require(holds: object, found: str) -> None:
    """Raise Broken(found) unless `holds`."""
    if not holds:
        raise Broken(found)


def ask_only_where(applies: object, why_not: str) -> None:
    """Raise NotChecked unless the law `applies` in this case."""
    if not applies:
        raise NotChecked(why_not)
