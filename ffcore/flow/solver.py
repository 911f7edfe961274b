"""Solvers of a teacher's flow dx/dδ = u(x, 1 − δ): the method and its cost.

Explicit Runge–Kutta methods on a uniform grid, each a table of stages, and dopri5 with adaptive
steps. Torch-free: a recipe has a Solver, and `ffcore/flow/ode.py` runs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Literal, get_args

import attrs

from ffcore.keys import Possible, key

Method = Literal["euler", "heun", "midpoint", "rk4", "dopri5"]


@attrs.frozen
class Tableau:
    """An explicit Runge–Kutta method; stage i is at nodes[i] and uses the stages before it."""

    order: int
    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


TABLEAUS: dict[str, Tableau] = {
    "euler": Tableau(1, (0.0,), ((),), (1.0,)),
    "heun": Tableau(2, (0.0, 1.0), ((), (1.0,)), (0.5, 0.5)),
    "midpoint": Tableau(2, (0.0, 0.5), ((), (0.5,)), (0.0, 1.0)),
    "rk4": Tableau(
        4,
        (0.0, 0.5, 0.5, 1.0),
        ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
}


@attrs.frozen
class Step:
    """One step of a fixed grid."""

    times: tuple[float, ...]
    """Times t of the evaluations, one for each stage."""
    length: float
    tableau: Tableau


@attrs.frozen
class Solver:
    """The method to integrate a flow.

    REPA's published sampler is `Solver("heun", …, gate="step")`; its code also has
    `last_step="euler"`.
    """

    method: Method = key(
        "heun",
        help="euler (order 1), heun or midpoint (order 2), rk4 (order 4) or dopri5 (adaptive)",
        validator=Possible(one_of=get_args(Method)),
    )
    steps: int = key(64, help="steps of equal length; dopri5 chooses its own", at_least=1)
    gate: Literal["step", "evaluation"] = key(
        "evaluation",
        help="guidance acts by the first time of a step, or by the time of each evaluation",
        validator=Possible(one_of=("step", "evaluation")),
    )
    last_step: Literal["full", "euler"] = key(
        "full",
        help="full: the last step is like the others; euler: it is an Euler step",
        validator=Possible(one_of=("full", "euler")),
    )
    tolerance: float = key(1e-6, help="relative and absolute tolerance of dopri5", above=0)

    def __attrs_post_init__(self) -> None:
        if self.method == "dopri5" and (self.gate, self.last_step) != ("evaluation", "full"):
            raise ValueError(
                "dopri5 chooses its own steps: gate must be 'evaluation' and last_step 'full'"
            )

    def grid(self, start: float = 1.0, stop: float = 0.0) -> Iterator[Step]:
        """Yield the steps from time `start` down to `stop`. dopri5 has no grid."""
        assert self.method != "dopri5"
        for index in range(self.steps):
            last = index == self.steps - 1
            tableau = TABLEAUS["euler" if last and self.last_step == "euler" else self.method]
            begin, end = (_point(start, stop, self.steps, i) for i in (index, index + 1))
            times = (end if node == 1 else begin - node * (begin - end) for node in tableau.nodes)
            yield Step(tuple(times), begin - end, tableau)

    def nfe(self, interval: tuple[float, float] | None = None) -> int | None:
        """Return the network evaluations per sample; None for dopri5, which adapts its steps.

        Args:
            interval: times at which guidance doubles an evaluation; None: unguided.
        """
        if self.method == "dopri5":
            return None
        return sum(
            1 + (interval is not None and interval[0] <= gated <= interval[1])
            for step in self.grid()
            for gated in (step.times[:1] * len(step.times) if self.gate == "step" else step.times)
        )


def _point(start: float, stop: float, steps: int, index: int) -> float:
    """Return a point of the grid from start to stop, rounded as torch.linspace rounds it.

    torch.linspace multiplies and adds with one rounding, from the nearer end, so that both ends are
    exact. If a published guidance interval ends on a grid point, the last bit decides.
    """
    length = Fraction((stop - start) / steps)
    if index < (steps + 1) // 2:
        return float(Fraction(start) + length * index)
    return float(Fraction(stop) - length * (steps - index))
