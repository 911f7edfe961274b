"""The derivative of a network's output along a direction of its inputs, without a graph.

FreeFlow needs ∂_δ F; MeanFlow needs the derivative along (−u, 1, 1) of (x_t, t, δ). Three backends:

- "dual": exact, in the forward that carries the gradient (ffcore/flow/dual.py);
- "jvp": exact, with torch's forward mode in a separate pass;
- "finite-difference": works with any network, attention kernel or compiler, and reuses the forward.
  It turns autocast off, because in low precision it would be mostly rounding.

"auto" stands for the first that works on the student; `choose` in derivative_check.py replaces it.
Tangents have no graph: the gradient flows through the output alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ffcore.flow.backend import CHOICES, SCHEME, STEP, Choice, Scheme
from ffcore.flow.dual import Dual
from ffcore.flow.path import expand_like

Function = Callable[..., Tensor]


@attrs.frozen(kw_only=True)
class Derivative:
    """A method to differentiate.

    Args:
        backend: see the module's docstring.
        step: step of the finite difference, in units of time. The error is O(step) one-sided and
            O(step²) central, plus rounding of order eps / step.
        scheme: "one-sided" costs one evaluation, "central" two.
    """

    backend: Choice = attrs.field(default="auto", validator=attrs.validators.in_(CHOICES))
    step: float = STEP
    scheme: Scheme = SCHEME

    @staticmethod
    def of(table: Any) -> Derivative:
        """Return the derivative in an objective's table (keys of ffcore/flow/backend.py)."""
        return Derivative(
            backend=table.derivative,
            step=table.derivative_step,
            scheme=table.derivative_scheme,
        )

    def with_value(
        self,
        function: Function,
        primals: Sequence[Tensor],
        tangents: Sequence[Tensor],
        *,
        room: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return function(primals), and d/dh function(primals + h tangents) at h = 0, per sample.

        Args:
            function: takes as many tensors as there are primals, batch first; with "dual", it
                gets dual numbers.
            primals: the point; each Float[B, …].
            tangents: the direction; each of its primal's shape.
            room: how far h may go (behind, ahead) within the function's domain, Float[B] ≥ 0
                each. The finite difference reverses or shortens its step accordingly.

        Returns:
            Float[B, *S] each, the first with gradient, the second without.

        Raises ValueError if the backend is "auto": it depends on a student.
        """
        self._check_chosen()
        if self.backend == "dual":
            return dual(function, primals, tangents)
        value = function(*primals)
        return value, self(function, primals, tangents, value=value, room=room)

    @torch.no_grad()
    def __call__(
        self,
        function: Function,
        primals: Sequence[Tensor],
        tangents: Sequence[Tensor],
        *,
        value: Tensor,
        room: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Return only the derivative, for a caller that has the `value`; see with_value."""
        self._check_chosen()
        if self.backend == "dual":
            return dual(function, primals, tangents)[1]
        if self.backend == "jvp":
            return jvp(function, primals, tangents)
        device = value.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                value = function(*primals) if self.scheme == "one-sided" else value
                return self(function, primals, tangents, value=value, room=room)
        value, (behind, ahead) = value.detach(), room

        def at(h: Tensor) -> Tensor:
            moved = (
                p + expand_like(h, p).to(p.dtype) * v
                for p, v in zip(primals, tangents, strict=True)
            )
            return function(*moved)

        if self.scheme == "one-sided":
            h = torch.where(ahead >= self.step, self.step, -self.step)
            return (at(h) - value) / expand_like(h, value).to(value.dtype)
        ahead, behind = ahead.clamp(max=self.step), behind.clamp(max=self.step)
        span = expand_like(ahead + behind, value).to(value.dtype)
        return (at(ahead) - at(-behind)) / span

    def _check_chosen(self) -> None:
        if self.backend == "auto":
            raise ValueError(
                'the derivative\'s backend is still "auto": choose one for your student with '
                "ffcore.flow.derivative_check.choose, or name dual, jvp or finite-difference"
            )


def dual(
    function: Function, primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the value, with gradient, and the derivative, without; see ffcore.flow.dual."""
    found = function(*map(Dual, primals, tangents))
    if isinstance(found, Dual):
        return found.value, found.tangent
    return found, torch.zeros_like(found).detach()


@torch.no_grad()
def jvp(function: Function, primals: Sequence[Tensor], tangents: Sequence[Tensor]) -> Tensor:
    """Return the forward-mode derivative.

    Attention uses the math kernel, because the fused ones have no forward mode (torch 2.13).
    """
    with sdpa_kernel(SDPBackend.MATH):
        found = torch.func.jvp(function, tuple(primals), tuple(tangents))
    derivative: Tensor = found[1]
    return derivative
