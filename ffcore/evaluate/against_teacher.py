"""What a student is worth: its distance from its teacher, with no data.

Fréchet distances are between the student's samples, in one step and in more if asked for, and the
teacher's converged ones, of different noise, in each feature space; beside them the noise floor
(the teacher against itself) and the teacher's own few-step Euler samples. The trajectory error
compares f(z, δ) with the teacher's solution from the same z.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from ffcore.draws import Draws
from ffcore.evaluate.metrics import Moments, Statistics, frechet_distance
from ffcore.flow.flow_map import check_steps, generate
from ffcore.flow.guidance import Guided, unguided
from ffcore.flow.ode import integrate
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, Features, Student, Teacher
from ffcore.system.weights import WeightsError, fingerprint, read_weights, write_weights

Progress = Callable[[str, int, int], None]
"""(what is going on, done, of how many)."""

DELTAS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


def silent(what: str, done: int, total: int) -> None:
    """Report no progress."""
    del what, done, total


@attrs.frozen(kw_only=True)
class Measurement:
    """The conditions under which distances are measured; comparable only if they are equal."""

    samples: int = 5000
    solver: Solver = attrs.field(factory=Solver)
    euler: tuple[int, ...] = (1, 2, 4, 8, 16)
    seed: int = 1_000_000
    guidance: float = 1.0
    student_steps: tuple[int, ...] = attrs.field(default=(1,), eq=False)
    """Steps in which the student's samples are made; 1 in any case. No reference depends on it."""
    batch: int = attrs.field(default=500, eq=False)
    """Samples generated at a time; without influence on their noise."""


@attrs.frozen(kw_only=True)
class Distances:
    """Fréchet distances to the teacher's converged samples in one feature space."""

    floor: float
    """Of the teacher's converged samples from other noise."""
    euler: Mapping[int, float]
    """Of the teacher's samples by so many Euler steps."""
    student: float | None = None
    """Of the student's one-step samples."""
    student_steps: Mapping[int, float] = attrs.field(factory=dict)
    """Of its samples in more steps, by their number."""


@attrs.frozen(kw_only=True, eq=False)
class Reference:
    """A teacher's converged statistics and baselines, which depend on no student."""

    statistics: Mapping[str, Statistics]
    distances: Mapping[str, Distances]
    identity: Mapping[str, Any]
    """What the numbers depend on: teacher, feature networks, measurement."""

    def write(self, path: Path) -> None:
        """Write to a safetensors file."""
        tensors = {}
        for name, statistics in self.statistics.items():
            tensors[f"{name}.mu"] = torch.from_numpy(statistics.mu)
            tensors[f"{name}.sigma"] = torch.from_numpy(statistics.sigma)
        distances = {name: attrs.asdict(each) for name, each in self.distances.items()}
        write_weights(path, tensors, {"identity": self.identity, "distances": distances})

    @staticmethod
    def read(source: str) -> Reference:
        """Read what `write` wrote. Raises WeightsError where it is not that."""
        file = read_weights(source)
        try:
            return Reference(
                statistics={
                    name: Statistics(
                        file.tensors[f"{name}.mu"].numpy(), file.tensors[f"{name}.sigma"].numpy()
                    )
                    for name in file.config["distances"]
                },
                distances={
                    name: Distances(
                        floor=each["floor"],
                        euler={int(steps): value for steps, value in each["euler"].items()},
                    )
                    for name, each in file.config["distances"].items()
                },
                identity=file.config["identity"],
            )
        except KeyError as error:
            raise WeightsError(
                f"{source} is not a teacher's reference: {error} is missing"
            ) from None

    def check(self, identity: Mapping[str, Any]) -> None:
        """Raise ValueError, naming what differs, unless the reference was made for `identity`."""
        different = [
            f"{name}: the reference has {self.identity.get(name)}, this run {identity.get(name)}"
            for name in sorted(identity.keys() | self.identity.keys())
            if identity.get(name) != self.identity.get(name)
        ]
        if different:
            raise ValueError(
                "the reference statistics were made under other conditions:\n  "
                + "\n  ".join(different)
            )


@attrs.frozen(kw_only=True)
class Evaluation:
    """The numbers at the end of a run."""

    distances: Mapping[str, Distances]
    trajectory_error: Mapping[float, float]
    """‖f(z, δ) − Φ(z, δ)‖ / ‖Φ(z, δ) − z‖ for each δ, root mean square over z."""
    identity: Mapping[str, Any]


def identity(
    teacher: Teacher, features: Sequence[Features], measurement: Measurement
) -> dict[str, Any]:
    """Return what a teacher's statistics depend on, as plain values."""
    conditions = attrs.asdict(measurement)
    del conditions["batch"], conditions["student_steps"]
    if isinstance(teacher, Guided) and measurement.guidance != 1:
        conditions |= {"interval": list(teacher.interval), "channels": teacher.channels}
    base = unguided(teacher)
    networks = {f"features {each.name}": fingerprint(each) for each in features}
    plain = {"teacher": fingerprint(base), **networks, **conditions}
    return dict(json.loads(json.dumps(plain)))  # tuples become lists, as in a file


