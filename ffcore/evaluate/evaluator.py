"""A run's own evaluation: the student's distance from its teacher, without data.

In each feature space it measures how far the student's samples, in one or more steps, are from the
teacher's converged samples from other noise; see `distribution`. For comparison it measures the
noise floor (the teacher against itself) and the teacher's own few-step Euler samples. The verdict
places the student among them. Beside it stands the trajectory error. `ffd run` does this at its
end, and `ffd evaluate RUN` repeats it. On the same machine with the same number of threads, the
numbers agree to the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from ffcore.evaluate.distribution import FEWEST, MOST, Cloud, Replicates, Yardstick
from ffcore.evaluate.measure import Seen, observe
from ffcore.evaluate.metrics import frechet_distance
from ffcore.evaluate.pair import Pair
from ffcore.evaluate.prior import Drawn, Measurement, Sampling, device_of, identity
from ffcore.evaluate.reference import Distances, EarlierReference, Reference
from ffcore.evaluate.stream import Progress, Working, silent
from ffcore.evaluate.trajectory import TRAJECTORIES, solver_error, trajectory_error
from ffcore.evaluate.verdict import (
    MEASURES,
    Estimate,
    Ladder,
    Standings,
    Verdict,
    standing,
    verdict,
)
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
from ffcore.system.weights import unidentified

REFERENCE = "reference.safetensors"
"""The file of a teacher's statistics in a run, if its recipe names no stored ones."""
SMALLER = "Make evaluation.batch smaller."
"""The advice if memory runs out in an evaluation."""
_OWN = frozenset({"conditions", "teacher", "evaluation"})


_SAMPLED = "the teacher, sampled now"


@attrs.frozen(kw_only=True)
class Evaluation:
    """The numbers at the end of a run."""

    verdict: Mapping[int, Verdict]
    """By the student's number of steps; none without features."""
    measures: Standings
    """Every measure of at most MOST samples; none if they are too few."""
    distances: Mapping[str, Distances]
    """Fréchet distances of all samples, by the name of the features."""
    trajectory_error: Mapping[float, Estimate | None]
    """‖f(z, δ) − Φ(z, δ)‖ / ‖Φ(z, δ) − z‖ for each δ, root mean square over z; None if the teacher
    moves nothing."""
    trajectories: int
    """Number of noises z behind each trajectory error."""
    solver_error: float | None = None
    """Error of the solver behind the converged samples, relative to the way; see `trajectory`."""
    best: Mapping[str, Any] | None = None
    """If the student is the best of several: its step, the measure, and its value in training."""
    identity: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        """Return JSON values, with None for a number that is not finite: JSON has none such."""
        found: dict[str, Any] = _finite(attrs.asdict(self))
        return found

    def undefined(self) -> list[str]:
        """Return the names of the numbers that `document` lacks although they were measured."""
        errors = self.trajectory_error.items()
        undefined = [f"trajectory_error.{delta:g}" for delta, each in errors if each is None]
        return [*undefined, *_not_finite(attrs.asdict(self))]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _not_finite(value: Any, name: str = "") -> Iterator[str]:
    """Yield the names of the numbers in a tree that are NaN or infinite."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _not_finite(each, f"{name}.{key}".lstrip("."))
    elif isinstance(value, float) and not math.isfinite(value):
        yield name


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
        if unknown := unidentified(found):
            raise ValueError(
                f"{unknown}, so ffcore cannot check stored statistics against it: use "
                'evaluation.reference = "none"'
            )
        try:
            self.reference.check(found)
        except ValueError as error:
            raise ValueError(f'{error}\n"none" samples the teacher again') from None

    def known_reference(self, directory: Path) -> Reference | None:
        """Return the recipe's reference, or the one that an evaluation stored in the directory.

        None if neither has these conditions. The statistics of a teacher that cannot be identified
        never count, since it may have changed.
        """
        if self.reference is not None:
            return self.reference
        path = directory / REFERENCE
        if not path.exists():
            return None
        try:
            reference = Reference.read(str(path))
        except EarlierReference:
            return None
        found = self._identity()
        fits = not unidentified(found) and reference.identity == found
        return reference if fits else None

    def make_reference(self, progress: Progress = silent) -> Reference:
        """Sample the teacher: converged twice, and by each number of Euler steps.

        The Euler samples start from the noise that the student's will start from.
        """
        if not self.features:
            return Reference.of_teacher(_SAMPLED, {}, {}, self._identity(), {}, {})
        exact = self.measurement.solver

        def seen(solver: Solver, purpose: str, title: str) -> dict[str, Seen]:
            def make(z: Tensor, condition: Condition) -> Tensor:
                return integrate(self.teacher, z, condition, solver)

            samples = Drawn(make, self.teacher, self.measurement, purpose)
            return observe(samples, self.features, self._working(progress, title))

        converged = seen(exact, "reference", "teacher, converged")
        again = seen(exact, "floor", "teacher, converged, other noise")
        euler = {
            steps: seen(Solver("euler", steps), "student", f"teacher, Euler {steps}")
            for steps in self.measurement.euler
        }
        baselines = {
            name: Distances(
                floor=frechet_distance(again[name].statistics, there.statistics),
                euler={
                    steps: frechet_distance(each[name].statistics, there.statistics)
                    for steps, each in euler.items()
                },
            )
            for name, there in converged.items()
        }
        enough = self.measurement.samples >= FEWEST
        clouds = {name: each.cloud for name, each in converged.items() if enough}
        ladders = {
            name: _ladders(
                Yardstick(cloud),
                again[name].cloud,
                {steps: each[name].cloud for steps, each in euler.items()},
            )
            for name, cloud in clouds.items()
        }
        return Reference.of_teacher(
            _SAMPLED,
            {name: each.statistics for name, each in converged.items()},
            baselines,
            self._identity(),
            clouds,
            ladders,
        )

    def converged(self, samples: int, directory: Path, progress: Progress = silent) -> Cloud:
        """Return the teacher's first converged samples in the first features.

        A reference that fits spares their sampling; both are the same samples.

        Args:
            samples: their number, at most that of the measurement.
            directory: of the run; see `known_reference`.
            progress: called after each batch.
        """
        known, name = self.known_reference(directory), self.features[0].name
        if known is not None and len(known.clouds.get(name, ())) >= samples:
            return known.clouds[name][:samples]

        def make(z: Tensor, condition: Condition) -> Tensor:
            return integrate(self.teacher, z, condition, self.measurement.solver)

        few = attrs.evolve(self.measurement, samples=samples)
        return self.seen(make, few, "reference", self._working(progress, "teacher, converged"))

    def seen(
        self, make: Sampling, measurement: Measurement, purpose: str, working: Working | None = None
    ) -> Cloud:
        """Return samples in the first features.

        Args:
            make: generates them from noise and conditions.
            measurement: their number and their seed.
            purpose: the name of their noise.
            working: how to compute; by default on the teacher's device, in this process.
        """
        drawn = Drawn(make, self.teacher, measurement, purpose)
        first = self.features[0]
        working = working or self._working(silent, "")
        return observe(drawn, [first], working)[first.name].cloud

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
        found = self._observed(student, reference, progress)
        measures = _standings(found, reference)
        samples = min(measurement.samples, MOST)
        evaluation = Evaluation(
            verdict={steps: verdict(measures, steps, samples) for steps in found},
            measures=measures,
            distances=_distances(found, reference),
            trajectory_error=trajectory_error(student, self.teacher, measurement, progress),
            trajectories=TRAJECTORIES,
            solver_error=solver_error(self.teacher, measurement, progress),
            identity=reference.identity,
        )
        return evaluation, reference

    def _observed(
        self, student: Student, reference: Reference, progress: Progress
    ) -> dict[int, dict[str, Seen]]:
        """Return the student's samples in each feature space, by the number of steps, 1 first."""
        found: dict[int, dict[str, Seen]] = {}
        for steps in sorted({1, *self.measurement.student_steps}) if self.features else ():
            title = "student, one step" if steps == 1 else f"student, {steps} steps"
            make = partial(generate, student, steps=steps)
            samples = Drawn(make, self.teacher, self.measurement, "student")
            working = self._working(progress, title)
            found[steps] = observe(samples, self.features, working, reference.statistics)
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


