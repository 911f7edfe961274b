"""Cases: a component in one of the settings that a recipe could have.

A setting is a small teacher of known kind. A component is built in every setting that offers what
its table needs. It may refuse a setting with a ValueError, which the author of such a recipe would
get; there is then no case for that setting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ffcore.draws import Draws
from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.flow.guidance import Guided
from ffcore.interfaces import (
    Auxiliary,
    Balancer,
    Batch,
    Condition,
    ConditionSource,
    Context,
    CorrectorObjective,
    DataSource,
    Decoder,
    Features,
    FunctionTeacher,
    Networks,
    PredictorObjective,
    Student,
    Teacher,
    Tracker,
    VelocityField,
)
from ffcore.recipe.needs import ANYWHERE, COPY, DATA, WHOLE
from ffcore.testing import process
from ffcore.testing.small import (
    POSES,
    SmallStudent,
    gaussian_teacher,
    small_teacher,
    teacher_given,
)

KINDS: dict[str, type] = {
    "teacher": Teacher,
    "student": Student,
    "predictor": PredictorObjective,
    "corrector": CorrectorObjective,
    "conditions": ConditionSource,
    "data": DataSource,
    "balancer": Balancer,
    "network": VelocityField,
    "features": Features,
    "decoder": Decoder,
    "tracker": Tracker,
}
"""The class of each role."""

OBJECTIVES = ("predictor", "corrector")
SETTLED = ("teacher", "conditions", "tracker")
"""Roles that do not depend on another teacher: one setting is enough."""

SIZE = 6
"""Samples in a batch."""


@attrs.frozen
class Setting:
    """A teacher to build components for, or conditions to build a teacher with."""

    name: str
    teacher: Callable[[], Teacher]
    offers: frozenset[str] = frozenset()
    """The `offers` of the teacher's table, or of the conditions'."""
    guidance_range: tuple[float, float] | None = None
    conditions: Callable[[], ConditionSource] | None = None
    """Conditions for a teacher that does not bring its own."""
    table: Any = None
    """The table that builds the teacher, if there is one."""

    def with_black_box(self) -> Setting:
        """Return this setting with a teacher that cannot be copied."""

        def box() -> Teacher:
            teacher = self.teacher()
            return FunctionTeacher(teacher, teacher.sample_shape, teacher.conditions)

        return attrs.evolve(self, teacher=box)

    def meets(self, role: str, table: Any) -> bool:
        """Whether this setting meets a table's needs; objectives always get data and a student."""
        beside = {ANYWHERE, DATA, WHOLE} if role in OBJECTIVES else set()
        return words(table, "needs") <= self.offers | beside


EXACT = Setting("exact vectors with a copy", gaussian_teacher, frozenset({COPY}))
RANGE = (1.0, 3.0)
SETTINGS = (
    Setting("exact vectors", lambda: Gaussian([0.5, -0.3], 0.7)),
    EXACT,
    Setting(
        "exact vectors of classes",
        lambda: GaussianMixture([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], 0.4, labels=[0, 1, 1]),
    ),
    Setting("vectors, each for a vector", lambda: teacher_given((2,), POSES), frozenset({COPY})),
    Setting("images of classes", lambda: small_teacher((1, 8, 8), 10), frozenset({COPY})),
    Setting(
        "latents of classes, a range of γ",
        lambda: small_teacher((4, 8, 8), 3),
        frozenset({COPY}),
        RANGE,
    ),
)
"""The settings for every component."""


@attrs.frozen
class Inputs:
    """The inputs of an objective: a small student, the teacher, and its auxiliary networks."""

    networks: Networks
    auxiliaries: Mapping[str, Auxiliary]
    batch: Batch


