"""Small teachers and students whose answers are known."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ffcore.flow.exact import Gaussian
from ffcore.flow.path import expand_like
from ffcore.interfaces import (
    Condition,
    ConditionSource,
    Student,
    Teacher,
    Unconditional,
    VelocityField,
)


class ExactStudent(Student):
    """The exact average velocity of a Gaussian, moved by `offset` at every duration."""

    def __init__(
        self,
        teacher: Gaussian,
        offset: float = 0.0,
        starts_at: Literal["prior", "anywhere"] = "prior",
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.offset = offset
        self.starts_at = starts_at

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        start = t if self.starts_at == "anywhere" else None
        return self.teacher.average_velocity(x_t, delta, condition, start) + self.offset


class FunctionStudent(Student):
    """F(z, δ) = function(z, δ), scaled by a parameter that is 1."""

    starts_at = "prior"

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.function = function

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        del t, condition
        return self.scale.to(x_t) * self.function(x_t, delta)


class Precise(nn.Module):
    """Answers in float64 whatever the input: nothing casts them."""

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return nn.Module.__call__(self, *inputs, **named)


class LinearStudent(Precise, Student):
    """F(z, δ) = (A + δ B) z + b, in float64 whatever the input."""

    starts_at = "prior"

    def __init__(self, dimension: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.A, self.B, self.b = drawn(dimension, dimension), drawn(dimension, dimension), drawn(1)

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        del t, condition
        z = x_t.double()
        return z @ self.A.T + expand_like(delta, z).double() * (z @ self.B.T) + self.b


class LinearVelocity(VelocityField):
    """u(x, t) = A x + t b, for use as a network that learns."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.eye(dimension))
        self.b = nn.Parameter(torch.zeros(dimension))

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        del condition
        return x_t @ self.A.T.to(x_t) + expand_like(t, x_t) * self.b.to(x_t)


class FieldTeacher(Teacher):
    """A teacher that keeps what it was asked: the points, times and conditions of each call."""

    def __init__(
        self,
        velocity: Callable[[Tensor, Tensor, Condition], Tensor],
        sample_shape: tuple[int, ...],
        conditions: ConditionSource | None = None,
    ) -> None:
        super().__init__()
        self.velocity = velocity
        self.sample_shape = sample_shape
        self.conditions = conditions or Unconditional()
        self.calls: list[tuple[Tensor, Tensor, Condition]] = []

    @staticmethod
    def around(teacher: Teacher) -> "FieldTeacher":
        """The same teacher, watched."""
        return FieldTeacher(teacher, teacher.sample_shape, teacher.conditions)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.calls.append((x_t.detach().clone(), t.detach().clone(), condition))
        return self.velocity(x_t, t, condition)

    def trainable_copy(self, *, takes_guidance: bool = False) -> None:
        del takes_guidance


class Counted(VelocityField):
    """A velocity field that counts its evaluations, one for each row it is asked for."""

    def __init__(self, field: VelocityField) -> None:
        super().__init__()
        self.field = field
        self.evaluations = 0

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.evaluations += len(x_t)
        velocity: Tensor = self.field(x_t, t, condition)
        return velocity


class OwnSilu(torch.autograd.Function):
    """SiLU with a backward of its own, as fused kernels have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return g * (s + x * s * (1 - s))
