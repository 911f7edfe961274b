"""The recipe table of the corrector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from ffcore.flow.time_distribution import TimeDistribution
from ffcore.keys import ImpossibleValue, component, key, ordered
from ffcore.training.optimizer import Optimizer
from ffcore_vsd.defaults import R

if TYPE_CHECKING:
    from ffcore.interfaces import Context, CorrectorObjective
    from ffcore.recipe import Recipe


@attrs.frozen(kw_only=True)
class Vsd:
    """The corrector with its online network g_ψ."""

    r: TimeDistribution = key(
        factory=lambda: R, help="distribution of the noise level r (paper: logit-normal, 0.8)"
    )
    guidance_interval: tuple[float, float] | None = key(
        None,
        help="times (low, high) of the teacher's guidance (paper: narrower than when sampling)",
        at_least=0,
        at_most=1,
        validator=ordered,
    )
    online: Any = component(
        "network",
        None,
        help="network g_ψ, required for a black-box teacher; 'none': a copy of the teacher",
    )
    online_rank: int | None = key(
        None,
        help="rank of low-rank factors (LoRA) of g_ψ to train; 'none': train all its weights",
        at_least=1,
    )
    online_r: TimeDistribution = key(
        factory=TimeDistribution, help="distribution of r for g_ψ's training"
    )
    online_updates: int = key(1, help="updates of g_ψ per training step", at_least=1)
    online_optimizer: Optimizer = key(factory=Optimizer, help="optimizer of g_ψ")

    def __attrs_post_init__(self) -> None:
        if self.online is not None and self.online_rank is not None:
            raise ValueError(
                "online_rank adapts a copy of the teacher, but online names an untrained network, "
                "whose weights must all train: leave out one of them"
            )

    @property
    def needs(self) -> frozenset[str]:
        """Need a teacher that can be copied, unless `online` names a network."""
        return frozenset() if self.online else frozenset({"trainable copy"})

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError for a guidance interval in an unguided run."""
        interval = self.guidance_interval
        if interval is not None and not recipe.guidance.guides:
            possible = "'none', because the run is unguided"
            raise ImpossibleValue("guidance_interval", interval, possible)

    def build(self, context: Context) -> CorrectorObjective:
        """Return the objective."""
        from ffcore_vsd.objective import VsdCorrector

        return VsdCorrector(
            r=self.r,
            guidance_interval=self.guidance_interval,
            online=self.online.build(context) if self.online else None,
            online_rank=self.online_rank,
            online_r=self.online_r,
            online_updates=self.online_updates,
            online_optimizer=self.online_optimizer,
            takes_guidance=context.guidance_range is not None,
        )
