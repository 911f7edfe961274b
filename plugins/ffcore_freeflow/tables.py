"""The recipe tables of FreeFlow's predictor and balancer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

from ffcore.flow.backend import Choice, Scheme, backend_key, scheme_key, step_key
from ffcore.flow.time_distribution import TimeDistribution
from ffcore.keys import ImpossibleValue, key
from ffcore_freeflow.defaults import (
    ALPHA,
    CORRECTION,
    LAMBDA_ON,
    POWER,
    SCALE_EPSILON,
    WEIGHT_EPSILON,
)

if TYPE_CHECKING:
    from ffcore.interfaces import Balancer, Context, PredictorObjective
    from ffcore.recipe import Recipe


@attrs.frozen(kw_only=True)
class FreeFlow:
    """The data-free predictor."""

    delta: TimeDistribution = key(
        factory=TimeDistribution,
        help="distribution of the duration δ (paper: unpublished)",
    )
    derivative: Choice = backend_key("∂_δ F")
    derivative_step: float = step_key("δ")
    derivative_scheme: Scheme = scheme_key()

    def decide(self, context: Context) -> FreeFlow:
        """Return the same table with the derivative chosen for the student."""
        from ffcore.flow.derivative_check import choose_backend

        return attrs.evolve(self, derivative=choose_backend(self.derivative, context))

    def build(self, context: Context) -> PredictorObjective:
        """Return the objective."""
        from ffcore.flow.derivative import Derivative
        from ffcore_freeflow.objective import FreeFlowPredictor

        return FreeFlowPredictor(delta=self.delta, derivative=Derivative.of(self))


@attrs.frozen(kw_only=True)
class Adaptive:
    """FreeFlow's balancer."""

    correction: float = key(
        CORRECTION,
        help="correction's share of the batch (paper: 0.25)",
        at_least=0,
        at_most=1,
    )
    correction_from: int = key(
        0, help="first step with correction; before it, prediction only", at_least=0
    )
    alpha: float = key(
        ALPHA, help="strength of the correction (paper: robust from 0.3 to 3)", above=0
    )
    power: float = key(
        POWER, help="k of the power-law weight (paper: 1 for joint training)", at_least=0
    )
    weight_epsilon: float = key(
        WEIGHT_EPSILON,
        help="ε of the power-law weight (unpublished; 0.1 was better on digits)",
        above=0,
    )
    scale_epsilon: float = key(SCALE_EPSILON, help="ε of λ", above=0)
    lambda_on: Literal["weighted", "raw"] = key(
        LAMBDA_ON, help="whether λ compares weighted or raw gaps (unpublished)"
    )

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError if no step corrects, or if both objectives must share a batch of 1."""
        both = recipe.predictor is not None and recipe.corrector is not None
        steps = recipe.training.steps
        if recipe.corrector and steps is not None and self.correction_from >= steps:
            possible = f"less than training.steps = {steps}"
            raise ImpossibleValue("correction_from", self.correction_from, possible)
        shared = 0 < self.correction < 1
        if both and shared and recipe.training.batch == 1:
            possible = "0 or 1, because a training.batch of 1 cannot be split"
            raise ImpossibleValue("correction", self.correction, possible)

    def build(self, context: Context) -> Balancer:
        """Return the balancer."""
        del context
        from ffcore_freeflow.balancer import AdaptiveBalancer

        return AdaptiveBalancer(**attrs.asdict(self))