@attrs.frozen(kw_only=True)
class Case:
    """A component's table in a setting."""

    role: str
    table: Any
    setting: Setting

    def context(self, *, meta: bool = False) -> Context:
        """Return the argument of `build`."""
        source = self.setting.conditions
        context = Context(conditions=None if source is None else source(), meta=meta)
        if self.role in SETTLED:
            return context
        ranged = self.setting.guidance_range
        return attrs.evolve(context, teacher=self._of_setting(), guidance_range=ranged)

    def build(self, seed: int = 0, *, meta: bool = False) -> Any:
        """Build the component with weights from a seed. Raises ValueError if it refuses."""
        context = self.context(meta=meta)
        with process.seed_torch(seed):
            return self.table.build(context)

    def teacher(self, live: Any) -> Teacher:
        """Return the teacher that `live` works with: itself, or the setting's."""
        return live if isinstance(live, Teacher) else self._of_setting()

    def draws(self, size: int = SIZE, step: int = 0) -> Draws:
        """Return random streams for `size` samples."""
        return Draws(seed=1, step=step, start=0, stop=size)

    def condition(self, teacher: Teacher, draws: Draws) -> Condition:
        """Return conditions that the teacher accepts, with γ if the setting has a range."""
        condition = teacher.conditions.draw(draws.named("condition"))
        if self.role == "teacher" or self.setting.guidance_range is None:
            return condition
        low, high = self.setting.guidance_range
        return attrs.evolve(condition, guidance=low + (high - low) * draws.uniform("guidance"))

    def inputs_for(self, objective: Any) -> Inputs:
        """Return new inputs for an objective."""
        teacher = self._of_setting()
        if self.setting.guidance_range is not None:
            teacher = Guided(teacher)
        with process.seed_torch(1):
            student = SmallStudent.of(teacher)
            auxiliaries = objective.auxiliaries(student, teacher)
        networks = networks_of(student, teacher, auxiliaries)
        draws = self.draws()
        batch = self._batch(teacher, draws)
        if DATA in objective.needs:
            batch = attrs.evolve(batch, data=draws.normal("data", teacher.sample_shape))
        return Inputs(networks, auxiliaries, batch)

    def prepared(self, objective: Any) -> Inputs:
        """Return new inputs for an objective, which has prepared itself for them."""
        asked = self.inputs_for(objective)
        self.prepare(objective, asked.networks.teacher)
        return asked

    def prepare(self, objective: Any, teacher: Teacher) -> Any:
        """Let an objective prepare itself for a teacher; return what it reports."""

        def draw(start: int, stop: int) -> Batch:
            draws = Draws(seed=1, step=0, start=start, stop=stop).named("preparation")
            return self._batch(teacher, draws)

        return objective.prepare(teacher, draw)

    def _batch(self, teacher: Teacher, draws: Draws) -> Batch:
        return Batch(
            z=draws.normal("z", teacher.sample_shape),
            condition=self.condition(teacher, draws),
            draws=draws,
        )

    def _of_setting(self) -> Teacher:
        with process.seed_torch(0):
            return self.setting.teacher()


def networks_of(
    student: Student, teacher: Teacher, auxiliaries: Mapping[str, Auxiliary]
) -> Networks:
    """Return the networks of an objective."""
    return Networks(
        student=student,
        teacher=teacher,
        auxiliaries={name: each.network for name, each in auxiliaries.items()},
    )


def words(table: Any, side: str) -> frozenset[str]:
    """Return a table's `needs` or `offers`."""
    declared = getattr(table, side, ())
    return frozenset([declared] if isinstance(declared, str) else declared)


def examples(table: type) -> list[Any]:
    """Return small instances of a table: its `examples()`, or the one with all defaults.

    Raises ValueError if a key is required and there are no examples.
    """
    own = getattr(table, "examples", None)
    if callable(own):
        found = list(own())
        if not found:
            raise ValueError(f"{table.__qualname__}.examples yields nothing")
        return found
    try:
        return [table()]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{table.__qualname__} cannot be made from defaults alone ({error}): give it a class "
            "method `examples` that yields small instances"
        ) from None
