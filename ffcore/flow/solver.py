"""How a teacher's flow dx/dδ = u(x, 1 − δ) is integrated: the method, and what it costs.

Explicit Runge–Kutta methods on a uniform grid, each a table of stages, and dopri5 with adaptive
steps. Torch-free: a recipe holds a Solver, `ffcore/flow/ode.py` carries it out.
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
    """An explicit Runge–Kutta method: stage i is at nodes[i], from the stages before it."""

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
    """When the velocity is evaluated, one time t for each stage."""
    length: float
    tableau: Tableau


@attrs.frozen
class Solver:
    """How a flow is integrated.

    REPA's published sampler is `Solver("heun", …, gate="step")`, in its code with
    `last_step="euler"`.
    """

    method: Method = key(
        "heun",
        help="euler (order 1), heun, midpoint (2), rk4 (4), or dopri5 (adaptive)",
        validator=Possible(one_of=get_args(Method)),
    )
    steps: int = key(64, help="steps of equal length; dopri5 chooses its own", at_least=1)
    gate: Literal["step", "evaluation"] = key(
        "evaluation",
        help="whether a step's first time decides on guidance, or each evaluation's own time",
        validator=Possible(one_of=("step", "evaluation")),
    )
    last_step: Literal["full", "euler"] = key(
        "full",
        help="whether the last step is like the others, or one of Euler",
        validator=Possible(one_of=("full", "euler")),
    )
    tolerance: float = key(1e-6, help="relative and absolute tolerance of dopri5", above=0)

    def __attrs_post_init__(self) -> None:
        if self.method == "dopri5" and (self.gate, self.last_step) != ("evaluation", "full"):
            raise ValueError(
                "dopri5 chooses its own steps: gate must be 'evaluation' and last_step 'full'"
            )

    def grid(self, start: float = 1.0, stop: float = 0.0) -> Iterator[Step]:
        """Yield the steps from time `start` down to `stop`; none but dopri5 lacks a grid."""
        assert self.method != "dopri5"
        for index in range(self.steps):
            last = index == self.steps - 1
            tableau = TABLEAUS["euler" if last and self.last_step == "euler" else self.method]
            begin, end = (_point(start, stop, self.steps, i) for i in (index, index + 1))
            times = (end if node == 1 else begin - node * (begin - end) for node in tableau.nodes)
            yield Step(tuple(times), begin - end, tableau)

    def nfe(self, interval: tuple[float, float] | None = None) -> int | None:
        """Return the network evaluations of one sample; None for dopri5, which decides as it goes.

        Args:
            interval: the times at which guidance doubles an evaluation; None: unguided.
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

    It multiplies and adds with one rounding, from either end, so that both are met exactly. A
    published guidance interval may end on a point, and then the last bit decides.
    """
    length = Fraction((stop - start) / steps)
    if index < (steps + 1) // 2:
        return float(Fraction(start) + length * index)
    return float(Fraction(stop) - length * (steps - index))
