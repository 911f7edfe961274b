"""The recipe tables of the perceptrons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ffcore.keys import Proposal, StartsFromStudent, key

if TYPE_CHECKING:
    from ffcore.interfaces import Context, Student, VelocityField
    from ffcore.recipe import Recipe


def _check_vectors(who: str, teacher: Any, scales: tuple[float, float] | None) -> None:
    """Raise ValueError for a range of γ, and for samples known not to be vectors."""
    shape = getattr(teacher, "sample_shape", None)
    if shape is not None and len(shape) != 1:
        raise ValueError(f"{who} is for vectors, but the teacher's samples are {shape}")
    if scales is not None:
        raise ValueError(f"{who} has no input for γ: leave out guidance.range")


def _dimension(who: str, context: Context) -> int:
    """Return the dimension of the teacher's vectors. Raises ValueError like `_check_vectors`."""
    assert context.teacher is not None
    _check_vectors(who, context.teacher, context.guidance_range)
    return context.teacher.sample_shape[0]


def _pooled(who: str, context: Context) -> int:
    """Return the length of a condition's vector, 0 without one. Raises ValueError for conditions
    that a perceptron cannot read."""
    from ffcore.nn.conditions import read_fields

    assert context.teacher is not None
    (length,) = read_fields(who, context.teacher.conditions, {"label", "pooled"}).get(
        "pooled", (0,)
    )
    return length


@attrs.frozen(kw_only=True)
class MlpStudent(StartsFromStudent):
    """F(x_t, t, δ, c) as a perceptron."""

    starts_at: Literal["prior", "anywhere"] = key(
        "prior", help="start of the flow map: at t = 1 only, or at every t, which F then reads"
    )
    width: int = key(128, help="units of each hidden layer", at_least=1)
    depth: int = key(3, help="hidden layers", at_least=1)

    @classmethod
    def examples(cls) -> Iterator[MlpStudent]:
        """Yield one of each start."""
        yield cls()
        yield cls(starts_at="anywhere")

    @classmethod
    def propose(cls, context: Context) -> Proposal | None:
        """Propose a student for vectors whose conditions it can read."""
        assert context.teacher is not None
        shape = context.teacher.sample_shape
        try:
            _dimension("student mlp", context), _pooled("student mlp", context)
        except ValueError:
            return None
        return Proposal(
            rank=1,
            why=f"made for vectors, here of {shape[0]}",
            tree={
                "student": {"width": 384, "depth": 5},
                "optimizer": {"learning_rate": 1e-3, "warmup": 100, "schedule": "cosine"},
                "balancer": {"power": 0.0},
                "training": {"steps": 12_000, "batch": 256, "ema_decay": 0.999, "threads": 1},
            },
            reasons={
                "student.width": "carries rings, spirals and moons",
                "training.steps": "with fewer, more samples stay between the modes",
                "training.threads": "a small network is fastest with one",
                "optimizer.learning_rate": "a network from scratch",
                "balancer.power": "large gaps lie between modes, and must count",
            },
        )

    @property
    def offers(self) -> frozenset[str]:
        """Offer flow maps from anywhere, if `starts_at` says so."""
        return frozenset({"student starts anywhere"} if self.starts_at == "anywhere" else ())

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError for a range of γ, and for samples known not to be vectors."""
        _check_vectors("student mlp", recipe.teacher, recipe.guidance.range)

    def build(self, context: Context) -> Student:
        """Return a student for the teacher of `context`, which must have vector samples."""
        from ffcore_mlp.student import MlpAverageVelocity

        return MlpAverageVelocity(
            _dimension("student mlp", context),
            context.classes or 0,
            self.width,
            self.depth,
            self.starts_at,
            _pooled("student mlp", context),
            context.moments if self.starts_at == "prior" else None,
        )


@attrs.frozen(kw_only=True)
class MlpNetwork:
    """u(x_t, t, c) as a perceptron."""

    width: int = key(128, help="units of each hidden layer", at_least=1)
    depth: int = key(3, help="hidden layers", at_least=1)

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError for a range of γ, and for samples known not to be vectors."""
        _check_vectors("network mlp", recipe.teacher, recipe.guidance.range)

    def build(self, context: Context) -> VelocityField:
        """Return a network for the teacher of `context`, which must have vector samples."""
        from ffcore_mlp.student import MlpVelocity

        return MlpVelocity(
            _dimension("network mlp", context),
            context.classes or 0,
            self.width,
            self.depth,
            _pooled("network mlp", context),
            context.moments,
        )