def prior(
    teacher: Teacher, measurement: Measurement, purpose: str, count: int | None = None
) -> Iterator[tuple[Tensor, Condition]]:
    """Yield batches of noise and conditions; a sample's depend on (seed, purpose, index) alone."""
    total = count or measurement.samples
    device = next((p.device for p in [*teacher.parameters(), *teacher.buffers()]), "cpu")
    for start in range(0, total, measurement.batch):
        stop = min(total, start + measurement.batch)
        draws = Draws(measurement.seed, 0, start, stop, str(device)).named("evaluation", purpose)
        condition = teacher.conditions.draw(draws)
        if measurement.guidance != 1:
            condition = condition.at(measurement.guidance, device)
        yield draws.normal("z", teacher.sample_shape), condition


Sampler = Callable[[Tensor, Condition], Tensor]


def _teacher_sampler(teacher: Teacher, solver: Solver) -> Sampler:
    return lambda z, condition: integrate(teacher, z, condition, solver)


def _converged(teacher: Teacher, measurement: Measurement) -> Sampler:
    return _teacher_sampler(teacher, measurement.solver)


@torch.no_grad()
def feature_statistics(
    sampler: Sampler,
    teacher: Teacher,
    features: Sequence[Features],
    measurement: Measurement,
    purpose: str,
    progress: Progress = silent,
    what: str = "sampling",
) -> dict[str, Statistics]:
    """Return the statistics of a sampler's samples in each feature space."""
    found = {each.name: Moments() for each in features}
    done = 0
    for z, condition in prior(teacher, measurement, purpose):
        samples = sampler(z, condition)
        for each in features:
            found[each.name].add(each(samples))
        done += len(z)
        progress(what, done, measurement.samples)
    return {name: moments.statistics() for name, moments in found.items()}


def make_reference(
    teacher: Teacher,
    features: Sequence[Features],
    measurement: Measurement,
    progress: Progress = silent,
) -> Reference:
    """Sample the teacher: converged twice, and by each number of Euler steps.

    The Euler samples start from the noise that the student's will start from.
    """
    made_for = identity(teacher, features, measurement)
    if not features:
        return Reference(statistics={}, distances={}, identity=made_for)
    exact = _converged(teacher, measurement)

    def statistics(sampler: Sampler, purpose: str, what: str) -> dict[str, Statistics]:
        return feature_statistics(sampler, teacher, features, measurement, purpose, progress, what)

    converged = statistics(exact, "reference", "teacher, converged")
    again = statistics(exact, "floor", "teacher, converged, other noise")
    euler = {
        steps: statistics(
            _teacher_sampler(teacher, Solver("euler", steps)), "student", f"teacher, Euler {steps}"
        )
        for steps in measurement.euler
    }
    distances = {
        name: Distances(
            floor=frechet_distance(again[name], converged[name]),
            euler={
                steps: frechet_distance(found[name], converged[name])
                for steps, found in euler.items()
            },
        )
        for name in converged
    }
    return Reference(
        statistics=converged,
        distances=distances,
        identity=made_for,
    )


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
    tiny = torch.finfo(torch.float64).tiny  # a teacher that moves nothing
    return {delta: (error[delta] / max(moved[delta], tiny)) ** 0.5 for delta in DELTAS}


def _student_distances(
    student: Student,
    teacher: Teacher,
    features: Sequence[Features],
    measurement: Measurement,
    reference: Reference,
    progress: Progress,
) -> dict[str, dict[int, float]]:
    """Return the distance in each feature space, by the number of steps, 1 first."""
    found: dict[str, dict[int, float]] = {each.name: {} for each in features}
    for steps in sorted({1, *measurement.student_steps}) if features else ():
        statistics = feature_statistics(
            partial(generate, student, steps=steps),
            teacher,
            features,
            measurement,
            "student",
            progress,
            "student, one step" if steps == 1 else f"student, {steps} steps",
        )
        for name, each in statistics.items():
            found[name][steps] = frechet_distance(each, reference.statistics[name])
    return found


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
        student: as it should be judged; usually the moving average.
        teacher: guided as in training.
        features: the feature spaces; without any, the trajectory error is all that is measured.
        measurement: the conditions.
        reference: the teacher's statistics, made under the same conditions; sampled anew if None.
        progress: told of each batch.

    Raises ValueError where the reference was made under other conditions, and for more steps than
    the student can make.
    """
    for steps in measurement.student_steps:
        check_steps(student, steps)
    if reference is None:
        reference = make_reference(teacher, features, measurement, progress)
    reference.check(identity(teacher, features, measurement))
    distances = {
        name: attrs.evolve(
            reference.distances[name],
            student=found.pop(1),
            student_steps=found,
        )
        for name, found in _student_distances(
            student, teacher, features, measurement, reference, progress
        ).items()
    }
    evaluation = Evaluation(
        distances=distances,
        trajectory_error=trajectory_error(student, teacher, measurement, progress=progress),
        identity=reference.identity,
    )
    return evaluation, reference
