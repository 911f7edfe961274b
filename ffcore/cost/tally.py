"""The number of rows that pass through each network in a training step, for any method.

The recipe's own objectives and balancer run real steps on stand-ins: networks of one number each,
on samples of one pixel, which count their calls. This module knows nothing about the objectives. In
a large batch, the first samples of each objective represent its whole share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import cast

import attrs
import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from ffcore.draws import Draws
from ffcore.flow.dual import Dual
from ffcore.flow.guidance import Guided, remove_guidance
from ffcore.flow.path import expand_like
from ffcore.interfaces import (
    Auxiliary,
    Balancer,
    Batch,
    Condition,
    ConditionSource,
    CorrectorObjective,
    DataSource,
    Gap,
    Gaps,
    Networks,
    Norms,
    Objective,
    PredictorObjective,
    Student,
    Teacher,
    VelocityField,
)
from ffcore.recipe import Recipe
from ffcore.recipe.components import BuildError, Parts, errors_of
from ffcore.training.distillation import Distillation

SAMPLES = 1024
"""Most samples of each objective's share in a step."""
MOST_STEPS = 32


@attrs.frozen(kw_only=True)
class Use:
    """One kind of call of a network."""

    part: str
    """"prediction", "correction", "<auxiliary> training" or "preparation of <objective>"."""
    network: str
    along: tuple[str, ...] = ()
    """The inputs along which the call also computes a derivative."""
    dual: bool = False
    """Whether dual numbers compute that derivative, in the pass with a gradient."""
    backward: bool = False
    """Whether a gradient flows back through it."""
    unconditional: bool = False
    """Whether these rows have the null condition."""

    @property
    def kind(self) -> str:
        """The use in words, without part and network."""
        words = "derivative in " + ", ".join(self.along) if self.along else "forward"
        words = words.replace("derivative", "dual forward") if self.dual else words
        words += " and backward" if self.backward else ""
        return words + (", unconditional" if self.unconditional else "")


class Tally:
    """Counts rows by use."""

    def __init__(self, conditions: ConditionSource) -> None:
        self.conditions = conditions
        self.part = ""
        """The current part of the step."""
        self.rows: Counter[Use] = Counter()

    def __deepcopy__(self, memo: object) -> Tally:
        """Return itself: a copy of a stand-in counts on the same tally."""
        return self

    def note(
        self,
        network: str,
        inputs: Mapping[str, Tensor | Dual],
        condition: Condition,
        output: Tensor | Dual,
    ) -> Tensor:
        """Count a call, and its backward if there is one; return `output`."""
        dual = isinstance(output, Dual)
        along = tuple(name for name, each in inputs.items() if _moves(each))
        null = _null_rows(condition, self.conditions)
        shares = {False: condition.size - null, True: null}
        found = {
            Use(
                part=self.part,
                network=network,
                along=along,
                dual=dual,
                unconditional=unconditional,
            ): rows
            for unconditional, rows in shares.items()
            if rows
        }
        self.rows.update(found)

        def went_back(gradient: Tensor) -> None:
            for use, rows in found.items():
                self.rows[use] -= rows
                self.rows[attrs.evolve(use, backward=True)] += rows
            found.clear()

        value = output.value if isinstance(output, Dual) else output
        if value.requires_grad:
            value.register_hook(went_back)
        return cast(Tensor, output)  # or its dual number


def _moves(each: Tensor | Dual) -> bool:
    """Whether an input has a tangent, ffcore's or torch's."""
    return isinstance(each, Dual) or unpack_dual(each).tangent is not None


def _null_rows(condition: Condition, source: ConditionSource) -> int:
    """Return the number of samples that already have the null condition."""
    try:
        null = source.null(condition)
    except ValueError:
        return 0
    others = null.tensors()
    same = [
        (found == others[name]).flatten(1).all(1) if found.ndim > 1 else found == others[name]
        for name, found in condition.tensors().items()
        if name in others and name != "guidance"
    ]
    return int(torch.stack(same).all(0).sum()) if same else 0


