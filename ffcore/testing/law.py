"""Laws: the clauses of a role's contract, each as a check that a component passes or breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from ffcore.testing.case import Case

ANY = "component"
"""The role of laws that hold for the components of every role."""

Check = Callable[[Case, Any], None]
"""(case, live object) -> None; raises Broken or NotChecked."""


class Broken(AssertionError):
    """A component breaks a law: what was found."""


class NotChecked(Exception):
    """A law does not apply in this case: why."""


@attrs.frozen
class Law:
    """One clause of a role's contract."""

    role: str
    number: int
    """Within its role. A law keeps its number, and that of a law that is gone is not used again."""
    name: str
    """As in "finite-at-both-ends"."""
    text: str
    """Its text, for a person."""
    check: Check

    @property
    def label(self) -> str:
        """Role and number, as the page of the role has them: "teacher 3"."""
        return f"{self.role} {self.number}"


LAWS: list[Law] = []
"""All laws, once `ffcore.testing.laws` is imported."""


def law(role: str, number: int) -> Callable[[Check], Check]:
    """Make a law of a check; the docstring is its text, the function's name its name."""

    def register(check: Check) -> Check:
        text = " ".join((check.__doc__ or "").split())
        LAWS.append(Law(role, number, check.__name__.replace("_", "-"), text, check))
        return check

    return register


def require(holds: object, found: str) -> None:
    """Raise Broken, saying what was found, unless `holds`."""
    if not holds:
        raise Broken(found)


def ask_only_where(applies: object, why_not: str) -> None:
    """Raise NotChecked unless the law `applies` in this case."""
    if not applies:
        raise NotChecked(why_not)
