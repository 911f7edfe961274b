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
            "target of F at noised data: each sample's x − n, whose mean is the data velocity, or "
            "the teacher's u"
        ),
    )
    times: TimeDistribution = key(
        factory=lambda: TIMES,
        help="distribution of t and of r = t − δ; t is the greater (paper: the default)",
    )
    unequal: float = key(
        UNEQUAL,
        help="share of the samples with δ above 0, which need D F (paper: 0.25)",
        at_least=0,
        at_most=1,
    )
    guided: bool = key(
        True,
        help=(
            "whether the data velocity is guided as the recipe guides; set false if the data are "
            "samples of the guided teacher"
        ),
    )
    kappa: float = key(
        0.0,
        help=(
            "κ of the guided data velocity ω v + κ F(·|c) + (1 − ω − κ) F(·|∅), where "
            "ω = γ (1 − κ) and γ is guidance.scale (paper: at γ = 2, 0.5 is better than 0)"
        ),
        at_least=0,
        below=1,
    )
    drop: float = key(
        DROP,
        help=(
            "share of the samples that lose their condition, if the data velocity is guided; "
            "F(·|∅) learns from them (paper: 0.1)"
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
                "kappa", self.kappa, "0, because the teacher's velocity is already guided"
            )
        if not self.guided and self.velocity == "teacher":
            possible = "true, because the teacher's velocity is guided as the recipe guides"
            raise ImpossibleValue("guided", self.guided, possible)

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError for κ with an unguided data velocity, for guidance that acts twice or,
        although the recipe guides, never, and for guided data with a range of γ."""
        recipe_guides = recipe.guidance.guides
        data_guided = getattr(recipe.data, "guided", None)  # None: its table does not say
        if self.kappa and not (self.guided and recipe_guides):
            cause = (
                "the data velocity is not guided (guided = false)"
                if recipe_guides
                else "nothing is guided: set guidance.scale or guidance.range"
            )
            raise ImpossibleValue("kappa", self.kappa, f"0, because {cause}")
        if self.velocity == "teacher" or not recipe_guides:
            return
        if self.guided and data_guided:
            possible = (
                "false, because the data are samples of the guided teacher and their velocity "
                "would be guided twice; or set data.guided = false"
            )
            raise ImpossibleValue("guided", self.guided, possible)
        if not self.guided and recipe.guidance.range is not None:
            possible = "true, because guidance.range needs every scale and the data have one"
            raise ImpossibleValue("guided", self.guided, possible)
        if not self.guided and data_guided is False:
            possible = (
                f"true, because the recipe guides (guidance.scale is {recipe.guidance.scale:g}) "
                "and these data are unguided. For samples of the guided teacher, set data.guided "
                "= true; for an unguided student, leave out guidance.scale"
            )
            raise ImpossibleValue("guided", self.guided, possible)

    def decide(self, context: Context) -> MeanFlow:
        """Return the same table with the derivative chosen for the student."""
        from ffcore.flow.derivative_check import choose_backend

        return attrs.evolve(self, derivative=choose_backend(self.derivative, context))

    def build(self, context: Context) -> PredictorObjective:
        """Return the objective."""
        from ffcore.flow.derivative import Derivative
        from ffcore_meanflow.objective import MeanFlowPredictor

        return MeanFlowPredictor(
            velocity=self.velocity,
            times=self.times,
            unequal=self.unequal,
            derivative=Derivative.of(self),
            guided=self.guided,
            kappa=self.kappa,
            drop=self.drop,
        )
