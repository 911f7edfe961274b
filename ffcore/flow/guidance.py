"""Classifier-free guidance (Ho & Salimans, 2207.12598) as a teacher that wraps a teacher.

u_γ = γ u(· | c) + (1 − γ) u(· | ∅) inside an interval of t (Kynkäänniemi et al., 2404.07724).
Outside it, and for γ = 1, u_γ is u(· | c), and the unconditional branch is not evaluated.
"""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from torch import Tensor

from ffcore.flow.path import expand_like
from ffcore.interfaces import Condition, Teacher, VelocityField


def remove_guidance(teacher: Teacher) -> Teacher:
    """Return the unguided teacher inside `teacher`, or `teacher` itself."""
    return teacher.teacher if isinstance(teacher, Guided) else teacher


class Guided(Teacher):
    """A teacher guided by the scale γ in each sample's condition.

    Args:
        teacher: teacher to guide; its condition source must have a null condition.
        interval: times t of guidance, both ends included.
        channels: "all", or the number of leading channels to guide (SiT and DiT guide 3 of 4).

    Raises ValueError for an impossible interval or number of channels.
    """

    def __init__(
        self,
        teacher: Teacher,
        interval: tuple[float, float] = (0.0, 1.0),
        channels: int | Literal["all"] = "all",
    ) -> None:
        super().__init__()
        if not 0 <= interval[0] <= interval[1] <= 1:
            raise ValueError(f"guidance interval must be 0 ≤ low ≤ high ≤ 1, found {interval}")
        if channels != "all" and not 1 <= channels <= teacher.sample_shape[0]:
            raise ValueError(
                f"{channels} guided channels, but the teacher's samples are {teacher.sample_shape}"
            )
        self.teacher = teacher
        self.interval = interval
        self.channels = channels
        self.sample_shape = teacher.sample_shape
        self.conditions = teacher.conditions

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return u_γ; see VelocityField."""
        unguided = attrs.evolve(condition, guidance=None)
        if condition.guidance is None:
            return self._velocity(x_t, t, unguided)
        low, high = self.interval
        active = (t >= low) & (t <= high) & (condition.guidance != 1)
        chosen = active.nonzero().squeeze(1)  # indices of the samples to guide: [G]
        null = self.conditions.null(unguided[chosen])
        velocity = self._velocity(
            torch.cat([x_t, x_t[chosen]]),
            torch.cat([t, t[chosen]]),
            Condition.cat([unguided, null]),
        )
        conditional, unconditional = velocity.split([len(x_t), len(chosen)])
        push = conditional[chosen] - unconditional
        if self.channels != "all":
            push[:, self.channels :] = 0
        extra = expand_like(condition.guidance[chosen] - 1, push).to(push.dtype)
        guided: Tensor = conditional.index_add(0, chosen, extra * push)
        return guided

    def _velocity(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        velocity: Tensor = self.teacher(x_t, t, condition)
        return velocity

    def within(self, interval: tuple[float, float]) -> Guided:
        """Return the same teacher guided in another interval."""
        return Guided(self.teacher, interval, self.channels)

    def gated_at(self, time: float, condition: Condition) -> tuple[Teacher, Condition]:
        """Return the teacher and the condition for a step that starts at `time`.

        Whether `time` is in the interval decides for the whole step.
        """
        low, high = self.interval
        if low <= time <= high:
            return self.within((0.0, 1.0)), condition
        return self.teacher, attrs.evolve(condition, guidance=None)

    def trainable_copy(self, *, takes_guidance: bool = False) -> VelocityField | None:
        """Return the unguided teacher's copy."""
        return self.teacher.trainable_copy(takes_guidance=takes_guidance)
