"""The subject of a verification: a student and its teacher, from a run directory or an export."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import Any

import attrs
import torch

from ffcore.evaluate.pair import Pair
from ffcore.export import StudentFile
from ffcore.flow.guidance import Guided
from ffcore.interfaces import (
    ClassFeatures,
    Context,
    Features,
    Labels,
    Student,
    Teacher,
    VelocityField,
)
from ffcore.plugins import installed
from ffcore.recipe import Recipe, Training
from ffcore.recipe.components import build_component, errors_of, usable_device
from ffcore.recipe.tables import components
from ffcore.sample import StudentSampler
from ffcore.system.files import MissingFile, require
from ffcore.system.weights import fingerprint
from ffcore.training.optimizer import Optimizer


@attrs.frozen(kw_only=True, eq=False)
class Subject:
    """A student and its teacher on one device, ready to compare."""

    student: Student
    teacher: Teacher
    """Guided by the scale in a condition."""
    guidance: float
    """The scale γ of the comparison."""
    network: VelocityField | None
    """The network to fit to samples: the teacher's trainable copy, or a named one; None without
    either. It is copied before it is trained."""
    optimizer: Optimizer
    """The recipe's, for that fit."""
    training: Training
    """The recipe's: its batch is that fit's, its threads and precision are the verification's."""
    classifiers: tuple[ClassFeatures, ...]
    """The recipe's features that know the teacher's classes."""
    record: dict[str, Any]
    """The identity of both, ready for JSON."""
    notes: tuple[str, ...]
    """Notes for the reader of the numbers."""


def open_subject(
    source: str | PathLike[str],
    *,
    guidance: float | None = None,
    network: Any = None,
    device: str = "auto",
    overrides: Iterable[str] = (),
    trust: bool = False,
) -> Subject:
    """Open the student of a source, and the teacher that the recipe beside it names.

    Args:
        source: a run directory or an export.
        guidance: the scale γ; by default the recipe's.
        network: a table of the role network, to fit instead of the teacher's copy.
        device: a torch device; "auto" takes a GPU if there is one.
        overrides: of the keys of the recipe's teacher, as in "teacher.weights=PATH".
        trust: let its files name classes outside plugins; see `registry_of`.

    Raises SourceError if there is no student or no recipe, or if the teacher is not the student's;
    MissingFile, WeightsError, BuildError, RecipeError; SampleError for a scale that the student was
    not trained for.
    """
    pair = Pair.open(source, overrides, trust=trust)
    found, recipe, teacher, notes = pair.file, pair.recipe, pair.teacher, list(pair.notes)
    with errors_of("--device"):
        place = usable_device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        context = Context(teacher=teacher)
        classifiers = _classifiers(recipe, context, notes)
        fitted = _network(recipe, network, context)
    scale = found.scale if guidance is None else guidance
    _check_scale(found, teacher, scale)
    trained = found.config["guidance"]
    guided = Guided(teacher, tuple(trained["interval"]), trained["channels"])
    return Subject(
        student=found.student.to(place),
        teacher=guided.to(place),
        guidance=scale,
        network=None if fitted is None else fitted.to(place),
        optimizer=recipe.optimizer,
        training=recipe.training,
        classifiers=tuple(each.to(place).eval() for each in classifiers),
        record={
            "source": str(source),
            "student": {"fingerprint": fingerprint(found.student), "step": found.config["step"]},
            "teacher": {
                "type": installed().type_name("teacher", recipe.teacher),
                "fingerprint": fingerprint(teacher),
                "conditions": teacher.conditions.fingerprint(),
            },
            "guidance": {**trained, "scale": scale},
            "device": place,
        },
        notes=tuple(notes),
    )


def _check_scale(found: StudentFile, teacher: Teacher, scale: float) -> None:
    StudentSampler(
        found.student,
        found.sample_shape,
        teacher.conditions,
        scale=found.scale,
        range=found.range,
    ).check(scale, None)


def _classifiers(recipe: Recipe, context: Context, notes: list[str]) -> list[ClassFeatures]:
    """Return the recipe's features that know the teacher's classes."""
    source = context.teacher.conditions if context.teacher else None
    found: list[ClassFeatures] = []
    for table in recipe.evaluation.features if isinstance(source, Labels) else ():
        try:
            require(getattr(table, "files", ()))
        except MissingFile:
            name = installed().type_name("features", table)
            notes.append(f"the features {name} are left out: their files are missing")
            continue
        features = build_component("evaluation.features", table, context, Features)
        if isinstance(features, ClassFeatures) and features.classes == context.classes:
            found.append(features)
    return found


def _network(recipe: Recipe, table: Any, context: Context) -> VelocityField | None:
    """Return a network to fit: from the table, the teacher's copy, or the recipe's."""
    assert context.teacher is not None
    if table is None and (copy := context.teacher.trainable_copy()) is not None:
        return copy
    named = (each for role, each in components(recipe.corrector) if role == "network")
    network: VelocityField | None = build_component(
        "network", table or next(named, None), context, VelocityField
    )
    return network
