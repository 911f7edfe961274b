"""Measures a student against its teacher, with no data.

In each feature space a Fréchet distance compares the student's samples, in one step or in more,
with the teacher's converged samples of other noise. Beside it stand the noise floor (the teacher
against itself) and the teacher's own few-step Euler samples. The trajectory error compares f(z, δ)
with the teacher's solution from the same z. `ffd run` measures this at its end, and `ffd evaluate
RUN` repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from ffcore.evaluate.measure import feature_statistics, measure
from ffcore.evaluate.measurement import (
    Drawn,
    Measurement,
    device_of,
    identity,
    prior,
)
from ffcore.evaluate.metrics import Statistics, frechet_distance
from ffcore.evaluate.reference import Distances, Reference
from ffcore.evaluate.stream import Progress, Working, silent
from ffcore.flow.flow_map import check_steps, generate
from ffcore.flow.ode import integrate
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, Features, Student, Teacher

DELTAS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


@attrs.frozen(kw_only=True)
class Evaluation:
    """The numbers at the end of a run."""

    distances: Mapping[str, Distances]
    trajectory_error: Mapping[float, float]
    """‖f(z, δ) − Φ(z, δ)‖ / ‖Φ(z, δ) − z‖ for each δ, root mean square over z."""
    identity: Mapping[str, Any]


def make_reference(
    teacher: Teacher,
    features: Sequence[Features],
    measurement: Measurement,
    progress: Progress = silent,
) -> Reference:
    """Sample the teacher: converged twice, and by each number of Euler steps.

    The Euler samples start from the noise that the student's will start from.
    """

    def statistics(solver: Solver, purpose: str, title: str) -> dict[str, Statistics]:
        def make(z: Tensor, condition: Condition) -> Tensor:
            return integrate(teacher, z, condition, solver)

        samples = Drawn(make, teacher, measurement, purpose)
        return feature_statistics(samples, features, _working(teacher, progress, title))

    made_for = identity(teacher, features, measurement)
    if not features:
        return Reference.of_teacher(_SAMPLED, {}, {}, made_for)
    exact = measurement.solver
    converged = statistics(exact, "reference", "teacher, converged")
    again = statistics(exact, "floor", "teacher, converged, other noise")
    euler = {
        steps: statistics(Solver("euler", steps), "student", f"teacher, Euler {steps}")
        for steps in measurement.euler
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
    return Reference.of_teacher(_SAMPLED, converged, baselines, made_for)


@torch.no_grad()
def trajectory_error(
    student: Student,
    teacher: Teacher,
    measurement: Measurement,
    count: int = 256,
    progress: Progress = silent,
) -> dict[float, float]:
    """Return the relative error of the flow map for each δ, against the teacher's ODE.

    An eighth of the measurement's solver steps, at least 8, cover each eighth of the way.
    """
    error = dict.fromkeys(DELTAS, 0.0)
    moved = dict.fromkeys(DELTAS, 0.0)
    steps = max(8, measurement.solver.steps // len(DELTAS))
    solver = attrs.evolve(measurement.solver, steps=steps, last_step="full")
    for z, condition in prior(teacher, measurement, "trajectory", count):
        state, before = z, 0.0
        for index, delta in enumerate(DELTAS):
            state = integrate(
                teacher,
                state,
                condition,
                solver,
                start=1 - before,
                stop=1 - delta,
            )
            found = generate(student, z, condition, delta)
            error[delta] += float((found - state).double().square().sum())
            moved[delta] += float((state - z).double().square().sum())
            before = delta
            progress("trajectory error", index + 1, len(DELTAS))
    tiny = torch.finfo(torch.float64).tiny  # a teacher with velocity 0
    return {delta: (error[delta] / max(moved[delta], tiny)) ** 0.5 for delta in DELTAS}


def evaluate(
    student: Student,
    teacher: Teacher,
    features: Sequence[Features],
    measurement: Measurement,
    reference: Reference | None = None,
    progress: Progress = silent,
) -> tuple[Evaluation, Reference]:
    """Measure a student against its teacher.

    Args:
        student: as it should be judged; usually the EMA.
        teacher: guided as in training.
        features: the feature spaces; without any, the trajectory error is all that is measured.
        measurement: the conditions.
        reference: the teacher's statistics under the same conditions; None samples it again.
        progress: called after each batch.

    Raises ValueError if the reference was made under other conditions, and for more steps than the
    student can make.
    """
    for steps in measurement.student_steps:
        check_steps(student, steps)
    if reference is None:
        reference = make_reference(teacher, features, measurement, progress)
    reference.check(identity(teacher, features, measurement))
    found: dict[str, dict[int, float]] = {each.name: {} for each in features}
    for steps in sorted({1, *measurement.student_steps}) if features else ():
        title = "student, one step" if steps == 1 else f"student, {steps} steps"
        samples = Drawn(partial(generate, student, steps=steps), teacher, measurement, "student")
        working = _working(teacher, progress, title)
        for name, each in measure(samples, reference, features, ("fd",), working).features.items():
            assert each.fd is not None
            found[name][steps] = each.fd
    evaluation = Evaluation(
        distances={
            name: attrs.evolve(reference.baselines[name], student=each.pop(1), student_steps=each)
            for name, each in found.items()
        },
        trajectory_error=trajectory_error(student, teacher, measurement, progress=progress),
        identity=reference.identity,
    )
    return evaluation, reference


_SAMPLED = "the teacher, sampled now"


def _working(teacher: Teacher, progress: Progress, title: str) -> Working:
    """Return how to measure: by this process alone, even where there are others.

    Each may hold only shards of a network, and all of them make the same calls.
    """

    def report(what: str, done: int, total: int) -> None:
        if what == "samples" and done:
            progress(title, done, total)

    return Working(device=device_of(teacher), progress=report)
