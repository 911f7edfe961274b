"""The recipe tables of acme-flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ffcore import TimeDistribution
from ffcore.keys import key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ffcore.interfaces import (
        Balancer,
        ConditionSource,
        Context,
        PredictorObjective,
        Teacher,
    )


@attrs.frozen(kw_only=True)
class RingTeacher:
    """Data on a circle around the origin, blurred."""

    radius: float = key(2.0, help="radius of the circle", above=0)
    blur: float = key(0.2, help="standard deviation of the blur, in either direction", above=0)
    moves: bool = key(False, help="whether the recipe's conditions are the centres of the circle")
    sample_shape = (2,)

    @classmethod
    def examples(cls) -> Iterator[RingTeacher]:
        """Yield one of each kind."""
        yield cls()
        yield cls(moves=True)

    @property
    def needs(self) -> frozenset[str]:
        """Centres, if it moves."""
        return frozenset({"centres"} if self.moves else ())

    @property
    def guidable(self) -> bool:
        """Whether there is a null condition."""
        return self.moves

    def build(self, context: Context) -> Teacher:
        """Return the teacher."""
        from acme_flow.teacher import Ring

        return Ring(self.radius, self.blur, context.conditions)


@attrs.frozen(kw_only=True)
class CentresTable:
    """Centres of circles, by name."""

    names: tuple[str, ...] = key(("left", "right"), help="names of the centres")
    places: tuple[tuple[float, float], ...] = key(
        ((-3.0, 0.0), (3.0, 0.0)), help="a place for each name"
    )
    offers = frozenset({"centres"})

    @classmethod
    def examples(cls) -> Iterator[CentresTable]:
        """Yield two that differ in a place."""
        yield cls()
        yield cls(places=((-3.0, 0.0), (3.0, 1.0)))

    def build(self, context: Context) -> ConditionSource:
        """Return the conditions. Raises ValueError unless there is one place for each name."""
        del context
        from acme_flow.conditions import Centres

        if len(self.names) != len(self.places):
            raise ValueError(f"{len(self.places)} places for {len(self.names)} names")
        return Centres(self.names, self.places)


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
