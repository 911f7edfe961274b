"""A teacher given a vector, and sources of such conditions, as tables of recipes."""

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from ffcore.draws import Draws
from ffcore.flow.path import expand_like
from ffcore.interfaces import (
    Condition,
    ConditionSource,
    Context,
    NamedConditions,
    Student,
    Teacher,
    VelocityField,
)
from ffcore.keys import key
from ffcore.testing.small import SmallStudent

POSES = {"left": [-1.0, 0.0, 0.5], "right": [1.0, 0.0, 0.5], "up": [0.0, 1.0, -0.5]}


def poses(shift: float = 0.0) -> NamedConditions:
    """Three vectors with names, and a null vector."""
    rows = torch.tensor([*POSES.values()]) + shift
    null = Condition(size=1, pooled=torch.zeros(1, 3))
    return NamedConditions([*POSES], Condition(size=3, pooled=rows), null)


class Cloud(ConditionSource):
    """Vectors without names and without a fingerprint."""

    def draw(self, draws: Draws) -> Condition:
        return Condition(size=len(draws), pooled=draws.normal("cloud", (3,)))

    def null(self, condition: Condition) -> Condition:
        raise ValueError("a cloud has no null condition and cannot be guided")

    def texts(self, condition: Condition) -> Sequence[str]:
        assert condition.pooled is not None
        return [f"{row[0]:.1f}" for row in condition.pooled.tolist()]


class Posed(Teacher):
    """Data N(c[:2], 0.25² I) of the vector c."""

    weight: Tensor

    def __init__(self, conditions: ConditionSource, shape: tuple[int, ...] = (2,)) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(3, torch.Size(shape).numel()))
        self.sample_shape, self.conditions = shape, conditions
        self.eval()

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        assert condition.pooled is not None
        mean = (condition.pooled @ self.weight).view(x_t.shape).to(x_t.dtype)
        t = expand_like(t, x_t).to(x_t.dtype)
        slope = (t - (1 - t) / 16) / ((1 - t) ** 2 / 16 + t**2)
        velocity: Tensor = mean - slope * (x_t - (1 - t) * mean)
        return velocity

    def trainable_copy(self, *, takes_guidance: bool = False) -> VelocityField | None:
        del takes_guidance
        return None


@attrs.frozen(kw_only=True)
class Poses:
    """Three vectors with names."""

    shift: float = key(0.0, help="number to add to every vector")

    def build(self, context: Context) -> ConditionSource:
        del context
        return poses(self.shift)


@attrs.frozen(kw_only=True)
class Clouds:
    """Vectors without names."""

    def build(self, context: Context) -> ConditionSource:
        del context
        return Cloud()


@attrs.frozen(kw_only=True)
class Needy:
    """A teacher that needs conditions."""

    shape: tuple[int, ...] = key((2,), help="shape of a sample")
    needs = frozenset({"conditions"})

    def build(self, context: Context) -> Teacher:
        assert context.conditions is not None
        return Posed(context.conditions, self.shape)


@attrs.frozen(kw_only=True)
class Owner:
    """A teacher that brings its own conditions."""

    def build(self, context: Context) -> Teacher:
        del context
        return Posed(poses())


@attrs.frozen(kw_only=True)
class Boaster(Owner):
    """A teacher that says that it needs conditions, and brings its own."""

    needs = frozenset({"conditions"})


@attrs.frozen(kw_only=True)
class Small:
    """A student of any samples that reads every condition."""

    offers = frozenset({"student starts anywhere"})

    def build(self, context: Context) -> Student:
        assert context.teacher is not None
        return SmallStudent.of(context.teacher)
