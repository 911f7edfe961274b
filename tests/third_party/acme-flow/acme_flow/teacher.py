"""Data on a blurred circle, x = R e + s ξ with e uniform on the unit circle.

At time t, e given x_t has von Mises' law around x_t's direction: E[e | x_t] = A(κ) x_t / |x_t| with
κ = (1 − t) R |x_t| / a², a² = (1 − t)² s² + t² and A = I₁ / I₀.
"""

import torch
from torch import Tensor

from ffcore import Condition, ConditionSource, Teacher, Unconditional


class Ring(Teacher):
    """The exact velocity of the ring; samples are Float[B, 2].

    With conditions, the vector of each is the centre of its ring; without, that is the origin.
    """

    radius: Tensor
    blur: Tensor

    def __init__(
        self, radius: float = 2.0, blur: float = 0.2, conditions: ConditionSource | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("radius", torch.tensor(radius))
        self.register_buffer("blur", torch.tensor(blur))
        self.sample_shape = (2,)
        self.conditions = Unconditional() if conditions is None else conditions
        self.eval()

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return u = m − ((t − (1 − t) s²) / a²)(x_t − (1 − t) m) with m = R E[e | x_t]."""
        radius, blur = self.radius.to(x_t.dtype), self.blur.to(x_t.dtype)
        t = t[:, None].to(x_t.dtype)
        centre = torch.zeros_like(x_t)
        if condition.pooled is not None:
            centre = condition.pooled.to(x_t.dtype)
        x_t = x_t - (1 - t) * centre
        variance = (1 - t) ** 2 * blur**2 + t**2  # a²
        length = x_t.norm(dim=1, keepdim=True)
        kappa = (1 - t) * radius * length / variance
        concentration = torch.special.i1e(kappa) / torch.special.i0e(kappa)  # A(κ)
        m = radius * concentration * x_t / length.clamp(min=torch.finfo(x_t.dtype).tiny)
        slope = (t - (1 - t) * blur**2) / variance
        velocity: Tensor = centre + m - slope * (x_t - (1 - t) * m)
        return velocity

    def trainable_copy(self, *, takes_guidance: bool = False) -> None:
        """Return None: a formula has nothing to train."""
        del takes_guidance
        return None
