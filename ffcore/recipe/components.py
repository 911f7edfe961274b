"""The live object of a recipe's table: teacher, student, objectives, balancer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import torch

from ffcore.draws import Draws
from ffcore.flow.guidance import Guided
from ffcore.flow.moments import Found, moments_of
from ffcore.interfaces import (
    Balancer,
    ConditionSource,
    Context,
    CorrectorObjective,
    Moments,
    PredictorObjective,
    Student,
    Teacher,
)
from ffcore.plugins.discovery import fence
from ffcore.plugins.place import place
from ffcore.recipe.tables import Recipe, Training
from ffcore.system.allocator import keep_freed_memory
from ffcore.system.arithmetic import arithmetic
from ffcore.system.distributed import own_device
from ffcore.training.condition_check import drawn_from
from ffcore.training.network_check import check_values


class BuildError(Exception):
    """A recipe is valid, but its components do not fit together."""


@attrs.frozen(kw_only=True, eq=False)
class Parts:
    """The parts of a distillation, not yet on a device."""

    teacher: Teacher
    """Guided if the recipe guides."""
    student: Student
    predictor: PredictorObjective | None
    corrector: CorrectorObjective | None
    balancer: Balancer
    context: Context
    """For all components but teacher and student; its teacher is unguided."""
    recipe: Recipe
    """The recipe with every "auto" decided."""
    moments: str | None
    """What was measured of the teacher's data, in a sentence; None if no network asked for it."""


def parts(recipe: Recipe, *, meta: bool = False) -> Parts:
    """Build a recipe's networks and objectives; see Context for `meta`.

    New weights come from the global random state. Raises BuildError if parts do not fit together,
    WeightsError for weights files.
    """
    guidance = recipe.guidance
    teacher = build_teacher(recipe, meta=meta)
    with errors_of("teacher" if recipe.conditions is None else "conditions"):
        drawn_from(teacher.conditions, Draws(0, 0, 0, 2))  # students ask for the fields
    found: list[Found] = []

    def measure() -> Moments:
        if not found:
            found.append(moments_of(teacher))
        return found[0].moments

    context = Context(
        teacher=teacher,
        guidance_range=guidance.range,
        meta=meta,
        measure=None if meta else measure,
    )
    student = build_component("student", recipe.student, context, Student)
    context = attrs.evolve(context, student=student)
    objectives = {name: _decide(name, recipe, context) for name in ("predictor", "corrector")}
    recipe = attrs.evolve(recipe, **objectives)
    predictor = build_component("predictor", recipe.predictor, context, PredictorObjective)
    corrector = build_component("corrector", recipe.corrector, context, CorrectorObjective)
    balancer = build_component("balancer", recipe.balancer, context, Balancer)
    return Parts(
        teacher=apply_guidance(recipe, teacher),
        student=student,
        predictor=predictor,
        corrector=corrector,
        balancer=balancer,
        context=context,
        recipe=recipe,
        moments=found[0].sentence if found else None,
    )


def build_teacher(recipe: Recipe, *, meta: bool = False) -> Teacher:
    """Build a recipe's teacher; see `teacher_of`."""
    return teacher_of(recipe.teacher, recipe.conditions, meta=meta)


def teacher_of(table: Any, conditions_table: Any, *, meta: bool = False) -> Teacher:
    """Build the conditions of a table, if there is one, and a teacher with them; see Context.

    Raises BuildError as `build_component` does, and for a teacher that does not use the conditions.
    """
    context = Context(meta=meta)
    conditions = build_component("conditions", conditions_table, context, ConditionSource)
    context = Context(conditions=conditions, meta=meta)
    teacher: Teacher = build_component("teacher", table, context, Teacher)
    if conditions is not None and teacher.conditions is not conditions:
        kind = type(teacher.conditions).__name__
        raise BuildError(
            f"[conditions] the teacher brings its own conditions, {kind}, and does not use these: "
            "leave the table out, or build the teacher with context.conditions"
        )
    return teacher


def apply_guidance(recipe: Recipe, teacher: Teacher) -> Teacher:
    """Return the teacher with the recipe's guidance, or itself if the recipe does not guide."""
    guidance = recipe.guidance
    if not guidance.guides:
        return teacher
    with errors_of("guidance"):
        return Guided(teacher, guidance.interval, guidance.channels)


def _decide(name: str, recipe: Recipe, context: Context) -> Any:
    """Return an objective's table with every "auto" decided.

    A table may have `decide(context)`, which returns a table of the same class.
    """
    table = getattr(recipe, name)
    settle = getattr(table, "decide", None)
    if settle is None:
        return table
    with errors_of(name), fence():
        return settle(context)


def build_component(name: str, table: Any, context: Context, kind: type) -> Any:
    """Build the component of a table; None for no table. It must be an instance of `kind`.

    Any error but a ValueError gets a note that names the component.
    """
    if table is None:
        return None
    where = f"{type(table).__module__}:{type(table).__qualname__}"
    with errors_of(name), fence():
        try:
            made = table.build(context)
        except (Exception, SystemExit) as error:
            error.add_note(f"[{name}] {where} cannot be built")
            raise
    if not isinstance(made, kind):
        raise BuildError(f"[{name}] {where} builds {type(made).__name__}, not a {kind.__name__}")
    if isinstance(made, torch.nn.Module) and not context.meta:
        with errors_of(name):
            check_values(f"the {name}", made)
    return made


@contextmanager
def errors_of(name: str) -> Iterator[None]:
    """Turn a ValueError into a BuildError that names the part of the recipe."""
    try:
        yield
    except ValueError as error:
        found = place(error)
        raise BuildError(f"[{name}] {error}" + (f" (at {found})" if found else "")) from error


@contextmanager
def computing(training: Training, device: str | None = None) -> Iterator[str]:
    """Compute with the threads and the precision of a recipe; yield the device.

    Args:
        training: the recipe's table.
        device: a torch device to use instead of the recipe's.

    Raises BuildError for a device or a number of threads that this machine lacks.
    """
    with ExitStack() as stack:
        with errors_of("--device" if device else "training"):
            place = own_device(usable_device(device or training.device))
        with errors_of("training"):
            stack.enter_context(arithmetic(training.threads, tf32=training.tf32))
        if torch.device(place).type == "cpu":
            stack.enter_context(keep_freed_memory())
        yield place


def usable_device(name: str) -> str:
    """Return the torch device of this name, "auto" resolved; ValueError if it cannot be used."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:  # NotImplementedError is a RuntimeError
        raise ValueError(f"device {name!r} cannot be used: {error}") from None
    return name
