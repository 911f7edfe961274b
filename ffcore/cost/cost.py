"""The cost of a recipe: the bytes of each network, and the FLOPs of a step by part."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

import attrs
import torch
from torch import nn

from ffcore.cost.memory import Memory
from ffcore.cost.row import Row
from ffcore.cost.tally import Use, tally_steps, training
from ffcore.draws import Draws
from ffcore.flow.guidance import remove_guidance
from ffcore.interfaces import (
    Auxiliary,
    Condition,
    CorrectorObjective,
    Objective,
    PredictorObjective,
    Student,
    Teacher,
)
from ffcore.nn.lora import ZerosOnMeta
from ffcore.recipe import Recipe
from ffcore.recipe.components import BuildError, Parts, errors_of, parts


@attrs.frozen(kw_only=True)
class Network:
    """One network of a run."""

    name: str
    parameters: int
    trainable: int
    """Number of parameters that an optimizer updates."""
    whole: Memory
    """Memory on each GPU if each holds everything."""
    sharded: Memory
    """Memory on each GPU if every tensor is sharded."""


@attrs.frozen(kw_only=True)
class Activations:
    """An estimate of the activations that a network keeps from forward to backward.

    These are the tensors that autograd saves, with fused attention and without activation
    checkpointing. Temporary buffers, the objectives' own tensors and fragmentation are not counted.
    """

    network: str
    row: int
    """Bytes of one row in float32; in bfloat16 half of it."""
    rows: int
    """On one GPU, in one backward."""

    @property
    def float32(self) -> int:
        """Bytes on one GPU in float32."""
        return self.rows * self.row

    @property
    def bfloat16(self) -> int:
        """Bytes on one GPU in bfloat16."""
        return self.float32 // 2


@attrs.frozen(kw_only=True)
class Pass:
    """Rows of one kind through one network, in a step or before all steps."""

    part: str
    """"prediction", "correction", "<auxiliary> training" or "preparation of <objective>"."""
    network: str
    kind: str
    rows: float
    """In a mean step, over the global batch; or in the preparation of one process."""
    row: int
    """FLOPs of one row."""

    @property
    def flops(self) -> float:
        """FLOPs of all rows."""
        return self.rows * self.row


@attrs.frozen(kw_only=True)
class Cost:
    """The cost of a recipe, by counting, without running it."""

    gpus: int
    batch: int
    steps: int
    """Of the run."""
    networks: tuple[Network, ...]
    """Teacher, student and auxiliary networks; the student includes its EMA."""
    activations: tuple[Activations, ...]
    """Activations of each trained network; they do not train at the same time."""
    passes: tuple[Pass, ...]
    """All parts of one optimizer step."""
    preparation: tuple[Pass, ...]
    """What the objectives do once, before the first step; every process does it."""
    teacher_nfe: int | None
    """NFE of one sample of the teacher's reference sampler; None if adaptive."""
    teacher_row: int
    """FLOPs of one evaluation of the teacher, unguided."""
    student_row: int
    """FLOPs of one sample of the student, in one step."""

    @property
    def flops(self) -> float:
        """FLOPs of a mean step."""
        return sum(each.flops for each in self.passes)

    @property
    def run_flops(self) -> float:
        """FLOPs of all steps, and of the preparation in each process, one on each GPU."""
        prepared = sum(each.flops for each in self.preparation)
        return self.steps * self.flops + self.gpus * prepared

    def memory(self, *, sharded: bool) -> Memory:
        """Return the memory of all networks on one GPU."""
        held = (each.sharded if sharded else each.whole for each in self.networks)
        return sum(held, Memory())

    @staticmethod
    def of(recipe: Recipe, gpus: int = 8) -> Cost:
        """Count the cost of a recipe on `gpus` GPUs; weights are read only if their sizes are
        unknown.

        The rows of a step are means over steps from the whole run, since the split of a batch may
        change later, and the number of guided rows depends on drawn times.

        Raises BuildError if the parts do not fit together, or if a network lacks a derivative that
        the recipe needs; MissingFile and WeightsError if sizes are known only from a file.
        """
        if (length := recipe.training.steps) is None:
            raise BuildError(
                "[training] minutes become steps only when a run times them, so their cost is not "
                "known before: use --set training.steps=1000 --set training.minutes=none"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.training.seed)
            found = parts(recipe, meta=True)
            auxiliaries = _auxiliaries(found)
        flat = {name: each for named in auxiliaries.values() for name, each in named.items()}
        before, steps = tally_steps(recipe, length, found, auxiliaries)
        rows = _rows(recipe, found, flat)
        flops = _Flops(rows)
        guided = recipe.guidance.interval if recipe.guidance.scale != 1 else None
        return Cost(
            gpus=gpus,
            batch=recipe.training.batch,
            steps=length,
            networks=tuple(_networks(found, flat, gpus)),
            activations=tuple(_activations(steps, rows, flat, gpus)),
            passes=tuple(_passes(steps, flops)),
            preparation=tuple(_passes([before], flops)),
            teacher_nfe=recipe.evaluation.solver.nfe(guided),
            teacher_row=flops.forward("teacher"),
            student_row=flops.forward("student"),
        )


