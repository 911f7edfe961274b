"""The finite check: a step whose numbers are not finite changes no weight.

The device checks whether a number is finite, and the updates depend on the result there. So no step
waits for its numbers to be read, and no weight meets a NaN. The record of steps is read later, and
says which step it was. After too many such steps in a row no update is made any more: all weights
stay as they were before the first.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_MOST = 1000
"""The most steps between two readings of the record."""


class Diverged(Exception):
    """Training met numbers that are not finite, and cannot go on."""


class FiniteCheck:
    """Decides on the device whether an update may be made, and records the steps left out.

    Every number that is admitted must be the same in all processes that share a step.

    Args:
        patience: how many steps in a row may be left out; after one more, all later ones are.
        device: where the numbers are.
    """

    def __init__(self, patience: int, device: str) -> None:
        self.patience = patience
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        """Whether this step's updates may be made, by the numbers admitted so far."""
        self.skipped = 0
        """How many steps had been left out when the record was last read."""
        self.row: list[tuple[int, list[str]]] = []
        """The last of them that follow each other: the step, and what was not finite."""
        self._in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self._numbers: dict[str, Tensor] = {}
        self._unread: list[tuple[int, list[str], Tensor]] = []

    def begin(self) -> None:
        """Begin a step."""
        self.finite = self._in_a_row <= self.patience
        self._numbers = {}

    def admit(self, numbers: Mapping[str, Tensor]) -> None:
        """Let the step's further updates depend on these scalars being finite."""
        found = {name: each.detach().isfinite() for name, each in numbers.items()}
        self.finite = torch.stack([self.finite, *found.values()]).all()
        self._numbers |= found

    def end(self, step: int) -> None:
        """End a step."""
        self._in_a_row = torch.where(self.finite, 0, self._in_a_row + 1)
        found = torch.stack([self.finite, *self._numbers.values()])
        self._unread.append((step, [*self._numbers], found))

    @property
    def full(self) -> bool:
        """Whether it is time to read the record."""
        return len(self._unread) >= _MOST

    @property
    def halted(self) -> bool:
        """Whether updates had stopped when the record was last read."""
        return len(self.row) > self.patience

    def read(self) -> None:
        """Read the record from the device; waits for it."""
        unread, self._unread = self._unread, []
        if not unread:
            return
        found = iter(torch.cat([each for _, _, each in unread]).tolist())
        for step, names, _ in unread:
            finite = next(found)
            wrong = [name for name in names if not next(found)]
            if finite:
                self.row.clear()
            else:
                self.skipped += 1
                self.row.append((step, wrong))
