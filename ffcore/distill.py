"""One training step. It knows gaps, weights and networks, and no method.

The batch is split between the two objectives; each answers with gaps; the balancer weighs every
sample and scales each objective. The loss is Σ over gaps of ⟨output, sg(scale · weight · gap)⟩ / d,
summed over samples and divided by the *global* batch, so that prediction and correction count as
one concatenated batch. Auxiliary networks then train on the objectives' samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import attrs
import torch
from torch import Tensor, nn

from ffcore import average
from ffcore.draws import Draws, epochs
from ffcore.interfaces import (
    Auxiliary,
    Balancer,
    Batch,
    Condition,
    CorrectorObjective,
    DataSource,
    Gaps,
    Networks,
    Norms,
    Objective,
    PredictorObjective,
    Student,
    Teacher,
)
from ffcore.optimizer import Optimizer

Precision = Literal["float32", "bfloat16"]


@attrs.frozen(eq=False)
class Learner:
    """A network with its optimizer and schedule."""

    network: nn.Module
    table: Optimizer
    optimizer: torch.optim.Optimizer

    @staticmethod
    def of(network: nn.Module, table: Optimizer) -> Learner:
        """Build the optimizer of a network."""
        return Learner(network, table, table.build(network.parameters()))

    def step(self, loss: Tensor, rate: float, clip: float | None) -> Tensor:
        """Descend once; `rate` is a factor on the learning rate. Return the gradient's norm."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip or float("inf"))
        for group in self.optimizer.param_groups:
            group["lr"] = self.table.learning_rate * rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