def _auxiliaries(found: Parts) -> Mapping[Objective, Mapping[str, Auxiliary]]:
    objectives: dict[Objective, PredictorObjective | CorrectorObjective | None] = {
        "prediction": found.predictor,
        "correction": found.corrector,
    }
    with errors_of("training"), ZerosOnMeta():
        return {
            name: each.auxiliaries(found.student, found.teacher)
            for name, each in objectives.items()
            if each is not None
        }


def _networks(found: Parts, auxiliaries: Mapping[str, Auxiliary], gpus: int) -> Iterator[Network]:
    def network(
        name: str, module: nn.Module, *, learns: bool = False, has_ema: bool = False
    ) -> Network:
        numbers = [(each.numel(), each.requires_grad) for each in module.parameters()]
        return Network(
            name=name,
            parameters=sum(count for count, _ in numbers),
            trainable=sum(count for count, trained in numbers if trained and learns),
            whole=Memory.of(module, learns=learns, has_ema=has_ema),
            sharded=Memory.of(module, learns=learns, has_ema=has_ema, gpus=gpus),
        )

    yield network("teacher", remove_guidance(found.teacher))
    yield network("student", found.student, learns=True, has_ema=True)
    for name, each in auxiliaries.items():
        yield network(name, each.network, learns=each.optimizer is not None)


def _rows(recipe: Recipe, found: Parts, auxiliaries: Mapping[str, Auxiliary]) -> Mapping[str, Row]:
    """Return a row for each network, with a sample and condition as in a step."""
    teacher = remove_guidance(found.teacher)
    condition = teacher.conditions.draw(Draws(recipe.training.seed, 0, 0, 1))
    if recipe.guidance.guides:
        condition = condition.at(recipe.guidance.scale)
    networks: dict[str, nn.Module] = {"teacher": teacher, "student": found.student}
    networks |= {name: each.network for name, each in auxiliaries.items()}
    return {name: _row(each, teacher, condition) for name, each in networks.items()}


def _row(network: nn.Module, teacher: Teacher, condition: Condition) -> Row:
    names = ("x_t", "t", "delta") if isinstance(network, Student) else ("x_t", "t")
    return Row.of(network, names, teacher.sample_shape, condition)


@attrs.frozen(eq=False)
class _Flops:
    """FLOPs of a row of each network, counted once each."""

    rows: Mapping[str, Row]
    known: dict[tuple[str, tuple[str, ...] | None, bool], int] = attrs.field(factory=dict)

    def of(self, use: Use) -> int:
        back = self.backward(use.network) if use.backward else 0
        return self.forward(use.network, use.along, dual=use.dual) + back

    def forward(self, network: str, along: tuple[str, ...] = (), *, dual: bool = False) -> int:
        key = network, along, dual
        if key not in self.known:
            try:
                self.known[key] = self.rows[network].forward(along, dual=dual)
            except RuntimeError as error:
                if not along:
                    raise
                raise BuildError(
                    f"the recipe needs a derivative of the {network} along {', '.join(along)}, "
                    f"but its network has no forward mode: {error}"
                ) from error
        return self.known[key]

    def backward(self, network: str) -> int:
        key = network, None, False
        if key not in self.known:
            self.known[key] = self.rows[network].backward()
        return self.known[key]


def _passes(steps: list[Counter[Use]], flops: _Flops) -> Iterator[Pass]:
    rows = sum(steps, Counter[Use]())
    parts = list(dict.fromkeys(use.part for use in rows))
    networks = ["student", *flops.rows]

    def order(use: Use) -> tuple[int, int, bool, str]:
        return parts.index(use.part), networks.index(use.network), not use.backward, use.kind

    for use in sorted(rows, key=order):
        yield Pass(
            part=use.part,
            network=use.network,
            kind=use.kind,
            rows=rows[use] / len(steps),
            row=flops.of(use),
        )


def _activations(
    steps: list[Counter[Use]],
    rows: Mapping[str, Row],
    auxiliaries: Mapping[str, Auxiliary],
    gpus: int,
) -> Iterator[Activations]:
    backwards = {"student": ({"prediction", "correction"}, 1)}
    """For each trained network, the parts that one backward covers, and the number of backwards."""
    for name, each in auxiliaries.items():
        if each.optimizer is not None:
            backwards[name] = ({training(name)}, each.updates)
    for name, (covered, count) in backwards.items():
        most = max(
            sum(
                number
                for use, number in step.items()
                if use.backward and use.network == name and use.part in covered
            )
            for step in steps
        )
        yield Activations(
            network=name, row=rows[name].saved_bytes(), rows=math.ceil(most / count / gpus)
        )
