"""Objectives and balancers that do nothing but what a test can compute by hand."""

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from ffcore.interfaces import (
    Auxiliary,
    Balancer,
    Batch,
    Condition,
    Context,
    CorrectorObjective,
    Gap,
    Gaps,
    Networks,
    Norms,
    Objective,
    PredictorObjective,
    Student,
    Teacher,
)


def towards(factor: float, student: Student, batch: Batch) -> Gap:
    """The gap of F(z, δ) to `factor` · data, or where there is none · z, at drawn durations."""
    delta = batch.draws.uniform("delta")
    output = student(batch.z, torch.ones_like(delta), delta, batch.condition)
    goal = batch.z if batch.data is None else batch.data
    return Gap(output=output, gap=(output - factor * goal).detach())


class Towards(PredictorObjective):
    """Moves F(z, δ) towards factor · data or z; keeps its batches."""

    def __init__(self, factor: float = 0.5, needs: frozenset[str] = frozenset()) -> None:
        self.factor = factor
        self.needs = needs
        self.batches: list[Batch] = []

    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        self.batches.append(batch)
        return Gaps(gaps=(towards(self.factor, networks.student, batch),))


@attrs.frozen(kw_only=True)
class TowardsData:
    """A recipe's table of an objective that needs data: `type = "objectives:TowardsData"`."""

    needs = frozenset({"data"})

    def build(self, context: Context) -> Towards:
        del context
        return Towards(needs=self.needs)


class Correct(CorrectorObjective):
    """The same as a corrector, with the auxiliaries it is given, and samples for them."""

    def __init__(
        self, factor: float = -2.0, auxiliaries: Mapping[str, Auxiliary] | None = None
    ) -> None:
        self.factor = factor
        self.given = auxiliaries or {}
        self.batches: list[Batch] = []

    def auxiliaries(self, student: Student, teacher: Teacher) -> Mapping[str, Auxiliary]:
        del student, teacher
        return self.given

    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        self.batches.append(batch)
        gap = towards(self.factor, networks.student, batch)
        return Gaps(gaps=(gap,), samples=batch.z, condition=batch.condition)


class Even(Balancer):
    """Half and half, every weight and factor 1."""

    def split(self, batch: int, step: int) -> tuple[int, int]:
        del step
        return batch - batch // 2, batch // 2

    def weights(self, objective: Objective, gap: Gap) -> Tensor:
        del objective
        return torch.ones_like(gap.norm())

    def scale(self, norms: Mapping[Objective, Norms]) -> Mapping[Objective, Tensor]:
        return {name: torch.ones_like(each.raw) for name, each in norms.items()}


def pull(network: torch.nn.Module, samples: Tensor, condition: Condition, draws: object) -> Tensor:
    """An auxiliary's loss: it should map samples to zero."""
    del draws
    velocity: Tensor = network(samples, torch.ones(len(samples)), condition)
    return velocity.square().flatten(1).mean(1)
