"""The recipe table of the predictor on solved pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import attrs

from ffcore.flow.solver import Solver
from ffcore.keys import ImpossibleValue, key
from ffcore_pairs.defaults import BATCH, DELTAS, PAIRS, SOLVER, steps_between

if TYPE_CHECKING:
    from ffcore.interfaces import Context, PredictorObjective
    from ffcore.recipe import Recipe

FLOAT32 = 4
"""Bytes per number."""


@attrs.frozen(kw_only=True)
class Pairs:
    """The baseline that solves the teacher's flow before training and regresses on the results."""

    pairs: int = key(
        PAIRS,
        help="number of pairs of noise and the teacher's solution from it, drawn again and again",
        at_least=1,
    )
    deltas: tuple[float, ...] = key(
        DELTAS,
        help=(
            "increasing durations δ at which each solution is kept and learnt, equally often; "
            "multiples of 1 / solver.steps. [1.0] is nearest in one step, but other durations are "
            "not learnt; with [0.25, 0.5, 0.75, 1.0] they are"
        ),
        at_least=0,
        at_most=1,
    )
    solver: Solver = key(
        factory=lambda: SOLVER, help="solver for the teacher's flow from noise to data"
    )
    batch: int = key(BATCH, help="pairs per batch of the solver", at_least=1)
    memory: float = key(
        4.0, help="most memory of the CPU that the pairs may take in a process, in GB", above=0
    )

    @classmethod
    def examples(cls) -> Iterator[Pairs]:
        """Yield a few pairs, at δ = 1 alone and at several durations."""
        yield cls(pairs=64, solver=Solver(steps=8), batch=24)
        yield cls(pairs=64, deltas=(0.0, 0.25, 1.0), solver=Solver(method="rk4", steps=4))

    def __attrs_post_init__(self) -> None:
        ends = (0.0, *self.deltas)
        if not self.deltas or any(a >= b for a, b in pairwise(self.deltas)):
            raise ImpossibleValue("deltas", list(self.deltas), "at least one, each above the last")
        if any(steps_between(self.solver, a, b) is None for a, b in pairwise(ends)):
            possible = f"multiples of 1 / {self.solver.steps}, because solver.steps is that number"
            raise ImpossibleValue("deltas", list(self.deltas), possible)

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError for more pairs than `memory` allows."""
        self._check(getattr(recipe.teacher, "sample_shape", None))

    def _check(self, shape: tuple[int, ...] | None) -> None:
        if shape is None:
            return
        each = FLOAT32 * math.prod(shape) * (1 + len(self.deltas))
        most = int(self.memory * 1e9 / each)
        if self.pairs > most:
            possible = (
                f"at most {most:,}: a pair of samples {shape}, kept at {len(self.deltas)} "
                f"durations, takes {each:,} bytes, and memory is {self.memory:g} GB"
            )
            raise ImpossibleValue("pairs", self.pairs, possible)

    def build(self, context: Context) -> PredictorObjective:
        """Return the objective. Raises ValueError like `check_recipe`."""
        from ffcore_pairs.objective import PairsPredictor

        assert context.teacher is not None
        self._check(context.teacher.sample_shape)
        return PairsPredictor(self.pairs, self.deltas, self.solver, self.batch)
