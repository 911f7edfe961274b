"""One small component of each role that keeps every law: what the broken ones are made from."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from objectives import Even
from torch import Tensor, nn
from trackers import Diary

from ffcore.draws import Draws
from ffcore.flow.derivative import jvp
from ffcore.flow.flow_map import generating_velocity, push
from ffcore.flow.path import interpolate
from ffcore.interfaces import (
    Auxiliary,
    Batch,
    ClassFeatures,
    Condition,
    Context,
    CorrectorObjective,
    DataSource,
    Decoder,
    Features,
    Gap,
    Gaps,
    Labels,
    NamedConditions,
    Networks,
    PredictorObjective,
    Student,
    Teacher,
)
from ffcore.recipe.needs import ANYWHERE, COPY
from ffcore.testing.small import POSES, SmallStudent, SmallVelocity, features_of
from ffcore.training.optimizer import Optimizer


class Tutor(Teacher):
    """A teacher of vectors with two classes and a null label."""

    sample_shape = (2,)

    def __init__(self) -> None:
        super().__init__()
        self.field = SmallVelocity((2,), 3)
        self.conditions = Labels(2, null_label=2)
        self.requires_grad_(False).eval()

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        found: Tensor = self.field(x_t, t, condition)
        return found

    def trainable_copy(self, *, takes_guidance: bool = False) -> Any:
        return self.field.trainable_copy(takes_guidance)


class Follow(PredictorObjective):
    """v_G − u, with hooks for what can go wrong."""

    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        delta = batch.draws.uniform("delta")
        ones = torch.ones_like(delta)
        output = networks.student(batch.z, ones, delta, batch.condition)
        with torch.no_grad():
            F = output.detach()
            slope = jvp(
                lambda d: networks.student(batch.z, ones, d, batch.condition), (delta,), (ones,)
            )
            v_G = generating_velocity(F, slope, delta)
            point = push(batch.z, F, delta)
            u = networks.teacher(point, self.time(delta), batch.condition)
        return Gaps(gaps=(Gap(output=output, gap=v_G - u),))

    def time(self, delta: Tensor) -> Tensor:
        return 1 - delta


class Pull:
    """v_N − u with an online network, for either kind of objective."""

    def auxiliaries(self, student: Student, teacher: Teacher) -> Mapping[str, Auxiliary]:
        del student
        network = teacher.trainable_copy()
        if network is None:
            raise ValueError("this teacher cannot be copied")
        return {"online": self.learning(network)}

    def learning(self, network: nn.Module) -> Auxiliary:
        return Auxiliary(network=network, optimizer=Optimizer(), loss=self.loss)

    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        output = self.output(networks, batch)
        samples = push(batch.z, output.detach(), torch.ones(len(batch.z)))
        gap = self.gap(networks, batch, samples)
        return Gaps(gaps=(Gap(output=output, gap=gap),), samples=samples, condition=batch.condition)

    def output(self, networks: Networks, batch: Batch) -> Tensor:
        ones = torch.ones(len(batch.z))
        found: Tensor = networks.student(batch.z, ones, ones, batch.condition)
        return found

    @torch.no_grad()
    def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
        r, noise = batch.draws.uniform("r"), batch.draws.normal("n", tuple(batch.z.shape[1:]))
        I_r = interpolate(samples, noise, r)
        v_N = networks.auxiliaries["online"](I_r, r, batch.condition)
        found: Tensor = v_N - networks.teacher(I_r, r, batch.condition)
        return found

    def loss(
        self, network: nn.Module, samples: Tensor, condition: Condition, draws: Draws
    ) -> Tensor:
        r, noise = draws.uniform("r"), draws.normal("n", tuple(samples.shape[1:]))
        velocity = network(interpolate(samples, noise, r), r, condition)
        found: Tensor = (velocity - (samples - noise)).square().flatten(1).mean(1)
        return found

    def self_check(self, networks: Networks, batch: Batch) -> Any:
        del networks, batch
        return "nothing to find"


class PullCorrector(Pull, CorrectorObjective):
    pass


class PullPredictor(Pull, PredictorObjective):
    pass


class Flat(Features):
    name = "flat"

    def forward(self, samples: Tensor) -> Tensor:
        return samples.flatten(1)


class Halves(Flat, ClassFeatures):
    """Two classes, by the sign of the mean; sound."""

    classes = 2

    def logits(self, features: Tensor) -> Tensor:
        return torch.stack([-features.mean(1), features.mean(1)], 1)


class Straight(Decoder):
    def forward(self, samples: Tensor) -> Tensor:
        return samples.float()


class Trio(NamedConditions):
    """Three vectors with names, and a null vector."""

    def __init__(self) -> None:
        super().__init__(POSES.names, POSES.conditions, POSES.null_condition)


class Numbered(DataSource):
    """Twenty samples of noise, their classes in turn, with a little more noise at each reading."""

    def __init__(self, teacher: Teacher) -> None:
        self.sample_shape = teacher.sample_shape
        self.source = teacher.conditions
        generator = torch.Generator().manual_seed(0)
        self.samples = torch.randn(20, *self.sample_shape, generator=generator)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        noise = 0.1 * draws.normal("noise", self.sample_shape)
        return self.samples[indices] + noise, Condition(
            size=len(indices), label=self.labels(indices)
        )

    def labels(self, indices: Tensor) -> Tensor | None:
        source = self.source
        return indices % source.classes if isinstance(source, Labels) else None


def _student(kind: type, context: Context) -> Any:
    assert context.teacher is not None
    classes = context.classes
    labels = 0 if classes is None else classes + 1
    return kind(context.teacher.sample_shape, labels, **_features(context.teacher))


def _network(kind: type, context: Context) -> Any:
    assert context.teacher is not None
    classes, ranged = context.classes, context.guidance_range is not None
    labels = 0 if classes is None else classes + 1
    given = _features(context.teacher)
    return kind(context.teacher.sample_shape, labels, takes_guidance=ranged, **given)


def _features(teacher: Teacher) -> dict[str, int]:
    """How many numbers conditions have beside labels, if any."""
    count = features_of(teacher.conditions.draw(Draws(0, 0, 0, 1))).shape[1]
    return {"features": count} if count else {}


MAKERS: dict[str, Callable[[type, Context], Any]] = {
    "student": _student,
    "network": _network,
    "data": lambda kind, context: kind(context.teacher),
}
"""How a class of a role is made for a context; others take nothing."""

NEEDS = {"predictor": frozenset({COPY}), "corrector": frozenset({COPY})}
OFFERS = {"teacher": frozenset({COPY}), "student": frozenset({ANYWHERE})}


def table(role: str, kind: type, **declared: Any) -> Any:
    """Return an instance of a table without keys that builds `kind`, in the manner of its role."""

    class Table:
        """A table of the tests."""

        needs = NEEDS.get(role, frozenset())
        offers = OFFERS.get(role, frozenset())

        def build(self, context: Context) -> Any:
            make = MAKERS.get(role, lambda kind, context: kind())
            return make(kind, context)

    for name, value in declared.items():
        setattr(Table, name, value)
    return attrs.frozen(Table)()


HEALTHY = {
    "teacher": table("teacher", Tutor),
    "student": table("student", SmallStudent),
    "predictor": table("predictor", Follow, needs=frozenset()),
    "corrector": table("corrector", PullCorrector),
    "conditions": table("conditions", Trio),
    "data": table("data", Numbered),
    "balancer": table("balancer", Even),
    "network": table("network", SmallVelocity),
    "features": table("features", Halves),
    "decoder": table("decoder", Straight),
    "tracker": table("tracker", Diary),
}
