"""The recipe tables of acme-flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ffcore import TimeDistribution
from ffcore.keys import key

if TYPE_CHECKING:
    from ffcore.interfaces import Balancer, Context, PredictorObjective, Teacher


@attrs.frozen(kw_only=True)
class RingTeacher:
    """Data on a circle around the origin, blurred."""

    radius: float = key(2.0, help="radius of the circle", above=0)
    blur: float = key(0.2, help="standard deviation of the blur, in either direction", above=0)
    sample_shape = (2,)
    guidable = False

    def build(self, context: Context) -> Teacher:
        """Return the teacher."""
        del context
        from acme_flow.teacher import Ring

        return Ring(self.radius, self.blur)


@attrs.frozen(kw_only=True)
class Halves:
    """The predictor by halves."""

    delta: TimeDistribution = key(factory=TimeDistribution, help="the law of the duration δ")
    steps: int = key(4, help="the teacher's Heun steps over the second half", at_least=1)

    def build(self, context: Context) -> PredictorObjective:
        """Return the objective."""
        del context
        from acme_flow.objective import HalvesPredictor

        return HalvesPredictor(self.delta, self.steps)


@attrs.frozen(kw_only=True)
class Huber:
    """The balancer with bounded pull."""

    bound: float = key(1.0, help="c, the most that a sample pulls", above=0)
    correction: float = key(
        0.25, help="share of the batch that is correction", at_least=0, at_most=1
    )

    def build(self, context: Context) -> Balancer:
        """Return the balancer."""
        del context
        from acme_flow.balancer import HuberBalancer

        return HuberBalancer(self.bound, self.correction)
