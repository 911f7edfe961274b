"""One training step, in terms of gaps, weights and networks, for every method.

The balancer splits the batch between the two objectives, weighs every sample of their gaps and
scales each objective. The loss is Σ over gaps of ⟨output, sg(scale · weight · gap)⟩ / d, summed
over samples and divided by the *global* batch, so prediction and correction count as one
concatenated batch. Auxiliary networks then train on the objectives' samples.

Each process (parallelize.py) and micro-batch takes a part of every objective's share. The scales
depend on the norms of the whole batch. With micro-batches they are only known after the last one,
so the objectives' gradients are kept apart until then.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import attrs
import torch
from torch import Tensor, nn

from ffcore.draws import Draws, epochs
from ffcore.flow.guidance import remove_guidance
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
    Ratio,
    Student,
    Teacher,
    VelocityField,
)
from ffcore.system.distributed import Processes, local
from ffcore.training import ema, parallelize
from ffcore.training.condition_check import check_conditions, check_null, drawn_from
from ffcore.training.defaults import BATCH, CLIP, EMA_DECAY
from ffcore.training.finite import Diverged, FiniteCheck
from ffcore.training.learner import Learner
from ffcore.training.network_check import (
    TIMES,
    check_kinds,
    check_networks,
    first_failure,
    put_in_eval_mode,
)
from ffcore.training.optimizer import Optimizer
from ffcore.training.parallelize import Strategy
from ffcore.training.stopwatch import Stopwatch
from ffcore.training.tensors import check_tensors

_LOG = logging.getLogger("ffcore")
Precision = Literal["float32", "bfloat16"]
SECTIONS: dict[Objective, str] = {"prediction": "predictor", "correction": "corrector"}
"""Names of the stopwatch's sections for the objectives."""
WEIGHTS = "the weights"


class WrongAnswer(ValueError):
    """An objective's result cannot be trained on. The message names its class."""


@attrs.frozen(kw_only=True, eq=False)
class Answer:
    """An objective's result for one part of its share, weighed by the balancer."""

    inner: Tensor
    """Σ of weight · ⟨output, gap⟩ / d, with gradient; a scalar."""
    sums: Tensor
    """Σ of ‖gap‖/√d, of weight · ‖gap‖/√d, of weight · ‖gap‖²/d, and their number: Float[4]."""
    part: slice
    """Its rows of the objective's share."""
    samples: Tensor | None
    condition: Condition | None
    numbers: Mapping[str, Ratio]
    """The objective's own numbers, summed over samples."""

    @staticmethod
    def of(gaps: Gaps, weights: Sequence[Tensor], part: slice) -> Answer:
        """Weigh an objective's gaps; `weights` has one Float[B'] for each gap."""
        norms = torch.cat([gap.norm() for gap in gaps.gaps])
        weight = torch.cat([*weights])
        sums = [norms.sum(), (weight * norms).sum(), (weight * norms**2).sum()]
        return Answer(
            inner=torch.stack(
                [gap.inner(each) for gap, each in zip(gaps.gaps, weights, strict=True)]
            ).sum(),
            sums=torch.stack([*sums, torch.full_like(sums[0], len(norms))]).detach(),
            part=part,
            samples=gaps.samples,
            condition=gaps.condition,
            numbers={name: _summed([each]) for name, each in gaps.numbers.items()},
        )


def _check_whole(name: str, found: object, low: int) -> None:
    if type(found) is not int or found < low:
        raise ValueError(f"{name}: must be a whole number, at least {low}, found {found!r}")


def _check_decays(decays: object) -> None:
    try:
        found = [*decays]  # type: ignore[misc]
    except TypeError:
        found = []
    if not found or not all(isinstance(each, int | float) and 0 <= each < 1 for each in found):
        raise ValueError(
            "ema_decays: must be a list of numbers, at least 0 and below 1, as in [0.999], found "
            f"{decays!r}"
        )


