"""The finite check: a step with NaN or infinity changes no weight.

The device checks the numbers, and its result decides there about the updates. So no step waits for
its numbers, and no weight becomes NaN. The record of steps is read later and names the step. After
too many such steps in a row, updates stop: all weights stay as they were before the first.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_MOST = 1000
"""Most steps between two readings of the record."""


class Diverged(Exception):
    """Training met NaN or infinity and cannot continue."""


class FiniteCheck:
    """Decides on the device whether to update, and records the skipped steps.

    Every number passed to `admit` must be the same in all processes that share a step.

    Args:
        patience: number of steps in a row that may be skipped; after one more, updates stop.
        device: device of the numbers.
    """

    def __init__(self, patience: int, device: str) -> None:
        self.patience = patience
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        """Whether this step may update, by the numbers admitted so far."""
        self.skipped = 0
        """Number of skipped steps at the last reading of the record."""
        self.row: list[tuple[int, list[str]]] = []
        """The latest run of consecutive skipped steps: the step, and what was not finite."""
        self._in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self._numbers: dict[str, Tensor] = {}
        self._unread: list[tuple[int, list[str], Tensor]] = []

    def begin(self) -> None:
        """Start a step."""
        self.finite = self._in_a_row <= self.patience
        self._numbers = {}

    def admit(self, numbers: Mapping[str, Tensor]) -> None:
        """Make the step's further updates depend on whether these scalars are finite."""
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
        """Whether the record must be read now."""
        return len(self._unread) >= _MOST

    @property
    def halted(self) -> bool:
        """Whether updates had stopped at the last reading of the record."""
        return len(self.row) > self.patience

    def read(self) -> None:
        """Read the record from the device; synchronises with it."""
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
