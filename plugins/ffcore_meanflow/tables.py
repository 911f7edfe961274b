"""The recipe table of MeanFlow's predictor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import attrs

from ffcore.flow.backend import Choice, Scheme, backend_key, scheme_key, step_key
from ffcore.flow.time_distribution import TimeDistribution
from ffcore.keys import ImpossibleValue, key
from ffcore_meanflow.defaults import DROP, TIMES, UNEQUAL

if TYPE_CHECKING:
    from ffcore.interfaces import Context, PredictorObjective
    from ffcore.recipe import Recipe


@attrs.frozen(kw_only=True)
class MeanFlow:
    """The data-based predictor."""

    velocity: Literal["data", "teacher"] = key(
        "data",
        help=(
            "what F follows at noised data: each sample's own x − n, the velocity of data in mean, "
            "or the teacher's u"
        ),
    )
    times: TimeDistribution = key(
        factory=lambda: TIMES,
        help="the distribution of t and of r = t − δ, the later being t (paper: this one)",
    )
    unequal: float = key(
        UNEQUAL,
        help="share of the samples whose δ is not 0, with D F to compute (paper: 0.25)",
        at_least=0,
        at_most=1,
    )
    guided: bool = key(
        True,
        help=(
            "whether data's velocity is guided as the recipe guides; false where the data are "
            "samples of the guided teacher already"
        ),
    )
    kappa: float = key(
        0.0,
        help=(
            "κ of the guided data velocity ω v + κ F(·|c) + (1 − ω − κ) F(·|∅), where "
            "ω = γ (1 − κ) and γ is guidance.scale (paper: at γ = 2 0.5 is better than 0)"
        ),
        at_least=0,
        below=1,
    )
    drop: float = key(
        DROP,
        help=(
            "where data's velocity is guided: share of the samples that lose their condition, from "
            "which F(·|∅) learns (paper: 0.1)"
        ),
        at_least=0,
        at_most=1,
    )
    derivative: Choice = backend_key("D F")
    derivative_step: float = step_key("t and δ; 1e-4 for DiT's time")
    derivative_scheme: Scheme = scheme_key()

    needs = frozenset({"data", "student starts anywhere"})

    @classmethod
    def examples(cls) -> Iterator[MeanFlow]:
        """Yield one of each velocity, and one that guides with κ."""
        yield cls()
        yield cls(velocity="teacher", derivative="finite-difference")
        yield cls(kappa=0.5)

    def __attrs_post_init__(self) -> None:
        if self.kappa and self.velocity == "teacher":
            raise ImpossibleValue(
                "kappa", self.kappa, "0, since the teacher's velocity is already guided"
            )
        if not self.guided and self.velocity == "teacher":
            possible = "true, since the teacher's velocity is guided as the recipe guides"
            raise ImpossibleValue("guided", self.guided, possible)

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError for κ where data's velocity is not guided, and for what would be guided
        twice, by nobody though the recipe guides, or over a range of γ never."""
        recipe_guides = recipe.guidance.guides
        data_guided = getattr(recipe.data, "guided", None)  # None: its table does not say
        if self.kappa and not (self.guided and recipe_guides):
            cause = (
                "data's velocity is not guided here (guided = false)"
                if recipe_guides
                else "nothing is guided: set guidance.scale or guidance.range"
            )
            raise ImpossibleValue("kappa", self.kappa, f"0, since {cause}")
        if self.velocity == "teacher" or not recipe_guides:
            return
        if self.guided and data_guided:
            possible = (
                "false, since the data are samples of the guided teacher, whose velocity would be "
                "guided twice; or data.guided must be"
            )
            raise ImpossibleValue("guided", self.guided, possible)
        if not self.guided and recipe.guidance.range is not None:
            possible = "true, since guidance.range needs every scale and data have one"
            raise ImpossibleValue("guided", self.guided, possible)
        if not self.guided and data_guided is False:
            possible = (
                f"true, since the recipe guides (guidance.scale is {recipe.guidance.scale:g}) and "
                "these data are not guided: nothing would be. For samples of the guided teacher "
                "set data.guided = true; for a student without guidance leave out guidance.scale"
            )
            raise ImpossibleValue("guided", self.guided, possible)

    def decide(self, context: Context) -> MeanFlow:
        """Return the same table with the derivative chosen for the student."""
        from ffcore.flow.derivative import choose_backend

        return attrs.evolve(self, derivative=choose_backend(self.derivative, context))

    def build(self, context: Context) -> PredictorObjective:
        """Return the objective."""
        from ffcore.flow.derivative import Derivative
        from ffcore_meanflow.objective import MeanFlowPredictor

        return MeanFlowPredictor(
            velocity=self.velocity,
            times=self.times,
            unequal=self.unequal,
            derivative=Derivative.of(self, context),
            guided=self.guided,
            kappa=self.kappa,
            drop=self.drop,
        )