def _ladders(yardstick: Yardstick, floor: Cloud, euler: Mapping[int, Cloud]) -> dict[str, Ladder]:
    """Return the teacher's own samples in each measure."""
    at_floor = yardstick.measures(floor)
    at = {steps: yardstick.measures(cloud) for steps, cloud in euler.items()}
    return {
        measure: Ladder(floor=found, euler={steps: each[measure] for steps, each in at.items()})
        for measure, found in at_floor.items()
        if all(measure in each for each in at.values())
    }


def _standings(found: Mapping[int, Mapping[str, Seen]], reference: Reference) -> Standings:
    """Return the standing in each measure that teacher and student both have."""
    standings = {}
    for name, cloud in reference.clouds.items():
        yardstick = Yardstick(cloud)
        at: dict[int, dict[str, Replicates]] = {
            steps: yardstick.measures(each[name].cloud) for steps, each in found.items()
        }
        standings[name] = {
            measure: standing(measure, {steps: each[measure] for steps, each in at.items()}, ladder)
            for measure in MEASURES
            if (ladder := reference.ladders[name].get(measure)) is not None
            and all(measure in each for each in at.values())
        }
    return standings


def _distances(
    found: Mapping[int, Mapping[str, Seen]], reference: Reference
) -> dict[str, Distances]:
    """Return the Fréchet distances in each feature space."""
    distances = {}
    for name, baselines in reference.baselines.items():
        there = reference.statistics[name]
        at = {s: frechet_distance(each[name].statistics, there) for s, each in found.items()}
        one = at.pop(1)
        distances[name] = attrs.evolve(baselines, student=one, student_steps=at)
    return distances


def evaluate_again(
    source: str | PathLike[str],
    *,
    device: str | None = None,
    overrides: Iterable[str] = (),
    trust: bool = False,
    progress: Progress = silent,
) -> tuple[Evaluation, tuple[str, ...]]:
    """Repeat the evaluation of a run, from its directory or from an export.

    Args:
        source: a run directory, one of its checkpoints or an export.
        device: a torch device; None for the recipe's.
        overrides: of the keys of the recipe's teacher and evaluation.
        trust: let its files name classes outside plugins; see `registry_of`.
        progress: called after each batch.

    Returns:
        The evaluation, and notes for its reader.

    Raises the errors of `Pair.open` and `Evaluator`.
    """
    pair = Pair.open(source, overrides, tables=_OWN, trust=trust)
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
        reference = evaluator.known_reference(pair.folder)
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