class Distillation:
    """The networks of a run, and one step of training them.

    Args:
        teacher: frozen; guided already where the run guides.
        student: trained in place.
        predictor, corrector: one of them may be None.
        data: for the objectives that need data; the others are handed none.
        balancer: weighs them.
        optimizer: of the student.
        steps: length of the run, on which the learning rates' schedules depend.
        batch: global batch size.
        seed: of every draw.
        decay: of the moving average that is evaluated.
        clip: greatest norm of a gradient, or None.
        guidance: the scale γ, handed to every network in the condition; 1: unguided.
        guidance_range: instead, (low, high) between which each sample's γ is drawn uniformly.
        precision: "bfloat16" lets the objectives' networks compute in it, by autocast; weights,
            gradients, moving averages and sums over the batch are float32 all the same.

    Raises ValueError without any objective, where the teacher has no null condition to guide,
    where an objective needs data and there is none of the teacher's shape, and where none does.
    """

    def __init__(
        self,
        *,
        teacher: Teacher,
        student: Student,
        predictor: PredictorObjective | None = None,
        corrector: CorrectorObjective | None = None,
        data: DataSource | None = None,
        balancer: Balancer,
        optimizer: Optimizer | None = None,
        steps: int,
        batch: int = 256,
        seed: int = 0,
        decay: float = 0.9999,
        clip: float | None = 1.0,
        guidance: float = 1.0,
        guidance_range: tuple[float, float] | None = None,
        precision: Precision = "float32",
        device: str = "cpu",
    ) -> None:
        given: dict[Objective, PredictorObjective | CorrectorObjective | None] = {
            "prediction": predictor,
            "correction": corrector,
        }
        self.objectives = {name: each for name, each in given.items() if each is not None}
        if not self.objectives:
            raise ValueError("a distillation needs a predictor, a corrector or both")
        self.teacher = teacher.to(device)
        self.data = data
        self._check_data()
        self.student = student.to(device)
        self.balancer = balancer
        self.steps, self.batch, self.seed, self.decay, self.clip = steps, batch, seed, decay, clip
        self.guidance, self.guidance_range, self.device = guidance, guidance_range, device
        self.precision = precision
        self.step_index = 0
        """How many steps have been made."""
        if len(self.objectives) == 2:
            for step in (0, steps - 1):
                balancer.split(batch, step)  # raises where it cannot
        self.learner = Learner.of(self.student, optimizer or Optimizer())
        self.average = average.averaged_copy(self.student)
        self.auxiliaries: dict[str, Auxiliary] = {}
        self.owners: dict[str, Objective] = {}
        """Which objective each auxiliary serves, and on whose samples it trains."""
        self._add_auxiliaries()
        self.auxiliary_learners = {
            name: Learner.of(auxiliary.network, auxiliary.optimizer)
            for name, auxiliary in self.auxiliaries.items()
            if auxiliary.optimizer is not None
        }
        if guidance != 1 or guidance_range is not None:
            self.teacher.conditions.null(self.teacher.conditions.draw(self.draws("guidance")[:1]))

    def _check_data(self) -> None:
        needing = [name for name, each in self.objectives.items() if "data" in each.needs]
        if self.data is None:
            if needing:
                raise ValueError(f"the objective of {needing[0]} needs data, and there is none")
            return
        if not needing:
            raise ValueError("there is data, and no objective needs it: leave it out")
        if not len(self.data):
            raise ValueError("data has no samples")
        if self.data.sample_shape != self.teacher.sample_shape:
            raise ValueError(
                f"data is {self.data.sample_shape}, and the teacher's samples are "
                f"{self.teacher.sample_shape}"
            )

    def _add_auxiliaries(self) -> None:
        for owner, objective in self.objectives.items():
            for name, auxiliary in objective.auxiliaries(self.student, self.teacher).items():
                if name in self.auxiliaries:
                    raise ValueError(f"both objectives name an auxiliary network {name!r}")
                auxiliary.network.to(self.device)
                self.auxiliaries[name], self.owners[name] = auxiliary, owner

    def draws(self, *purpose: str) -> Draws:
        """Return the random streams of the current step, for the whole global batch."""
        return Draws(self.seed, self.step_index, 0, self.batch, self.device).named(*purpose)

    def _guided(self, condition: Condition, draws: Draws) -> Condition:
        """Return `condition` with γ, where the run guides."""
        if self.guidance_range is not None:
            low, high = self.guidance_range
            scale = low + (high - low) * draws.uniform("guidance")
            return attrs.evolve(condition, guidance=scale)
        return condition if self.guidance == 1 else condition.at(self.guidance, self.device)

    def _shares(self) -> Iterator[tuple[Objective, int]]:
        if len(self.objectives) == 1:
            yield next(iter(self.objectives)), self.batch
            return
        prediction, correction = self.balancer.split(self.batch, self.step_index)
        shares: dict[Objective, int] = {"prediction": prediction, "correction": correction}
        yield from ((name, share) for name, share in shares.items() if share)

    def networks(self) -> Networks:
        """Return what the objectives compute with."""
        return Networks(
            student=self.student,
            teacher=self.teacher,
            auxiliaries={name: each.network for name, each in self.auxiliaries.items()},
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            torch.device(self.device).type,
            torch.bfloat16,
            enabled=self.precision == "bfloat16",
        )

    def _batch(self, objective: Objective, share: int) -> Batch:
        draws = self.draws(objective)[:share]
        data = None
        if "data" in self.objectives[objective].needs:
            data, condition = self._read(draws, share)
        else:
            condition = self.teacher.conditions.draw(draws)
        return Batch(
            z=draws.normal("z", self.teacher.sample_shape),
            condition=self._guided(condition, draws),
            draws=draws,
            data=data,
        )

    def _read(self, draws: Draws, share: int) -> tuple[Tensor, Condition]:
        """Read the data of the rows of `draws`, of `share` rows in this step."""
        assert self.data is not None
        first = self.step_index * share + draws.start
        indices = epochs(self.seed, first, first + len(draws), len(self.data))
        on_cpu = attrs.evolve(draws.named("data"), device="cpu")
        data, condition = self.data.read(indices, on_cpu)
        return data.to(self.device), condition.to(self.device)

    def self_check(self, samples: int = 8) -> list[str]:
        """Let every objective check itself on a few samples; return what they say.

        Raises ValueError where one does not work with the networks at hand.
        """
        with self._autocast():
            said = [
                objective.self_check(self.networks(), self._batch(name, min(samples, self.batch)))
                for name, objective in self.objectives.items()
            ]
        return [sentence for sentence in said if sentence]

    def step(self) -> dict[str, Tensor]:
        """Make one training step; return its metrics as scalars on the device, not yet read.

        `loss` is ½ mean of weight · ‖gap‖²/d over the batch, with the objectives' factors; the
        gradient of the step is that of the inner products above.
        """
        networks = self.networks()
        with self._autocast():
            answers = {
                name: self.objectives[name].gaps(networks, self._batch(name, share))
                for name, share in self._shares()
            }
        loss, metrics = self._balance(answers)
        rate = self.learner.table.factor(self.step_index, self.steps)
        metrics["gradient_norm"] = self.learner.step(loss, rate, self.clip)
        self._update_averages()
        for name, answer in answers.items():
            metrics |= self._train_auxiliaries(name, answer)
        self.step_index += 1
        return metrics

    def _balance(self, answers: Mapping[Objective, Gaps]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss whose gradient is the step's, and what to log."""
        weights = {
            name: [self.balancer.weights(name, gap) for gap in answer.gaps]
            for name, answer in answers.items()
        }
        norms = {name: _norms(answer, weights[name]) for name, answer in answers.items()}
        factors = self.balancer.scale(norms)
        inner, squares = [], []
        metrics: dict[str, Tensor] = {}
        for name, answer in answers.items():
            for gap, weight in zip(answer.gaps, weights[name], strict=True):
                inner.append(factors[name].to(gap.gap.dtype) * gap.inner(weight))
                squares.append(factors[name] * (weight * gap.norm() ** 2).sum())
            metrics[f"gap_{name}"] = norms[name].raw
        if len(factors) > 1:
            metrics["lambda"] = factors["correction"]
        metrics["loss"] = torch.stack(squares).sum() / (2 * self.batch)
        return torch.stack(inner).sum() / self.batch, metrics

    def _train_auxiliaries(self, objective: Objective, answer: Gaps) -> dict[str, Tensor]:
        """Train the networks of `objective` on its samples; return their losses."""
        metrics: dict[str, Tensor] = {}
        if answer.samples is None or answer.condition is None:
            return metrics
        for name, learner in self.auxiliary_learners.items():
            auxiliary = self.auxiliaries[name]
            if self.owners[name] != objective or auxiliary.loss is None:
                continue
            rate = learner.table.factor(self.step_index, self.steps)
            for update in range(auxiliary.updates):
                draws = self.draws(objective, name, str(update))[: len(answer.samples)]
                with self._autocast():
                    losses = auxiliary.loss(
                        learner.network, answer.samples, answer.condition, draws
                    )
                norm = learner.step(losses.mean(), rate, self.clip)
            metrics[f"loss_{name}"] = losses.detach().mean()
            metrics[f"gradient_norm_{name}"] = norm
        return metrics

    def _update_averages(self) -> None:
        average.update(self.average, self.student, self.decay, self.step_index)
        for auxiliary in self.auxiliaries.values():
            if auxiliary.student_average is not None:
                average.update(
                    auxiliary.network, self.student, auxiliary.student_average, self.step_index
                )


def _norms(answer: Gaps, weights: list[Tensor]) -> Norms:
    raw = torch.cat([gap.norm() for gap in answer.gaps])
    return Norms(raw=raw.mean(), weighted=(torch.cat(weights) * raw).mean())
