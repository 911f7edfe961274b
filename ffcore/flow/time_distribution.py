"""The distribution from which a recipe draws times or durations. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

from ffcore.keys import key

if TYPE_CHECKING:
    from torch import Tensor

    from ffcore.draws import Draws


@attrs.frozen(kw_only=True)
class TimeDistribution:
    """A distribution on [0, 1], scaled linearly to [low, high].

    "uniform", or "logit-normal": sigmoid(location + scale · N(0, 1)), where a positive location
    favours high times (Esser et al., 2403.03206).
    """

    distribution: Literal["uniform", "logit-normal"] = key("uniform", help="distribution on [0, 1]")
    location: float = key(0.0, help="logit-normal: mean of the logit")
    scale: float = key(1.0, help="logit-normal: standard deviation of the logit", above=0)
    low: float = key(0.0, help="least value", at_least=0, at_most=1)
    high: float = key(1.0, help="greatest value", at_least=0, at_most=1)
    at_one: float = key(0.0, help="share of draws that are exactly `high`", at_least=0, at_most=1)

    def __attrs_post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, found {self.low} and {self.high}")

    def draw(self, draws: Draws, purpose: str) -> Tensor:
        """Return one value for each sample of `draws`: Float[len] in [low, high]."""
        if self.distribution == "uniform":
            value = draws.uniform(purpose)
        else:
            value = draws.logit_normal(purpose, self.location, self.scale)
        # Rounding may exceed an end by one unit in the last place.
        value = (self.low + (self.high - self.low) * value).clamp(self.low, self.high)
        if self.at_one:
            instead = draws.named(purpose).uniform("at one") < self.at_one
            value = value.masked_fill(instead, self.high)
        return value
