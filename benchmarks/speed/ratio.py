"""Ratios of times: their median over rounds, their quartiles, and whether they can be quoted.

What is compared takes turns, so a round has all times of one comparison. The ratio is taken within
each round, which other work on the machine slows as a whole, and then its median over the rounds.

A ratio is **too noisy to quote** where its quartiles lie further apart than a tenth of its median,
or where fewer than 5 rounds were made, whose quartiles say nothing. What slows one side alone in
every round alike, no rule can see.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import attrs

LEAST_ROUNDS = 5
WIDEST = 0.1
"""How far the quartiles may lie apart, in units of the median."""
NOISY = "too noisy to quote"


@attrs.frozen
class Ratio:
    """What a ratio was in each round, at least one."""

    rounds: tuple[float, ...]

    def __attrs_post_init__(self) -> None:
        if not self.rounds:
            raise ValueError("a ratio is of at least one round, found none: make more rounds")

    @classmethod
    def of(cls, over: Sequence[float], under: Sequence[float]) -> Ratio:
        """Return over ÷ under, round by round.

        Raises ValueError where one has more rounds than the other.
        """
        if len(over) != len(under):
            raise ValueError(
                f"the rounds of a ratio are pairs, found {len(over)} times over {len(under)}: "
                "leave out the rounds that only one of them has"
            )
        return cls(tuple(a / b for a, b in zip(over, under, strict=True)))

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper quartile, between the least and the greatest of the rounds."""
        if len(self.rounds) == 1:
            return self.rounds[0], self.rounds[0]
        low, _, high = statistics.quantiles(self.rounds, n=4, method="inclusive")
        return low, high

    @property
    def noisy(self) -> bool:
        """Whether it is too noisy to quote; see the module."""
        low, high = self.quartiles
        return len(self.rounds) < LEAST_ROUNDS or high - low > WIDEST * abs(self.median)

    def __format__(self, spec: str) -> str:
        """Write "median (lower quartile – upper quartile)", each number by `spec`."""
        low, high = self.quartiles
        told = f"{self.median:{spec}} ({low:{spec}} – {high:{spec}})"
        return f"{told} {NOISY}" if self.noisy else told