class StudentStandIn(Student):
    """Counts as `name`; its one number is trained if `network` has trainable parameters."""

    def __init__(self, tally: Tally, name: str, network: Student) -> None:
        super().__init__()
        self.starts_at = network.starts_at
        self.tally, self.name, self.scale = tally, name, _number(network)

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        """Return what depends on every input, and note it."""
        output = self.scale * x_t * expand_like(t + delta, x_t)
        return self.tally.note(self.name, {"x_t": x_t, "t": t, "delta": delta}, condition, output)


class VelocityStandIn(VelocityField):
    """As StudentStandIn, for a velocity."""

    def __init__(self, tally: Tally, name: str, network: VelocityField) -> None:
        super().__init__()
        self.tally, self.name, self.scale = tally, name, _number(network)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return what depends on every input, and note it."""
        output = self.scale * x_t * expand_like(1 + t, x_t)
        return self.tally.note(self.name, {"x_t": x_t, "t": t}, condition, output)


class TeacherStandIn(Teacher):
    """As VelocityStandIn, with the teacher's conditions, on one pixel of its samples."""

    def __init__(self, tally: Tally, name: str, teacher: Teacher) -> None:
        super().__init__()
        first, *rest = teacher.sample_shape
        self.sample_shape = (first, *(1 for _ in rest))
        self.conditions = teacher.conditions
        self.velocity = VelocityStandIn(tally, name, teacher)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return what depends on every input, and note it."""
        velocity: Tensor = self.velocity(x_t, t, condition)
        return velocity

    def trainable_copy(self, *, takes_guidance: bool = False) -> None:
        """Return None: the teacher itself was copied before."""
        del takes_guidance


class DataStandIn(DataSource):
    """Zeros of one pixel, with conditions as the teacher draws them."""

    def __init__(self, teacher: Teacher) -> None:
        self.sample_shape, self.conditions = teacher.sample_shape, teacher.conditions

    def __len__(self) -> int:
        return SAMPLES

    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        """Return a row for each index."""
        return torch.zeros(len(indices), *self.sample_shape), self.conditions.draw(draws)


class ObjectiveOnStandIns(PredictorObjective, CorrectorObjective):
    """An objective, in either role, with stand-ins for its auxiliary networks."""

    def __init__(
        self,
        tally: Tally,
        name: Objective,
        objective: PredictorObjective | CorrectorObjective,
        auxiliaries: Mapping[str, Auxiliary],
    ) -> None:
        self.tally, self.name, self.objective, self.given = tally, name, objective, auxiliaries
        self.needs = objective.needs

    def auxiliaries(self, student: Student, teacher: Teacher) -> Mapping[str, Auxiliary]:
        """Return the stand-ins; their losses set the part of the step."""
        del student, teacher
        return {name: self._on_stand_in(name, each) for name, each in self.given.items()}

    def _on_stand_in(self, name: str, auxiliary: Auxiliary) -> Auxiliary:
        stand_in, given = _stand_in(self.tally, name, auxiliary.network), auxiliary.loss
        if given is None:
            return attrs.evolve(auxiliary, network=stand_in)

        def loss(network: nn.Module, samples: Tensor, condition: Condition, draws: Draws) -> Tensor:
            self.tally.part = training(name)
            return given(network, samples, condition, draws)

        return attrs.evolve(auxiliary, network=stand_in, loss=loss)

    def prepare(self, teacher: Teacher, draw: Callable[[int, int], Batch]) -> Mapping[str, float]:
        """Let the objective prepare itself for the stand-ins."""
        self.tally.part = preparation(self.name)
        return self.objective.prepare(teacher, draw)

    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        """Return the objective's own answer."""
        self.tally.part = self.name
        return self.objective.gaps(networks, batch)


