"""Regression on solved pairs: the student's average velocity follows the teacher's own solutions.

Before training, the teacher's flow is solved from noise z to x_δ. The gap is F(z, δ) − (x_δ − z)/δ,
without gradient. At δ = 1 it is f(z, 1) − x_1: the student's sample minus the teacher's, from the
same noise. Its inner product with F has the gradient of ½ ‖F − (x_δ − z)/δ‖².
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from ffcore.flow.solver import Solver
from ffcore.interfaces import (
    Alarm,
    Batch,
    Gap,
    Gaps,
    Networks,
    PredictorObjective,
    Ratio,
    Teacher,
)
from ffcore_pairs.defaults import BATCH, DELTAS, PAIRS, SOLVER
from ffcore_pairs.trajectories import Trajectories, average_velocities, evaluations_of

ERROR = "pairs_error"
"""The number in a run's reports: √(E‖F − (x_δ − z)/δ‖² / E‖(x_δ − z)/δ‖²)."""
FITTED = 0.05
"""The error of a student that has fitted its pairs."""


class PairsPredictor(PredictorObjective):
    """Regression on a fixed number of solutions, drawn again and again.

    Args:
        pairs: number of solved trajectories.
        deltas: increasing durations in [0, 1] at which a trajectory is kept.
        solver: for the whole way from noise to data; a duration ends one of its steps.
        batch: trajectories to solve at a time.
    """

    alarms = (
        Alarm(
            number=ERROR,
            rule="stops falling",
            limit=FITTED,
            title="the student's relative error on the solved pairs",
            remedy="it cannot fit this teacher; use a larger student, such as by student.width "
            "and student.depth, or a higher optimizer.learning_rate",
        ),
    )

    def __init__(
        self,
        pairs: int = PAIRS,
        deltas: Sequence[float] = DELTAS,
        solver: Solver = SOLVER,
        batch: int = BATCH,
    ) -> None:
        self.pairs, self.deltas, self.solver, self.batch = pairs, tuple(deltas), solver, batch
        self.trajectories: Trajectories | None = None

    def self_check(self, networks: Networks, batch: Batch) -> str:
        """Solve a few trajectories, and return what all of them will cost.

        Raises FlowError if a solution is not finite, or if dopri5 fails.
        """
        with evaluations_of(networks.teacher) as evaluations:
            average_velocities(networks.teacher, batch, self.deltas, self.solver)
        each, deltas = evaluations() / len(batch.z), ", ".join(f"{d:g}" for d in self.deltas)
        return (
            f"before training, {self.pairs:,} pairs are solved, by about "
            f"{each * self.pairs:,.0f} evaluations of the teacher; the student learns δ = {deltas} "
            "and no other duration"
        )

    def prepare(self, teacher: Teacher, draw: Callable[[int, int], Batch]) -> Mapping[str, float]:
        """Solve the trajectories; return the number of evaluations of the teacher."""
        self.trajectories = Trajectories.solve(
            teacher,
            draw,
            self.pairs,
            deltas=self.deltas,
            solver=self.solver,
            batch=self.batch,
        )
        return {"teacher_evaluations": self.trajectories.evaluations}

    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        """Return one gap, F(z, δ) − (x_δ − z)/δ, at pairs and durations that the batch draws.

        Raises RuntimeError before `prepare`.
        """
        if self.trajectories is None:
            raise RuntimeError("there are no pairs yet: call prepare before gaps")
        kept, device = self.trajectories, batch.z.device
        draws = attrs.evolve(batch.draws, device="cpu")
        pair, k = draws.integers("pair", self.pairs), draws.integers("delta", len(self.deltas))
        z, condition = kept.z[pair].to(device), kept.condition[pair].to(device)
        target = kept.average_velocity[pair, k].to(device)
        delta = torch.tensor(self.deltas, dtype=z.dtype)[k].to(device)
        output = networks.student(z, torch.ones_like(delta), delta, condition)
        gap = output.detach() - target
        error = Ratio(part=_squares(gap), whole=_squares(target), root=True)
        return Gaps(gaps=(Gap(output=output, gap=gap),), numbers={ERROR: error})


def _squares(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(dim=1)
