"""MeanFlow's predictor: the average velocity from any point, learnt at noised data.

Let a start (x_t, t) move up the flow while its end, at r = t − δ, stays: (x_t, t, δ) moves along
(−u, 1, 1). With D the derivative along it, F is the average velocity of u if and only if
F + δ D F = u(x_t, t). The gap is F + δ D F − v, without gradient. Here v is the data velocity
x − n, whose mean given x_t is u, or the teacher's u itself.

In the paper's signs this is u_θ − (v − (t − r) du_θ/dt): its velocities are ours negated.
"""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from torch import Tensor

from ffcore.draws import Draws
from ffcore.flow.derivative import Derivative
from ffcore.flow.derivative_check import choose, self_check
from ffcore.flow.duration import relative_gaps
from ffcore.flow.guidance import Guided
from ffcore.flow.path import expand_like, interpolate
from ffcore.flow.time_distribution import TimeDistribution
from ffcore.interfaces import (
    Batch,
    Condition,
    Gap,
    Gaps,
    Networks,
    PredictorObjective,
    Student,
    Teacher,
)
from ffcore_meanflow.defaults import DROP, TIMES, UNEQUAL


class MeanFlowPredictor(PredictorObjective):
    """The MeanFlow identity at noised data.

    Args:
        velocity: "data": x − n of each sample; "teacher": u(x_t, t), guided if the run guides.
        times: distribution of two times per sample: t is the greater, r the smaller.
        unequal: share of the samples that keep both times; the others get r = t, so δ = 0.
        derivative: method to compute D F.
        guided: whether the data velocity is guided if the run guides.
        kappa: κ of the guided data velocity; see `_guidance`.
        drop: share of the samples that lose their condition if the data velocity is guided.
    """

    needs = frozenset({"data", "student starts anywhere"})

    def __init__(
        self,
        velocity: Literal["data", "teacher"] = "data",
        times: TimeDistribution = TIMES,
        unequal: float = UNEQUAL,
        derivative: Derivative | None = None,
        guided: bool = True,
        kappa: float = 0.0,
        drop: float = DROP,
    ) -> None:
        self.velocity = velocity
        self.times = times
        self.unequal = unequal
        self.derivative = derivative or Derivative()
        self.guided = guided
        self.kappa = kappa
        self.drop = drop

    def self_check(self, networks: Networks, batch: Batch) -> str:
        """Check the derivative on this student; choose its backend if it is "auto".

        Raises ValueError for a student that starts only at the prior.
        """
        if networks.student.starts_at != "anywhere":
            raise ValueError(
                "MeanFlow calls its student at every time, but this one starts only at the prior: "
                'make it with starts_at = "anywhere"'
            )
        assert batch.data is not None
        v = batch.data - batch.z
        found = self_check(
            networks.student, self.derivative, batch.z, batch.condition, batch.draws, velocity=v
        )
        self.derivative = found.derivative
        if batch.condition.guidance is None or self.guided:
            return str(found)
        return f"{found}; guided = false: the data must be samples of the guided teacher"

    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        """Return one gap, F + δ D F − v."""
        assert batch.data is not None
        t, delta = self._times(batch.draws, batch.z)
        x_t = interpolate(batch.data, batch.z, t)
        with torch.no_grad():
            v, condition = self._velocity(networks, batch, x_t, t)
        output, change = self._average_velocity(networks.student, x_t, v, (t, delta), condition)
        gap = output.detach() + change - v
        # The data's velocity scatters around u, so such a gap never becomes small.
        numbers = relative_gaps(gap, v, delta) if self.velocity == "teacher" else {}
        return Gaps(gaps=(Gap(output=output, gap=gap),), numbers=numbers)

    def _average_velocity(
        self,
        student: Student,
        x_t: Tensor,
        v: Tensor,
        times: tuple[Tensor, Tensor],
        condition: Condition,
    ) -> tuple[Tensor, Tensor]:
        """Return F, with gradient, and δ D F, without, at the times (t, δ): Float[B, *S] each.

        Where δ is 0, δ D F is 0 and the derivative is not computed.
        """
        t, delta = times
        moving, still = self._apart(delta)
        outputs, changes = [], []
        if len(moving):
            self.derivative = choose(self.derivative, student, x_t, condition)
            primals = (x_t[moving], t[moving], delta[moving])
            ones = torch.ones_like(primals[1])
            output, d_output = self.derivative.with_value(
                lambda *inputs: student(*inputs, condition[moving]),
                primals,
                (-v[moving], ones, ones),
                room=(delta[moving], 1 - t[moving]),
            )
            outputs.append(output)
            changes.append(expand_like(delta[moving], x_t) * d_output)
        if len(still):
            output = student(x_t[still], t[still], delta[still], condition[still])
            outputs.append(output)
            changes.append(torch.zeros_like(output).detach())
        places = torch.empty_like(t, dtype=torch.int64)  # of each sample among the outputs
        places[still] = len(moving) + torch.arange(len(still), device=t.device)
        places[moving] = torch.arange(len(moving), device=t.device)
        return torch.cat(outputs)[places], torch.cat(changes)[places]

    def _apart(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples whose δ is not 0, and the others: Int[M], Int[B − M].

        If `unequal` allows both kinds, neither is empty. So the network calls do not depend on the
        draw: processes that share a batch wait for each other in every call.
        """
        everything = torch.arange(len(delta), device=delta.device)
        if self.unequal == 1:
            return everything, everything[:0]
        if self.unequal == 0:
            return everything[:0], everything
        return _some(delta > 0), _some(delta == 0)

    def _times(self, draws: Draws, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return t and δ of each sample."""
        one, other = (self.times.draw(draws, name).to(like) for name in ("t", "r"))
        keeps = draws.uniform("unequal") < self.unequal
        return torch.maximum(one, other), (one - other).abs() * keeps

    def _velocity(
        self, networks: Networks, batch: Batch, x_t: Tensor, t: Tensor
    ) -> tuple[Tensor, Condition]:
        """Return v of each sample, and the conditions, some of them dropped."""
        condition = batch.condition
        if self.velocity == "teacher":
            return networks.teacher(x_t, t, condition), condition
        assert batch.data is not None
        v = batch.data - batch.z
        if condition.guidance is None or not self.guided:
            return v, condition
        null = networks.teacher.conditions.null(condition)
        kept = batch.draws.uniform("drop") >= self.drop
        (low, high), channels = _guided_where(networks.teacher)
        active = kept & (t >= low) & (t <= high)
        chosen = _some(active)
        extra = self._guidance(networks.student, x_t, t, v, condition, null, chosen)
        if channels != "all":
            extra[:, channels:] = 0
        v = v.index_add(0, chosen, extra * expand_like(active[chosen], extra))
        null = attrs.evolve(null, guidance=torch.ones_like(condition.guidance))
        index = torch.arange(len(t), device=t.device)
        either = Condition.cat([condition, null])
        return v, either[torch.where(kept, index, index + len(t))]

    def _guidance(
        self,
        student: Student,
        x_t: Tensor,
        t: Tensor,
        v: Tensor,
        condition: Condition,
        null: Condition,
        chosen: Tensor,
    ) -> Tensor:
        """Return ṽ − v of the chosen samples, Float[C, *S].

        ṽ = ω v + κ F(x_t, t, 0 | c) + (1 − ω − κ) F(x_t, t, 0 | ∅), where ω = γ (1 − κ). Once
        learnt, F(x_t, t, 0 | c) = γ v + (1 − γ) F(x_t, t, 0 | ∅) in mean.
        """

        def velocity(of: Condition) -> Tensor:
            zero = torch.zeros_like(t[chosen])
            output: Tensor = student(x_t[chosen], t[chosen], zero, of[chosen])
            return output

        assert condition.guidance is not None
        omega = expand_like(condition.guidance[chosen], v).to(v.dtype) * (1 - self.kappa)
        extra = (omega - 1) * v[chosen] + (1 - omega - self.kappa) * velocity(null)
        return extra + self.kappa * velocity(condition) if self.kappa else extra


def _some(mask: Tensor) -> Tensor:
    """Return the indices where `mask` is true: Int[M]; index 0 if it is true nowhere."""
    places = mask.nonzero().squeeze(1)
    return places if len(places) else places.new_zeros(1)


def _guided_where(teacher: Teacher) -> tuple[tuple[float, float], int | Literal["all"]]:
    """Return the times and the channels that a run guides."""
    if isinstance(teacher, Guided):
        return teacher.interval, teacher.channels
    return (0.0, 1.0), "all"