class BalancerOnStandIns(Balancer):
    """A balancer that splits the recipe's batch, `whole`, whatever the batch of a step."""

    def __init__(self, balancer: Balancer, whole: int) -> None:
        self.balancer, self.whole = balancer, whole

    def split(self, batch: int, step: int) -> tuple[int, int]:
        """Return the shares of the recipe's batch, each cut to `batch` samples."""
        prediction, correction = self.balancer.split(self.whole, step)
        return min(prediction, batch), min(correction, batch)

    def weights(self, objective: Objective, gap: Gap) -> Tensor:
        """Return the balancer's own answer."""
        return self.balancer.weights(objective, gap)

    def scale(self, norms: Mapping[Objective, Norms]) -> Mapping[Objective, Tensor]:
        """Return the balancer's own answer."""
        return self.balancer.scale(norms)


def preparation(objective: Objective) -> str:
    """Return the name of what an objective does before the first step."""
    return f"preparation of {objective}"


def training(auxiliary: str) -> str:
    """Return the name of the part of a step in which an auxiliary network learns."""
    return f"{auxiliary} training"


def _number(network: nn.Module) -> nn.Parameter:
    trained = any(each.requires_grad for each in network.parameters())
    return nn.Parameter(torch.full((1,), 0.5), requires_grad=trained)


def _stand_in(tally: Tally, name: str, network: nn.Module) -> nn.Module:
    if isinstance(network, Student):
        return StudentStandIn(tally, name, network)
    if isinstance(network, VelocityField):
        return VelocityStandIn(tally, name, network)
    raise BuildError(
        f"the auxiliary network {name!r} is a {type(network).__name__}: costs are known only for "
        "a Student or a VelocityField"
    )


def tally_steps(
    recipe: Recipe,
    steps: int,
    parts: Parts,
    auxiliaries: Mapping[Objective, Mapping[str, Auxiliary]],
) -> tuple[Counter[Use], list[Counter[Use]]]:
    """Run steps from the whole run, MOST_STEPS at most, on stand-ins.

    Returns the rows of the preparation before them, and the rows of each step.

    A share above SAMPLES is cut to SAMPLES, and its rows are scaled up again.

    Args:
        recipe: for the batch and the guidance.
        steps: length of the run.
        parts: its networks, meta or not.
        auxiliaries: of each objective.

    Raises BuildError if the parts do not fit together, and for an auxiliary network without a
    stand-in.
    """
    whole, guidance = recipe.training.batch, recipe.guidance
    batch = min(whole, SAMPLES)
    base = remove_guidance(parts.teacher)
    tally = Tally(base.conditions)
    teacher: Teacher = TeacherStandIn(tally, "teacher", base)
    if isinstance(parts.teacher, Guided):
        teacher = Guided(teacher, parts.teacher.interval, parts.teacher.channels)

    def on_stand_ins(
        name: Objective, objective: PredictorObjective | CorrectorObjective | None
    ) -> ObjectiveOnStandIns | None:
        if objective is None:
            return None
        return ObjectiveOnStandIns(tally, name, objective, auxiliaries[name])

    with errors_of("training"):
        distillation = Distillation(
            teacher=teacher,
            student=StudentStandIn(tally, "student", parts.student),
            predictor=on_stand_ins("prediction", parts.predictor),
            corrector=on_stand_ins("correction", parts.corrector),
            data=DataStandIn(teacher) if recipe.data is not None else None,
            balancer=BalancerOnStandIns(parts.balancer, whole),
            steps=steps,
            batch=batch,
            seed=recipe.training.seed,
            guidance=guidance.scale,
            guidance_range=guidance.range,
        )
    owners: dict[str, Objective] = {name: name for name in auxiliaries}
    owners |= {training(each): owner for each, owner in distillation.owners.items()}
    distillation.prepare()
    before = tally.rows
    count = min(MOST_STEPS, steps)
    found = []
    for index in range(count):
        distillation.step_index = index * steps // count
        shares: dict[Objective, int] = dict.fromkeys(auxiliaries, whole)
        if len(shares) == 2:
            split = parts.balancer.split(whole, distillation.step_index)
            shares["prediction"], shares["correction"] = split
        tally.rows = Counter()
        distillation.step()
        scaled: Counter[Use] = Counter()
        for use, rows in tally.rows.items():
            share = shares[owners[use.part]]
            scaled[use] = round(rows * share / min(share, batch))
        found.append(+scaled)
    return before, found
