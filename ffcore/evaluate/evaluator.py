"""A recipe's own evaluation: `ffd run` ends with it, and `ffd evaluate RUN` repeats it.

On the same machine with as many threads, both give the same numbers to the last digit.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import attrs
import torch

from ffcore.evaluate.against_teacher import Evaluation, evaluate
from ffcore.evaluate.measurement import Measurement, identity
from ffcore.evaluate.pair import Pair
from ffcore.evaluate.reference import Reference
from ffcore.evaluate.stream import Progress, silent
from ffcore.interfaces import Context, Features, Student, Teacher
from ffcore.recipe import Recipe
from ffcore.recipe.components import (
    BuildError,
    apply_guidance,
    build_component,
    errors_of,
    usable_device,
)
from ffcore.system.allocator import keep_freed_memory
from ffcore.system.arithmetic import arithmetic
from ffcore.system.distributed import own_device
from ffcore.system.faults import enough_memory
from ffcore.system.files import MissingFile, locate
from ffcore.system.weights import UNKNOWN

REFERENCE = "reference.safetensors"
"""The file of a run's teacher statistics, if its recipe names no stored ones."""
_OWN = frozenset({"teacher", "evaluation"})


@attrs.frozen(kw_only=True, eq=False)
class Evaluator:
    """The measurement of a student that a recipe names, on one device."""

    teacher: Teacher
    """Guided if the recipe guides."""
    features: list[Features]
    measurement: Measurement
    reference: Reference | None
    """The stored one that the recipe names."""

    @staticmethod
    def of(recipe: Recipe, teacher: Teacher, context: Context, device: str) -> Evaluator:
        """Build what `recipe` names for its evaluation; new weights come from global random state.

        Args:
            recipe: resolved.
            teacher: guided where the recipe guides, on `device`.
            context: for the features; the teacher is unguided there.
            device: where the features are computed.

        Raises BuildError; MissingFile and WeightsError for the reference.
        """
        evaluation = recipe.evaluation
        features: list[Features] = [
            build_component("evaluation.features", each, context, Features).to(device)
            for each in evaluation.features
        ]
        names = [each.name for each in features]
        if len(set(names)) < len(names):
            raise BuildError(f"[evaluation] features must be named once each, found {names}")
        reference = None
        if evaluation.enabled and evaluation.reference:
            reference = Reference.read(evaluation.reference)
        return Evaluator(
            teacher=teacher,
            features=features,
            measurement=Measurement(
                samples=evaluation.samples,
                solver=evaluation.solver,
                euler=evaluation.euler,
                student_steps=evaluation.student_steps,
                seed=evaluation.seed,
                guidance=recipe.guidance.scale,
                batch=evaluation.batch,
            ),
            reference=reference,
        )

    def check(self) -> None:
        """Raise ValueError if the recipe's reference was made for something else."""
        if self.reference is None:
            return
        found = self._identity()
        if found["teacher"] == UNKNOWN:
            raise ValueError("a teacher without parameters cannot be recognised by a reference")
        try:
            self.reference.check(found)
        except ValueError as error:
            raise ValueError(f'{error}\n"none" samples the teacher again') from None

    def known_reference(self, directory: Path) -> Reference | None:
        """Return the recipe's reference, or the one that an evaluation left in its directory.

        None if neither was made for this. The statistics of a teacher without parameters never
        count, since nobody knows whether it is still the same.
        """
        if self.reference is not None:
            return self.reference
        path = directory / REFERENCE
        if not path.exists():
            return None
        reference, found = Reference.read(str(path)), self._identity()
        known = found["teacher"] != UNKNOWN
        return reference if known and reference.identity == found else None

    def evaluate(
        self, student: Student, reference: Reference | None, progress: Progress = silent
    ) -> tuple[Evaluation, Reference]:
        """Measure a student; see `ffcore.evaluate.against_teacher.evaluate`.

        Raises BuildError; OutOfMemory.
        """
        with (
            errors_of("evaluation"),
            enough_memory("the evaluation", "Make evaluation.batch smaller."),
        ):
            return evaluate(
                student, self.teacher, self.features, self.measurement, reference, progress
            )

    def _identity(self) -> dict[str, object]:
        return identity(self.teacher, self.features, self.measurement)


def evaluate_again(
    source: str | PathLike[str],
    *,
    device: str | None = None,
    overrides: Iterable[str] = (),
    progress: Progress = silent,
) -> tuple[Evaluation, tuple[str, ...]]:
    """Repeat the evaluation of a run, from its directory or from an export.

    Args:
        source: a run directory or an export.
        device: of torch; None for the recipe's.
        overrides: of the keys of the recipe's teacher and evaluation.
        progress: called after each batch.

    Returns:
        The evaluation, and notes for its reader.

    Raises what `Pair.open` and `Evaluator` raise.
    """
    pair = Pair.open(source, overrides, tables=_OWN)
    training = pair.recipe.training
    notes = list(pair.notes)
    _require_reference(pair.recipe)
    with errors_of("--device" if device else "training"):
        place = own_device(usable_device(device or training.device))
        computing = arithmetic(training.threads, tf32=training.tf32)
    with computing, keep_freed_memory(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        context = Context(teacher=pair.teacher, guidance_range=pair.recipe.guidance.range)
        teacher = apply_guidance(pair.recipe, pair.teacher).to(place)
        evaluator = Evaluator.of(pair.recipe, teacher, context, place)
        with errors_of("evaluation.reference"):
            evaluator.check()
        reference = evaluator.known_reference(pair.path.parent)
        if reference is None and evaluator.features:
            notes.append("there are no stored statistics of the teacher here: it was sampled again")
        student = pair.file.student.to(place)
        evaluation, _ = evaluator.evaluate(student, reference, progress)
        return evaluation, tuple(notes)


def _require_reference(recipe: Recipe) -> None:
    """Raise MissingFile if the recipe's reference is not here; an export may lack it."""
    evaluation = recipe.evaluation
    if not (evaluation.enabled and evaluation.reference):
        return
    try:
        locate(evaluation.reference)
    except MissingFile as error:
        raise MissingFile(
            f"the teacher's statistics are not here: {error}\n--set evaluation.reference=PATH "
            "names them, and --set evaluation.reference=none samples the teacher again"
        ) from None
