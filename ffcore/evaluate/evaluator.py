"""A run's own evaluation: the student's distance from its teacher, without data.

In each feature space it measures the Fréchet distance between the student's samples, in one or more
steps, and the teacher's converged samples from other noise. For comparison it measures the noise
floor (the teacher against itself) and the teacher's own few-step Euler samples. It also measures
the trajectory error. `ffd run` does this at its end, and `ffd evaluate RUN` repeats it. On the same
machine with the same number of threads, the numbers agree to the last digit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from ffcore.evaluate.measure import feature_statistics, measure
from ffcore.evaluate.metrics import Statistics, frechet_distance
from ffcore.evaluate.pair import Pair
from ffcore.evaluate.prior import Drawn, Measurement, device_of, identity
from ffcore.evaluate.reference import Distances, Reference
from ffcore.evaluate.stream import Progress, Working, silent
from ffcore.evaluate.trajectory import trajectory_error
from ffcore.flow.flow_map import check_steps, generate
from ffcore.flow.ode import integrate
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, Context, Features, Student, Teacher
from ffcore.recipe import Recipe
from ffcore.recipe.components import (
    BuildError,
    apply_guidance,
    build_component,
    computing,
    errors_of,
)
from ffcore.system.faults import enough_memory
from ffcore.system.files import MissingFile, locate
from ffcore.system.weights import UNKNOWN

REFERENCE = "reference.safetensors"
"""The file of a teacher's statistics in a run, if its recipe names no stored ones."""
SMALLER = "Make evaluation.batch smaller."
"""The advice if memory runs out in an evaluation."""
_OWN = frozenset({"teacher", "evaluation"})


_SAMPLED = "the teacher, sampled now"


@attrs.frozen(kw_only=True)
class Evaluation:
    """The numbers at the end of a run."""

    distances: Mapping[str, Distances]
    trajectory_error: Mapping[float, float]
    """‖f(z, δ) − Φ(z, δ)‖ / ‖Φ(z, δ) − z‖ for each δ, root mean square over z."""
    identity: Mapping[str, Any]