class Distillation:
    """The networks of a run, and one step of training them.

    Args:
        teacher: frozen, and already guided if the run guides.
        student: trained in place.
        predictor, corrector: the objectives; one may be None.
        data: data for the objectives that need it.
        balancer: weighs the objectives' gaps.
        optimizer: optimizer of the student.
        steps: length of the run, on which the learning rates' schedules depend.
        batch: global batch size.
        seed: seed of every draw.
        ema_decays: decays of the student's EMAs.
        clip: greatest norm of a gradient, or None.
        guidance: scale γ, which every network gets in the condition; 1 is unguided.
        guidance_range: (low, high) to draw each sample's γ from uniformly, instead of `guidance`.
        precision: "bfloat16" runs the objectives' networks under autocast. Weights, gradients,
            EMAs and sums over the batch stay float32.
        accumulation: micro-batches per step, in each process.
        skip: number of steps in a row that may be skipped because they are not finite.

    Raises ValueError for impossible numbers, without an objective, for guidance with a teacher
    without a null condition, if an objective needs data but there is none of the teacher's shape,
    and for data that no objective needs.
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
        batch: int = BATCH,
        seed: int = 0,
        ema_decays: Sequence[float] = (EMA_DECAY,),
        clip: float | None = CLIP,
        guidance: float = 1.0,
        guidance_range: tuple[float, float] | None = None,
        precision: Precision = "float32",
        accumulation: int = 1,
        skip: int = 0,
        device: str = "cpu",
    ) -> None:
        given: dict[Objective, PredictorObjective | CorrectorObjective | None] = {
            "prediction": predictor,
            "correction": corrector,
        }
        self.objectives = {name: each for name, each in given.items() if each is not None}
        if not self.objectives:
            raise ValueError("a distillation needs a predictor, a corrector or both")
        for name, number, low in (("steps", steps, 1), ("batch", batch, 1), ("seed", seed, 0)):
            _check_whole(name, number, low)
        _check_decays(ema_decays)
        check_kinds(teacher, student)
        self.teacher = teacher.to(device)
        self.data = data
        self._check_data()
        check_tensors(student, "the student", device)
        self.student = student.to(device)
        self.balancer = balancer
        self.steps, self.batch, self.seed, self.clip = steps, batch, seed, clip
        self.guidance, self.guidance_range, self.device = guidance, guidance_range, device
        self.precision = precision
        self.accumulation = accumulation
        self.processes = Processes()
        self.time = Stopwatch(device)
        self.finite_check = FiniteCheck(skip, device)
        self.step_index = 0
        """Number of steps made."""
        self.checked = False
        """Whether `self_check` has passed."""
        self._notes = put_in_eval_mode(teacher, student)
        self.preparation: dict[str, float] | None = None
        """Numbers of the objectives' preparation, by "predictor/…" or "corrector/…"; None before
        it."""
        self.numbers: dict[str, Ratio] = {}
        """The objectives' own numbers in the last step: this process's sums over samples."""
        self._check_shares()
        self.learner = Learner.of(self.student, optimizer or Optimizer())
        self.emas = {decay: ema.ema_copy(self.student) for decay in ema_decays}
        """The student's EMAs by decay."""
        self.auxiliaries: dict[str, Auxiliary] = {}
        self.owners: dict[str, Objective] = {}
        """The objective of each auxiliary, which trains on that objective's samples."""
        self._add_auxiliaries()
        self.auxiliary_learners = {
            name: Learner.of(auxiliary.network, auxiliary.optimizer)
            for name, auxiliary in self.auxiliaries.items()
            if auxiliary.optimizer is not None
        }
        if self.guides:
            source = self.teacher.conditions
            check_null(source, drawn_from(source, self.draws("guidance")[:1]))

    @property
    def ema(self) -> Student:
        """The first EMA."""
        return next(iter(self.emas.values()))

    @property
    def guides(self) -> bool:
        """Whether the teacher is guided."""
        return self.guidance != 1 or self.guidance_range is not None

    @property
    def scheduled(self) -> bool:
        """Whether a learning rate depends on the length of the run."""
        learners = [self.learner, *self.auxiliary_learners.values()]
        return any(each.table.schedule != "constant" for each in learners)

    def prepare(self) -> dict[str, float]:
        """Prepare the objectives for training, the first time; return the numbers they report.

        Call it after `parallelize`. `step` calls it too.
        """
        if self.preparation is None:
            self.preparation = {
                f"{SECTIONS[name]}/{number}": float(value)
                for name, objective in self.objectives.items()
                for number, value in objective.prepare(self.teacher, self._drawing(name)).items()
            }
        return self.preparation

    def _drawing(self, objective: Objective) -> Callable[[int, int], Batch]:
        def draw(start: int, stop: int) -> Batch:
            draws = Draws(self.seed, 0, start, stop, self.device).named(objective, "preparation")
            return self._prior(draws)

        return draw

    def step(self) -> dict[str, Tensor]:
        """Make one training step; return its metrics as scalars on the device.

        `loss` is ½ mean of weight · ‖gap‖²/d over the batch, with the objectives' factors; the
        step's gradient is that of the inner products above. Each process has its own metrics:
        average them over the processes.

        A step that is not finite counts but changes no weight. If an auxiliary network's gradient
        is not finite, the step skips that update and all later ones.

        Raises Diverged like `check`, which it sometimes calls.
        """
        self.prepare()
        self.finite_check.begin()
        shares = self._shares(self.step_index)
        answers, metrics = self._gradient(shares)
        self.numbers = {
            number: _summed([each.numbers[number] for each in answers[name]])
            for name, _ in shares
            for number in answers[name][0].numbers
        }
        rate = self.learner.table.factor(self.step_index, self.steps)
        with self.time("optimizer"):
            self.learner.complete(self.processes)
            metrics["gradient_norm"] = self.learner.clip(self.clip)
            self.finite_check.admit(metrics)
            self.learner.step(rate, self.finite_check.finite)
        with self.time("ema"):
            self._update_emas()
        for name, share in shares:
            metrics |= self._train_auxiliaries(name, share, answers[name])
        self.finite_check.end(self.step_index)
        self.step_index += 1
        if self.finite_check.full:
            self.check()
        return metrics

    def _gradient(
        self, shares: Sequence[tuple[Objective, int]]
    ) -> tuple[dict[Objective, list[Answer]], dict[str, Tensor]]:
        """Leave the step's gradient in the student; return the answers and the metrics."""
        return (
            self._gradient_at_once(shares)
            if self.accumulation == 1
            else self._gradient_by_parts(shares)
        )

    def _gradient_at_once(
        self, shares: Sequence[tuple[Objective, int]]
    ) -> tuple[dict[Objective, list[Answer]], dict[str, Tensor]]:
        """Leave the step's gradient in the student, with one backward pass for all objectives."""
        answers = {name: self._answer(name, share, 0) for name, share in shares}
        factors, metrics = self._factors({name: each.sums for name, each in answers.items()})
        inner = torch.stack(
            [factors[name].to(each.inner.dtype) * each.inner for name, each in answers.items()]
        )
        with self.time("backward"):
            self._backward(self.learner, inner.sum(), self.batch)
        return {name: [each] for name, each in answers.items()}, metrics

    def _gradient_by_parts(
        self, shares: Sequence[tuple[Objective, int]]
    ) -> tuple[dict[Objective, list[Answer]], dict[str, Tensor]]:
        """Leave the step's gradient in the student, one micro-batch at a time."""
        answers: dict[Objective, list[Answer]] = {}
        gradients = {}
        for name, share in shares:
            answers[name] = []
            for micro in range(self.accumulation):
                with parallelize.silent(self.learner.network, micro + 1 < self.accumulation):
                    answer = self._answer(name, share, micro)
                    with self.time("backward"):
                        self._backward(self.learner, answer.inner, self.batch)
                answers[name].append(attrs.evolve(answer, inner=answer.inner.detach()))
            gradients[name] = self.learner.take_gradients()
        factors, metrics = self._factors(
            {
                name: torch.stack([each.sums for each in parts]).sum(0)
                for name, parts in answers.items()
            }
        )
        self.learner.give_gradients([(factors[name], gradients[name]) for name, _ in shares])
        return answers, metrics

    def _answer(self, objective: Objective, share: int, micro: int) -> Answer:
        part = self._part(share, micro)
        with self.time(SECTIONS[objective]), self._autocast():
            gaps = self.objectives[objective].gaps(
                self.networks(), self._batch(objective, share, part)
            )
        if wrong := _wrong(gaps, part.stop - part.start):
            kind = type(self.objectives[objective])
            where = f"{kind.__module__}:{kind.__qualname__}"
            raise WrongAnswer(f"the objective of {objective} ({where}) returned {wrong}")
        weights = [self.balancer.weights(objective, gap) for gap in gaps.gaps]
        return Answer.of(gaps, weights, part)

    def _factors(
        self, sums: Mapping[Objective, Tensor]
    ) -> tuple[Mapping[Objective, Tensor], dict[str, Tensor]]:
        """Return the balancer's factors for a batch whose parts here have these sums, and metrics.

        One small message adds the sums over all processes.
        """
        together = dict(zip(sums, self.processes.total(torch.stack([*sums.values()])), strict=True))
        norms = {
            name: Norms(raw=raw / count, weighted=weighted / count)
            for name, (raw, weighted, _, count) in together.items()
        }
        factors = self.balancer.scale(norms)
        metrics = {f"gap_{name}": each.raw for name, each in norms.items()}
        if len(factors) > 1:
            metrics["lambda"] = factors["correction"]
        squares = [factors[name] * each[2] for name, each in together.items()]
        metrics["loss"] = torch.stack(squares).sum() / (2 * self.batch)
        return factors, metrics

    def _backward(self, learner: Learner, total: Tensor, count: int) -> None:
        """Add the gradient of `total` / count; `total` is a sum over this process's samples.

        Processes average their gradients, but the loss needs their sum.
        """
        parallelize.reach(learner.network, total * self.processes.size / count).backward()

    def _update_emas(self) -> None:
        step, finite = self.step_index, self.finite_check.finite
        for decay, kept in self.emas.items():
            ema.update(kept, self.student, decay, step, finite)
        for auxiliary in self.auxiliaries.values():
            if auxiliary.ema_decay is not None:
                ema.update(auxiliary.network, self.student, auxiliary.ema_decay, step, finite)

    def _train_auxiliaries(
        self, objective: Objective, share: int, answers: Sequence[Answer]
    ) -> dict[str, Tensor]:
        """Train the networks of `objective` on its samples; return their losses."""
        metrics: dict[str, Tensor] = {}
        for name, learner, loss in self._auxiliary_gradients(objective, share, answers):
            rate = learner.table.factor(self.step_index, self.steps)
            with self.time(f"{name} network"):
                learner.complete(self.processes)
                norm = learner.clip(self.clip)
                self.finite_check.admit({f"gradient_norm_{name}": norm})
                learner.step(rate, self.finite_check.finite)
            metrics |= {f"loss_{name}": loss, f"gradient_norm_{name}": norm}
        return metrics

    def _auxiliary_gradients(
        self, objective: Objective, share: int, answers: Sequence[Answer]
    ) -> Iterator[tuple[str, Learner, Tensor]]:
        """Yield each network, with its gradient, and its loss, once per update."""
        if any(answer.samples is None or answer.condition is None for answer in answers):
            return
        for name, learner in self.auxiliary_learners.items():
            auxiliary = self.auxiliaries[name]
            if self.owners[name] != objective:
                continue
            for update in range(auxiliary.updates):
                draws = self.draws(objective, name, str(update))
                with self.time(f"{name} network"):
                    loss = self._auxiliary_gradient(auxiliary, learner, draws, share, answers)
                yield name, learner, loss

    def _auxiliary_gradient(
        self,
        auxiliary: Auxiliary,
        learner: Learner,
        draws: Draws,
        share: int,
        answers: Sequence[Answer],
    ) -> Tensor:
        """Leave the gradient of the mean loss in an auxiliary network; return that loss.

        This is the process's loss; the mean over all processes is the loss of the whole share.
        """
        assert auxiliary.loss is not None
        total = torch.zeros((), device=self.device)
        for answer in answers:
            assert answer.samples is not None
            assert answer.condition is not None
            with parallelize.silent(learner.network, answer is not answers[-1]):
                with self._autocast():
                    losses = auxiliary.loss(
                        learner.network, answer.samples, answer.condition, draws[answer.part]
                    )
                self._backward(learner, losses.sum(), share)
            total = total + losses.detach().sum()
        return total * self.processes.size / share

    def check(self) -> None:
        """Raise Diverged if more than `skip` steps in a row were skipped.

        Synchronises with the device; all processes must call it.
        """
        self.finite_check.read()
        if not self.finite_check.halted:
            return
        (step, names), (last, _) = (
            self.finite_check.row[0],
            self.finite_check.row[self.finite_check.patience],
        )
        with (
            first_failure("teacher", self.teacher) as teachers,
            first_failure("student", self.student) as students,
        ):
            again = self._not_finite_in(step)
        failures = [each for each in self.processes.each(teachers) if each]
        own = [each for each in self.processes.each(students) if each]
        steps = f"step {step + 1}" if step == last else f"steps {step + 1} to {last + 1}"
        message = f"{steps}: NaN or infinity in {', '.join(names)}."
        if again and not failures:
            message += f"\nRepeating the step shows NaN or infinity in {again}."
        advice = [] if failures else ["a lower learning rate"]
        if self.finite_check.patience == 0:
            advice.append("training.on_nonfinite = 'skip'")
        causes = failures or ([] if again.startswith(WEIGHTS) else own)
        message += "".join(f"\nThe cause: {each}." for each in causes[:1])
        message += "\nNo weight was changed." + (f" Try {', or '.join(advice)}" if advice else "")
        raise self.processes.alike(Diverged(message))

    def _not_finite_in(self, step: int) -> str:
        """Repeat a step up to its gradients; return the names of what is not finite."""
        now, self.step_index = self.step_index, step
        shares = self._shares(step)
        answers, _ = self._gradient(shares)
        for name, share in shares:
            for _ in self._auxiliary_gradients(name, share, answers[name]):
                pass  # they add up
        self.step_index = now
        networks: dict[str, nn.Module] = {"student": self.student}
        networks |= {name: self.auxiliaries[name].network for name in self.auxiliary_learners}
        named = {
            f"{owner}/{name}": each
            for owner, network in networks.items()
            for name, each in network.named_parameters()
        }
        gradients = {name: each.grad for name, each in named.items() if each.grad is not None}
        for learner in (self.learner, *self.auxiliary_learners.values()):
            learner.take_gradients()
        if weights := self._not_finite(named):
            return f"{WEIGHTS} {weights}"
        found = self._not_finite(gradients)
        return found and f"the gradients of {found}"

    def _not_finite(self, named: Mapping[str, Tensor]) -> str:
        """Return the names of the first few that are not finite in any process."""
        wrong = [~each.isfinite().all() for each in local(named.values())]
        counts = self.processes.total(torch.stack(wrong).float()).tolist()
        found = [name for name, count in zip(named, counts, strict=True) if count]
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        return ", ".join(found[:5]) + more

    def draws(self, *purpose: str) -> Draws:
        """Return the random streams of the current step, for the whole global batch."""
        return Draws(self.seed, self.step_index, 0, self.batch, self.device).named(*purpose)

    def _shares(self, step: int) -> list[tuple[Objective, int]]:
        """Return the objectives with a share of the batch at `step`, with its size."""
        if len(self.objectives) == 1:
            return [(next(iter(self.objectives)), self.batch)]
        prediction, correction = self.balancer.split(self.batch, step)
        shares: list[tuple[Objective, int]] = [
            ("prediction", prediction),
            ("correction", correction),
        ]
        return [(name, share) for name, share in shares if share]

    def _part(self, share: int, micro: int) -> slice:
        """Return the rows of a share in one micro-batch of this process."""
        parts = self.processes.size * self.accumulation
        index = self.processes.rank * self.accumulation + micro
        return slice(share * index // parts, share * (index + 1) // parts)

    def _batch(self, objective: Objective, share: int, part: slice) -> Batch:
        draws = self.draws(objective)[part]
        if "data" not in self.objectives[objective].needs:
            return self._prior(draws)
        data, condition = self._read(draws, share)
        return self._with_noise(condition, draws, data)

    def _prior(self, draws: Draws) -> Batch:
        return self._with_noise(self.teacher.conditions.draw(draws), draws)

    def _with_noise(self, condition: Condition, draws: Draws, data: Tensor | None = None) -> Batch:
        return Batch(
            z=draws.normal("z", self.teacher.sample_shape),
            condition=self._with_guidance(condition, draws),
            draws=draws,
            data=data,
        )

    def _read(self, draws: Draws, share: int) -> tuple[Tensor, Condition]:
        """Read the data for the rows of `draws`, of the step's `share` rows."""
        assert self.data is not None
        first = self.step_index * share + draws.start
        indices = epochs(self.seed, first, first + len(draws), len(self.data))
        on_cpu = attrs.evolve(draws.named("data"), device="cpu")
        data, condition = self.data.read(indices, on_cpu)
        return data.to(self.device), condition.to(self.device)

    def _with_guidance(self, condition: Condition, draws: Draws) -> Condition:
        """Return `condition`, with γ if the run guides."""
        if self.guidance_range is not None:
            low, high = self.guidance_range
            scale = low + (high - low) * draws.uniform("guidance")
            return attrs.evolve(condition, guidance=scale)
        return condition if self.guidance == 1 else condition.at(self.guidance, self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            torch.device(self.device).type,
            torch.bfloat16,
            enabled=self.precision == "bfloat16",
        )

    def networks(self) -> Networks:
        """Return the objectives' networks."""
        return Networks(
            student=self.learner.network,  # type: ignore[arg-type] # or its wrapper
            teacher=self.teacher,
            auxiliaries={name: each.network for name, each in self.auxiliaries.items()},
        )

    def self_check(self, samples: int = 8) -> list[str]:
        """Check conditions and networks on a few samples, then let every objective check itself.

        An own loop of steps calls it once before. `parallelize` and `train` call `check_once`.
        Returns sentences to report.

        Raises ConditionError if the source of conditions breaks its contract, NetworkError if a
        network does, ValueError if an objective's check fails.
        """
        few = min(samples, self.batch)
        asked = Draws(self.seed, 0, 0, len(TIMES), self.device).named("self-check")
        networks = {
            "teacher": self.teacher,
            "student": self.student,
            **{f"network {name!r}": each.network for name, each in self.auxiliaries.items()},
        }
        with self._autocast():
            check_conditions(self.teacher.conditions, asked, guided=self.guides)
            said = [*self._notes, *check_networks(networks, self._prior(asked))]
            found = [
                objective.self_check(self.networks(), self._batch(name, few, slice(few)))
                for name, objective in self.objectives.items()
            ]
        self.checked = True
        return said + [sentence for sentence in found if sentence]

    def check_once(self) -> None:
        """Call `self_check` if nobody has, and log its sentences."""
        if not self.checked:
            for sentence in self.self_check():
                _LOG.info(sentence)

    def parallelize(
        self,
        processes: Processes,
        strategy: Strategy = "ddp",
        *,
        activation_checkpointing: bool = False,
        compiled: bool = False,
    ) -> None:
        """Share the work with other processes, and set up checkpointing and compilation.

        Call it before the first step, and after everything that copies a network or reads its
        weights, because it changes networks in place.

        Args:
            processes: processes that hold the same networks as this one.
            strategy: what each process stores; see ffcore/training/parallelize.py.
            activation_checkpointing: whether the backward pass recomputes activations.
            compiled: whether torch.compile compiles the networks.

        Raises ValueError if the batch is too small for so many processes or must not be divided, if
        a network cannot be sharded, and like `check_once`.
        """
        self.check_once()
        self.processes = processes
        self._check_shares()
        teacher = remove_guidance(self.teacher)  # some callers use it without this guidance
        auxiliaries = [each.network for each in self.auxiliaries.values()]
        if activation_checkpointing:
            for network in (self.student, *auxiliaries):
                parallelize.recompute(network)
        if compiled:
            for network in (teacher, self.student, *auxiliaries):
                parallelize.compile_units(network)
        if processes.size == 1:
            return
        if strategy == "fsdp":
            self._shard(teacher)
        self.learner = self._distribute(self.learner, strategy)
        self.auxiliary_learners = {
            name: self._distribute(each, strategy) for name, each in self.auxiliary_learners.items()
        }

    def _shard(self, teacher: Teacher) -> None:
        """Shard all networks; `teacher` is the unguided one."""
        batch = self._prior(self.draws("sharding")[:2])
        z, ones, condition = batch.z, torch.ones(len(batch.z), device=self.device), batch.condition
        students = {"the student": self.student}
        students |= {f"the EMA {decay:g}": each for decay, each in self.emas.items()}
        fields: dict[str, nn.Module] = {"the teacher": teacher}
        fields |= {f"the network {name!r}": each.network for name, each in self.auxiliaries.items()}
        with self._autocast():
            for name, student in students.items():
                call = functools.partial(student, z, ones, ones, condition)
                parallelize.shard(student, self.device, name, call)
            for name, field in fields.items():
                known = isinstance(field, VelocityField)
                call = functools.partial(field, z, ones, condition)
                parallelize.shard(field, self.device, name, call if known else None)

    def _distribute(self, learner: Learner, strategy: Strategy) -> Learner:
        network = learner.network
        if strategy == "ddp":
            network = parallelize.replicate(network, keeps_gradients=self.accumulation > 1)
        return Learner.of(network, learner.table)

    def _check_shares(self) -> None:
        """Raise ValueError if the balancer cannot split the batch, or a part has no sample."""
        parts = self.processes.size * self.accumulation
        coupled = [name for name, each in self.objectives.items() if "whole batch" in each.needs]
        if parts > 1 and coupled:
            raise ValueError(
                f"the objective of {coupled[0]} couples the samples of a batch, but "
                f"{self.processes.size} processes × {self.accumulation} micro-batches would divide "
                "it: use one of each, or another objective"
            )
        for step in {0, self.steps - 1}:
            for name, share in self._shares(step):
                if share < parts:
                    raise ValueError(
                        f"{name} has {share} of the batch's {self.batch} samples, but "
                        f"{self.processes.size} processes × {self.accumulation} micro-batches need "
                        "one each: use a larger batch, or fewer processes or micro-batches"
                    )

    def _check_data(self) -> None:
        needing = [name for name, each in self.objectives.items() if "data" in each.needs]
        if self.data is None:
            if needing:
                raise ValueError(f"the objective of {needing[0]} needs data, but there is none")
            return
        if not needing:
            raise ValueError("there is data, but no objective needs it: leave it out")
        if not len(self.data):
            raise ValueError("data has no samples")
        if self.data.sample_shape != self.teacher.sample_shape:
            raise ValueError(
                f"data is {self.data.sample_shape}, but the teacher's samples are "
                f"{self.teacher.sample_shape}"
            )

    def _add_auxiliaries(self) -> None:
        for owner, objective in self.objectives.items():
            for name, auxiliary in objective.auxiliaries(self.student, self.teacher).items():
                if name in self.auxiliaries:
                    raise ValueError(f"both objectives name an auxiliary network {name!r}")
                check_tensors(auxiliary.network, f"the network {name!r}", self.device)
                auxiliary.network.to(self.device)
                self.auxiliaries[name], self.owners[name] = auxiliary, owner


def _summed(ratios: Sequence[Ratio]) -> Ratio:
    """Return the sums of a number's parts and wholes, as scalars."""
    return Ratio(
        part=torch.stack([each.part.double().sum() for each in ratios]).sum(),
        whole=torch.stack([each.whole.double().sum() for each in ratios]).sum(),
        root=ratios[0].root,
    )


def _wrong(gaps: object, size: int) -> str:
    """Return what is wrong with an objective's result for a batch of `size`, if anything."""
    if not isinstance(gaps, Gaps):
        return f"{type(gaps).__name__}, not Gaps: let its `gaps` return Gaps(gaps=(gap, …))"
    if not all(gap.output.requires_grad for gap in gaps.gaps):
        return (
            "an output without gradient, which would train nothing: take it from the student's "
            "forward, not detached and not under torch.no_grad"
        )
    if gaps.samples is not None and len(gaps.samples) != size:
        return f"{len(gaps.samples)} samples for a batch of {size}: return one for each"
    return ""
