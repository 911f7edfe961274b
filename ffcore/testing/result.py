"""The result of a law, for one component."""

from __future__ import annotations

from typing import Literal

import attrs

Status = Literal["holds", "broken", "broken as expected", "holds unexpectedly", "not checked"]


@attrs.frozen(kw_only=True)
class Result:
    """The result of a law."""

    component: str
    """Role and name, as in "corrector/vsd"; "plugin/vsd" for the laws of a plugin itself."""
    law: str
    """Name of the law."""
    number: str
    """Number on the role's page, such as "teacher 3"."""
    text: str
    """Text of the law."""
    status: Status
    found: str = ""
    """How the law is broken, why that was expected, or why it was not checked."""

    @property
    def name(self) -> str:
        """The name to expect a failure by: "corrector/vsd/is-deterministic"."""
        return f"{self.component}/{self.law}"

    @property
    def fails(self) -> bool:
        """Whether this must be fixed."""
        return self.status in ("broken", "holds unexpectedly")