@attrs.frozen(kw_only=True, eq=False)
class Evaluator:
    """The measurement of a student that a recipe names, on one device."""

    teacher: Teacher
    """Guided if the recipe guides."""
    features: list[Features]
    measurement: Measurement
    reference: Reference | None = None
    """The stored reference that the recipe names."""

    @staticmethod
    def of(recipe: Recipe, teacher: Teacher, context: Context, device: str) -> Evaluator:
        """Build the evaluator of `recipe`; new weights come from global random state.

        Args:
            recipe: resolved.
            teacher: guided if the recipe guides, on `device`.
            context: for the features; its teacher is unguided.
            device: of the features.

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
        """Raise ValueError if the recipe's reference has other conditions."""
        if self.reference is None:
            return
        found = self._identity()
        if found["teacher"] == UNKNOWN:
            raise ValueError("a reference cannot identify a teacher without parameters")
        try:
            self.reference.check(found)
        except ValueError as error:
            raise ValueError(f'{error}\n"none" samples the teacher again') from None

    def known_reference(self, directory: Path) -> Reference | None:
        """Return the recipe's reference, or the one that an evaluation stored in the directory.

        None if neither has these conditions. The statistics of a teacher without parameters never
        count, since it may have changed.
        """
        if self.reference is not None:
            return self.reference
        path = directory / REFERENCE
        if not path.exists():
            return None
        reference, found = Reference.read(str(path)), self._identity()
        known = found["teacher"] != UNKNOWN
        return reference if known and reference.identity == found else None

    def make_reference(self, progress: Progress = silent) -> Reference:
        """Sample the teacher: converged twice, and by each number of Euler steps.

        The Euler samples start from the noise that the student's will start from.
        """
        if not self.features:
            return Reference.of_teacher(_SAMPLED, {}, {}, self._identity())
        exact = self.measurement.solver

        def found(solver: Solver, purpose: str, title: str) -> dict[str, Statistics]:
            def make(z: Tensor, condition: Condition) -> Tensor:
                return integrate(self.teacher, z, condition, solver)

            samples = Drawn(make, self.teacher, self.measurement, purpose)
            return feature_statistics(samples, self.features, self._working(progress, title))

        converged = found(exact, "reference", "teacher, converged")
        again = found(exact, "floor", "teacher, converged, other noise")
        euler = {
            steps: found(Solver("euler", steps), "student", f"teacher, Euler {steps}")
            for steps in self.measurement.euler
        }
        baselines = {
            name: Distances(
                floor=frechet_distance(again[name], converged[name]),
                euler={
                    steps: frechet_distance(each[name], converged[name])
                    for steps, each in euler.items()
                },
            )
            for name in converged
        }
        return Reference.of_teacher(_SAMPLED, converged, baselines, self._identity())

    def evaluate(
        self, student: Student, reference: Reference | None = None, progress: Progress = silent
    ) -> tuple[Evaluation, Reference]:
        """Measure a student against its teacher.

        Args:
            student: as it should be judged; usually the EMA.
            reference: the teacher's statistics; sampled now if None.
            progress: called after each batch.

        Raises ValueError if the reference has other conditions, and for more steps than the student
        can make.
        """
        measurement = self.measurement
        for steps in measurement.student_steps:
            check_steps(student, steps)
        if reference is None:
            reference = self.make_reference(progress)
        reference.check(self._identity())
        distances = {
            name: attrs.evolve(reference.baselines[name], student=found.pop(1), student_steps=found)
            for name, found in self._distances(student, reference, progress).items()
        }
        errors = trajectory_error(student, self.teacher, measurement, progress=progress)
        evaluation = Evaluation(
            distances=distances, trajectory_error=errors, identity=reference.identity
        )
        return evaluation, reference

    def _distances(
        self, student: Student, reference: Reference, progress: Progress
    ) -> dict[str, dict[int, float]]:
        """Return the distance in each feature space, by the number of steps, 1 first."""
        found: dict[str, dict[int, float]] = {each.name: {} for each in self.features}
        for steps in sorted({1, *self.measurement.student_steps}) if self.features else ():
            title = "student, one step" if steps == 1 else f"student, {steps} steps"
            make = partial(generate, student, steps=steps)
            samples = Drawn(make, self.teacher, self.measurement, "student")
            working = self._working(progress, title)
            measured = measure(samples, reference, self.features, ("fd",), working)
            for name, each in measured.features.items():
                assert each.fd is not None
                found[name][steps] = each.fd
        return found

    def _working(self, progress: Progress, title: str) -> Working:
        """Return the settings to measure in this process, even if there are others.

        With sharded networks every process must make the same calls.
        """

        def titled(what: str, done: int, total: int) -> None:
            if what == "samples" and done:
                progress(title, done, total)

        return Working(device=device_of(self.teacher), progress=titled)

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
        device: a torch device; None for the recipe's.
        overrides: of the keys of the recipe's teacher and evaluation.
        progress: called after each batch.

    Returns:
        The evaluation, and notes for its reader.

    Raises the errors of `Pair.open` and `Evaluator`.
    """
    pair = Pair.open(source, overrides, tables=_OWN)
    training = pair.recipe.training
    notes = list(pair.notes)
    _require_reference(pair.recipe)
    with computing(training, device) as place, torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        context = Context(teacher=pair.teacher, guidance_range=pair.recipe.guidance.range)
        teacher = apply_guidance(pair.recipe, pair.teacher).to(place)
        evaluator = Evaluator.of(pair.recipe, teacher, context, place)
        with errors_of("evaluation.reference"):
            evaluator.check()
        reference = evaluator.known_reference(pair.path.parent)
        if reference is None and evaluator.features:
            notes.append("no stored statistics of the teacher were found: it was sampled again")
        student = pair.file.student.to(place)
        with errors_of("evaluation"), enough_memory("the evaluation", SMALLER):
            evaluation, _ = evaluator.evaluate(student, reference, progress)
        return evaluation, tuple(notes)


def _require_reference(recipe: Recipe) -> None:
    """Raise MissingFile if the recipe's reference is missing; an export may lack it."""
    evaluation = recipe.evaluation
    if not (evaluation.enabled and evaluation.reference):
        return
    try:
        locate(evaluation.reference)
    except MissingFile as error:
        raise MissingFile(
            f"the teacher's statistics are missing: {error}\nUse --set evaluation.reference=PATH "
            "to name them, or --set evaluation.reference=none to sample the teacher again"
        ) from None
