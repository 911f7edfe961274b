"""Small networks that fulfil their contracts, for testing components."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ffcore.draws import Draws
from ffcore.flow.exact import Gaussian
from ffcore.flow.path import expand_like
from ffcore.interfaces import (
    Condition,
    ConditionSource,
    FrozenTeacher,
    Labels,
    NamedConditions,
    Student,
    Teacher,
    Unconditional,
    VelocityField,
)

WIDTH = 16
POSES = NamedConditions(
    ("left", "right", "up"),
    Condition(size=3, pooled=torch.tensor([[-1.0, 0.0, 0.5], [1.0, 0.0, 0.5], [0.0, 1.0, -0.5]])),
    null=Condition(size=1, pooled=torch.zeros(1, 3)),
)
"""Three vectors with names, and a null vector."""
MEAN, SCALE = (0.5, -0.3), 0.7
"""Of the exact teacher for short training runs."""


class SmallVelocity(VelocityField):
    """A smooth, trainable velocity of any sample shape that depends on all its inputs."""

    def __init__(
        self,
        shape: tuple[int, ...],
        labels: int,
        takes_guidance: bool = False,
        features: int = 0,
    ) -> None:
        super().__init__()
        self.shape, self.labels, self.features = shape, labels, features
        dimensions = torch.Size(shape).numel()
        self.enter = nn.Linear(dimensions + 1, WIDTH)
        self.label = nn.Embedding(labels, WIDTH) if labels else None
        self.given = nn.Linear(features, WIDTH) if features else None
        self.guidance = nn.Linear(1, WIDTH, bias=False) if takes_guidance else None
        self.leave = nn.Linear(WIDTH, dimensions)
        if self.guidance is not None:
            nn.init.zeros_(self.guidance.weight)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the velocity; see VelocityField."""
        h = self.enter(torch.cat([x_t.flatten(1), t[:, None].to(x_t.dtype)], dim=1))
        if self.label is not None:
            h = h + self.label(condition.label)
        if self.given is not None:
            h = h + self.given(features_of(condition).to(x_t.dtype))
        if self.guidance is not None:
            gamma = torch.ones_like(t) if condition.guidance is None else condition.guidance
            h = h + self.guidance(gamma[:, None].to(x_t.dtype))
        out: Tensor = self.leave(torch.tanh(h)).unflatten(1, self.shape).to(x_t.dtype)
        return out

    def trainable_copy(self, takes_guidance: bool) -> SmallVelocity:
        """Return a trainable copy, with an input for γ if requested."""
        copied = SmallVelocity(self.shape, self.labels, takes_guidance, self.features)
        copied.load_state_dict(self.state_dict(), strict=False)
        return copied


class SmallStudent(Student):
    """An average velocity from anywhere that depends on all its inputs."""

    starts_at = "anywhere"

    def __init__(self, shape: tuple[int, ...], labels: int, features: int = 0) -> None:
        super().__init__()
        self.start = SmallVelocity(shape, labels, takes_guidance=True, features=features)
        self.slope = SmallVelocity(shape, labels, takes_guidance=True, features=features)
        for each in (self.start, self.slope):
            assert each.guidance is not None
            nn.init.normal_(each.guidance.weight, std=0.1)

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        """Return F; see Student."""
        start: Tensor = self.start(x_t, t, condition)
        slope: Tensor = self.slope(x_t, delta, condition)
        return start + expand_like(delta, x_t).to(x_t.dtype) * slope

    @staticmethod
    def of(teacher: Teacher) -> SmallStudent:
        """Return a student for a teacher, with weights from global random state."""
        return SmallStudent(teacher.sample_shape, *_reads(teacher.conditions))


class GaussianVelocity(VelocityField):
    """The exact velocity for data N(μ, SCALE² I), which can learn μ."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(MEAN))
        self.centred = Gaussian([0.0] * len(MEAN), SCALE)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the centred velocity, shifted by μ; see VelocityField."""
        away = x_t - expand_like(1 - t, x_t) * self.mean
        centred: Tensor = self.centred(away, t, condition)
        return (self.mean + centred).to(x_t.dtype)


class GaussianStudent(Student):
    """The exact average velocity for data N(MEAN, SCALE² I), plus a constant that can learn."""

    starts_at = "anywhere"

    def __init__(self, offset: Tensor) -> None:
        super().__init__()
        self.offset = nn.Parameter(offset.clone())
        self.exact = Gaussian(MEAN, SCALE)

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        """Return F + offset; see Student."""
        found = self.exact.average_velocity(x_t, delta, condition, t)
        return (found + self.offset).to(x_t.dtype)


def small_teacher(shape: tuple[int, ...], classes: int) -> Teacher:
    """Return a network as a teacher, with labels, a null label, a copy and random weights."""
    return teacher_given(shape, Labels(classes, null_label=classes))


def teacher_given(shape: tuple[int, ...], conditions: ConditionSource) -> Teacher:
    """Return a network as a teacher with these conditions, a copy and random weights."""
    labels, features = _reads(conditions)
    velocity = SmallVelocity(shape, labels, features=features)
    return FrozenTeacher(velocity, shape, conditions, velocity.trainable_copy)


def features_of(condition: Condition) -> Tensor:
    """Return all numbers of a condition but its label and its scale: Float[B, K].

    Tokens count as their mean.
    """
    found = [torch.zeros(condition.size, 0)]
    if condition.embedding is not None:
        tokens = condition.embedding
        counts = torch.ones(tokens.shape[:2]) if condition.mask is None else condition.mask
        weights = counts.to(tokens)[:, :, None]
        found.append((weights * tokens).sum(1) / weights.sum(1).clamp(min=1))
    found += [each.flatten(1) for each in (condition.pooled, condition.image) if each is not None]
    return torch.cat(found, dim=1)


def _reads(source: ConditionSource) -> tuple[int, int]:
    """Return the number of labels, the null label included, and of other numbers."""
    labels = source.classes + 1 if isinstance(source, Labels) else 0
    return labels, features_of(source.draw(Draws(0, 0, 0, 1))).shape[1]


def gaussian_teacher() -> Teacher:
    """Return the exact teacher of N(MEAN, SCALE² I), which can be copied to train."""
    return FrozenTeacher(GaussianVelocity(), (len(MEAN),), Unconditional())
