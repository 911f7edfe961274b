"""The corrector: the noising velocity of the student's samples follows the teacher.

The integral KL between the noised distributions of student and teacher has the gradient
E[⟨∇f(z, 1), w(r) (v_N − u)(I_r, r)⟩], where I_r = (1 − r) f(z, 1) + r n and v_N is the velocity of
the student's own distribution. A network g_ψ learns v_N online, by flow matching on the samples.
Either all its weights train, or only low-rank factors beside the teacher's weights (LoRA).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ffcore.draws import Draws
from ffcore.flow.flow_map import push
from ffcore.flow.guidance import Guided
from ffcore.flow.path import interpolate
from ffcore.flow.time_distribution import TimeDistribution
from ffcore.interfaces import (
    Alarm,
    Auxiliary,
    Batch,
    Condition,
    CorrectorObjective,
    Gap,
    Gaps,
    Networks,
    Ratio,
    Student,
    Teacher,
    VelocityField,
)
from ffcore.nn.lora import with_lora
from ffcore.training.optimizer import Optimizer
from ffcore_vsd.defaults import R

ONLINE = "online"
EXCESS = "online_excess"
"""Flow-matching loss of g_ψ on fresh samples relative to the teacher's, minus 1."""
SLOPE = "online_slope"
"""E⟨g_ψ − u, v_N − u⟩ / E‖g_ψ − u‖²: 1 for g_ψ = v_N, 2 if g_ψ is half-way from u to v_N."""


_FASTER = "raise corrector.online_updates or corrector.online_optimizer.learning_rate"
ALARMS = (
    Alarm(
        number=EXCESS,
        rule="stays above",
        limit=0.5,
        title="g_ψ lags behind the student: its excess loss on fresh samples over the teacher's",
        remedy=_FASTER,
    ),
    Alarm(
        number=EXCESS,
        rule="stops falling",
        limit=0.02,
        title="g_ψ lags behind the student: its excess loss on fresh samples over the teacher's",
        remedy=_FASTER,
    ),
    Alarm(
        number=SLOPE,
        rule="stays above",
        limit=2.0,
        title="g_ψ lags behind the student: the noising gap divided by the gap that g_ψ shows",
        remedy=_FASTER,
    ),
)


class VsdCorrector(CorrectorObjective):
    """Gap v_N − u at the noised one-step samples, with v_N ≈ g_ψ.

    Args:
        r: distribution of the gap's noise level.
        guidance_interval: times at which the teacher is guided; None: those of the run.
        online: g_ψ; None: a copy of the teacher.
        online_rank: rank of the factors that train instead of that copy's weights; None: all
            weights train.
        online_r: distribution of r for g_ψ's training.
        online_updates: updates of g_ψ per update of the student.
        online_optimizer: optimizer of g_ψ.
        takes_guidance: whether the copy reads γ from its condition.

    Raises ValueError for both a rank and a network, which may be untrained.
    """

    alarms = ALARMS

    def __init__(
        self,
        *,
        r: TimeDistribution = R,
        guidance_interval: tuple[float, float] | None = None,
        online: VelocityField | None = None,
        online_rank: int | None = None,
        online_r: TimeDistribution | None = None,
        online_updates: int = 1,
        online_optimizer: Optimizer | None = None,
        takes_guidance: bool = False,
    ) -> None:
        if online is not None and online_rank is not None:
            raise ValueError(
                "`online_rank` adapts a copy of the teacher, but `online` is another network: give "
                "one of them; to adapt a trained network, use ffcore.nn.lora.with_lora"
            )
        self.r = r
        self.guidance_interval = guidance_interval
        self.online = online
        self.online_rank = online_rank
        self.online_r = online_r or TimeDistribution()
        self.online_updates = online_updates
        self.online_optimizer = online_optimizer or Optimizer()
        self.takes_guidance = takes_guidance

    def auxiliaries(self, student: Student, teacher: Teacher) -> Mapping[str, Auxiliary]:
        """Return g_ψ: the network given, or an unguided copy of the teacher.

        Raises ValueError for a black-box teacher without a network, for a copy that low-rank
        factors cannot adapt or that cannot take γ, and for a guidance interval in an unguided run.
        """
        del student
        if self.guidance_interval is not None and not isinstance(teacher, Guided):
            raise ValueError("the corrector has a guidance_interval, but the run is unguided")
        network = self.online or self._copy_of(teacher)
        return {
            ONLINE: Auxiliary(
                network=network,
                optimizer=self.online_optimizer,
                loss=partial(self.flow_matching_loss, magnification=network.magnification),
                updates=self.online_updates,
            )
        }

    def _copy_of(self, teacher: Teacher) -> VelocityField:
        network = teacher.trainable_copy(takes_guidance=self.takes_guidance)
        if network is None:
            raise ValueError(
                "this teacher cannot be copied: give the corrector an `online` network for g_ψ"
            )
        if self.online_rank is None:
            return network
        try:
            return with_lora(network, self.online_rank)
        except ValueError as error:
            raise ValueError(f"online_rank of the corrector: {error}") from error

    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        """Return one gap, v_N − u at noise level r, and the samples for g_ψ."""
        z, condition = batch.z, batch.condition
        ones = torch.ones(len(z), dtype=z.dtype, device=z.device)
        output = networks.student(z, ones, ones, condition)  # F(z, 1), with gradient
        with torch.no_grad():
            samples = push(z, output, ones)
            r = self.r.draw(batch.draws, "r").to(z)
            noise = batch.draws.normal("noise", tuple(z.shape[1:])).to(z)
            I_r = interpolate(samples, noise, r)
            v_N = networks.auxiliaries[ONLINE](I_r, r, condition)
            u = self._teacher(networks.teacher)(I_r, r, condition)
            numbers = _progress(v_N, u, samples - noise)
        gap = Gap(output=output, gap=v_N - u)
        return Gaps(gaps=(gap,), samples=samples, condition=condition, numbers=numbers)

    def flow_matching_loss(
        self,
        network: nn.Module,
        samples: Tensor,
        condition: Condition,
        draws: Draws,
        magnification: Callable[[Tensor], Tensor] = torch.ones_like,
    ) -> Tensor:
        """Return ‖g_ψ(I_r, r) − (x − n)‖² / (m(r) d) of each sample x, with fresh n and r:
        Float[B'].

        m is the network's magnification. The best g_ψ is the same for every m. Without it, a few r
        near an end rule the gradient; m² would leave those r almost unlearnt.
        """
        r = self.online_r.draw(draws, "r").to(samples)
        noise = draws.normal("noise", tuple(samples.shape[1:])).to(samples)
        velocity = network(interpolate(samples, noise, r), r, condition)
        loss: Tensor = (velocity - (samples - noise)).square().flatten(1).mean(1)
        return loss / magnification(r)

    def _teacher(self, teacher: Teacher) -> Teacher:
        if self.guidance_interval is None or not isinstance(teacher, Guided):
            return teacher
        return teacher.within(self.guidance_interval)


def _progress(g: Tensor, u: Tensor, target: Tensor) -> dict[str, Ratio]:
    """Return how well g_ψ predicts samples that it has not seen yet; see EXCESS and SLOPE.

    E[x − n | I_r] = v_N, so the means hold v_N for the target x − n.
    """
    gap, away = (g - u).flatten(1), (target - u).flatten(1)
    of_g, of_u = ((each - target).flatten(1).square().mean(1) for each in (g, u))
    return {
        EXCESS: Ratio(part=of_g - of_u, whole=of_u),
        SLOPE: Ratio(part=(gap * away).mean(1), whole=gap.square().mean(1)),
    }
