"""What a student is worth: distances and trajectory errors against a teacher."""

import weakref
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from inputs import Stream
from networks import ExactStudent, FieldTeacher
from PIL import Image
from torch import Tensor

from ffcore.evaluate.evaluator import Evaluator
from ffcore.evaluate.measure import feature_statistics
from ffcore.evaluate.metrics import Statistics, frechet_distance
from ffcore.evaluate.prior import Drawn, Measurement, identity, prior
from ffcore.evaluate.reference import Reference
from ffcore.evaluate.stored import EvaluationError, _pixels
from ffcore.evaluate.trajectory import DELTAS, solver_error, trajectory_error
from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.flow.guidance import Guided
from ffcore.flow.ode import integrate
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, Features
from ffcore.system.weights import WeightsError, write_weights
from ffcore_exact.features import Raw

TEACHER = Gaussian([1.0, -2.0, 0.5], 0.7)
MEASUREMENT = Measurement(samples=2000, solver=Solver("rk4", 32), euler=(1, 4), batch=512)
# Between two samples of N from one Gaussian of d dimensions the means alone are off by 2 d s² / N
# in expectation, and the covariances by as much again and less; three times that is no accident.
FLOOR = 3 * 4 * 3 * 0.7**2 / 2000


def evaluator(*features: Features, measurement: Measurement = MEASUREMENT) -> Evaluator:
    return Evaluator(teacher=TEACHER, features=list(features), measurement=measurement)


class Halved(Features):
    """Another feature space."""

    name = "halved"

    def forward(self, samples: Tensor) -> Tensor:
        return samples / 2


def test_an_exact_student_is_at_the_noise_floor_and_on_the_trajectory() -> None:
    evaluation, _ = evaluator(Raw(), Halved()).evaluate(ExactStudent(TEACHER))
    raw, halved = evaluation.distances["raw"], evaluation.distances["halved"]
    assert raw.student is not None
    assert halved.student is not None
    assert 0 < raw.student < FLOOR
    assert 0 < raw.floor < FLOOR
    assert raw.euler[1] > raw.euler[4] > 3 * FLOOR
    assert halved.student == pytest.approx(raw.student / 4, rel=1e-5)
    # float32 rounding; rk4's own error is far below it
    assert max(e.value for e in evaluation.trajectory_error.values()) < 2e-6
    assert tuple(evaluation.trajectory_error) == DELTAS


def test_a_student_that_is_off_is_seen_in_distance_and_trajectory() -> None:
    student = ExactStudent(TEACHER, offset=0.3)
    evaluation, _ = evaluator(Raw()).evaluate(student)
    found = evaluation.distances["raw"].student
    # ‖Δμ‖², and 5 σ of 2 Δμ · ε, where ε is the difference of two means, of variance 2 s² / N
    noise = 5 * 2 * (3 * 0.3**2) ** 0.5 * 0.7 * (2 / 2000) ** 0.5
    assert found == pytest.approx(3 * 0.3**2, abs=noise)
    assert found > 3 * FLOOR
    assert evaluation.trajectories == 256
    parts = [*prior(TEACHER, MEASUREMENT, "trajectory", 256)]
    z = torch.cat([each for each, _ in parts])
    condition = Condition(size=len(z))
    ones = torch.ones(len(z))
    for delta, error in evaluation.trajectory_error.items():
        moved = TEACHER.flow_map(z, ones, delta * ones, condition) - z
        expected = delta * 0.3 * (3 * len(z)) ** 0.5 / float(moved.norm())
        assert error.value == pytest.approx(expected, rel=1e-4)
        assert error.low < error.value < error.high


def test_the_trajectory_is_followed_as_well_as_the_solver_can() -> None:
    coarse = attrs.evolve(MEASUREMENT, solver=Solver("euler", 32))
    errors = trajectory_error(ExactStudent(TEACHER), TEACHER, coarse)
    assert 1e-3 < errors[1.0].value < 0.1  # Euler's own


def test_the_first_euler_step_is_what_the_student_is_compared_with() -> None:
    """A student that is one Euler step has that baseline's very distance: the same noise."""

    class OneStep(ExactStudent):
        def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
            velocity: Tensor = self.teacher(x_t, t, condition)
            return velocity

    evaluation, _ = evaluator(Raw()).evaluate(OneStep(TEACHER))
    found = evaluation.distances["raw"]
    assert found.student == pytest.approx(found.euler[1], rel=1e-5)
    first, last = (evaluation.trajectory_error[delta].value for delta in (DELTAS[0], 1.0))
    assert first < last


def test_a_student_that_starts_anywhere_is_measured_in_more_steps_too() -> None:
    """A student that is an Euler step everywhere has the baselines' very distances."""

    class Euler(ExactStudent):
        def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
            velocity: Tensor = self.teacher(x_t, t, condition)
            return velocity

    more = attrs.evolve(MEASUREMENT, student_steps=(4,))
    student = Euler(TEACHER, starts_at="anywhere")
    evaluation, reference = evaluator(Raw(), measurement=more).evaluate(student)
    found = evaluation.distances["raw"]
    assert found.student == pytest.approx(found.euler[1], rel=1e-5)
    assert found.student_steps == {4: pytest.approx(found.euler[4], rel=1e-5)}
    # The teacher's reference holds whatever the student's steps.
    again, _ = evaluator(Raw()).evaluate(student, reference)
    assert again.distances["raw"].student_steps == {}
    with pytest.raises(ValueError, match="starts only at the prior"):
        evaluator(Raw(), measurement=more).evaluate(ExactStudent(TEACHER))


@pytest.mark.parametrize("batch", [1, 31, 32, 50, 1000])
def test_the_noise_of_a_sample_does_not_depend_on_the_batch(batch: int) -> None:
    teacher = GaussianMixture([[0.0], [1.0]], labels=[0, 1])

    def drawn(batch: int) -> tuple[Tensor, Condition]:
        measurement = Measurement(samples=100, batch=batch, guidance=1.5)
        parts = list(prior(teacher, measurement, "student"))
        assert max(len(z) for z, _ in parts) <= batch
        return torch.cat([z for z, _ in parts]), Condition.cat([c for _, c in parts])

    z, condition = drawn(batch)
    expected, whole = drawn(100)
    assert torch.equal(z, expected)
    assert condition.label is not None
    assert condition.guidance is not None
    assert torch.equal(condition.label, whole.label)
    assert torch.equal(condition.guidance, torch.full((100,), 1.5))


def test_each_purpose_has_noise_of_its_own() -> None:
    purposes = ("reference", "floor", "student", "trajectory")
    first = [next(prior(TEACHER, MEASUREMENT, purpose))[0] for purpose in purposes]
    assert len(torch.stack(first).unique(dim=0)) == 4


def test_the_statistics_are_those_of_all_samples() -> None:
    found = feature_statistics(Drawn(lambda z, _: z, TEACHER, MEASUREMENT, "student"), [Raw()])
    z = torch.cat([z for z, _ in prior(TEACHER, MEASUREMENT, "student")])
    assert len(z) == 2000
    assert frechet_distance(found["raw"], Statistics.of(z)) == pytest.approx(0, abs=1e-9)


class Remembered(Features):
    """Knows which of its answers are still there."""

    name = "remembered"

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[weakref.ref[Tensor]] = []

    def forward(self, samples: Tensor) -> Tensor:
        assert sum(each() is not None for each in self.answers) <= 1
        found = samples.flatten(1).clone()
        self.answers.append(weakref.ref(found))
        return found


def test_no_features_are_kept() -> None:
    watched = Remembered()
    feature_statistics(Drawn(lambda z, _: z, TEACHER, MEASUREMENT, "student"), [watched])
    assert len(watched.answers) == 4


def test_progress_is_told_to_its_end() -> None:
    told: list[tuple[str, int, int]] = []
    student = ExactStudent(TEACHER)
    evaluator(Raw()).evaluate(student, progress=lambda *it: told.append(it))
    last = {what: (done, total) for what, done, total in told}
    assert (
        len(last) == 7
    )  # converged twice, two numbers of Euler steps, student, trajectory, solver
    assert all(done == total for done, total in last.values())


# References.


def test_a_reference_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "reference.safetensors"
    reference = evaluator(Raw(), Halved()).make_reference()
    reference.write(path)
    again = Reference.read(str(path))
    assert again.baselines == reference.baselines
    assert again.identity == reference.identity
    assert again.ladders == reference.ladders
    assert again.clouds.keys() == {"raw", "halved"}
    for name, cloud in again.clouds.items():
        assert torch.equal(cloud.points, reference.clouds[name].points)
    assert again.statistics.keys() == {"raw", "halved"}
    for name, statistics in again.statistics.items():
        assert (statistics.mu == reference.statistics[name].mu).all()
        assert (statistics.sigma == reference.statistics[name].sigma).all()


def test_a_reference_spares_the_teacher_s_sampling_and_changes_no_number(tmp_path: Path) -> None:
    path = tmp_path / "reference.safetensors"
    student = ExactStudent(TEACHER, offset=0.1)
    expected, reference = evaluator(Raw()).evaluate(student)
    reference.write(path)
    told: list[str] = []
    found, _ = evaluator(Raw()).evaluate(
        student, Reference.read(str(path)), lambda what, *_: told.append(what)
    )
    assert found == expected
    assert not [what for what in told if what.startswith("teacher")]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"teacher": Gaussian([1.0, -2.0, 0.5], 0.8)}, "teacher"),
        ({"features": [Halved()]}, "features"),
        ({"measurement": attrs.evolve(MEASUREMENT, samples=1000)}, "samples"),
        ({"measurement": attrs.evolve(MEASUREMENT, solver=Solver("rk4", 16))}, "solver"),
        ({"measurement": attrs.evolve(MEASUREMENT, euler=(1, 2))}, "euler"),
        ({"measurement": attrs.evolve(MEASUREMENT, seed=1)}, "seed"),
        ({"measurement": attrs.evolve(MEASUREMENT, guidance=2.0)}, "guidance"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_reference_made_under_other_conditions_is_refused(
    changed: dict[str, object], named: str
) -> None:
    conditions = {"teacher": TEACHER, "features": [Raw()], "measurement": MEASUREMENT}
    small = Reference(record={}, identity=identity(**conditions))
    small.check(identity(**conditions))
    with pytest.raises(ValueError, match=f"other conditions(.|\n)*{named}"):
        small.check(identity(**{**conditions, **changed}))


def test_the_batch_of_an_evaluation_is_no_condition_of_it() -> None:
    other = attrs.evolve(MEASUREMENT, batch=7)
    assert identity(TEACHER, [Raw()], other) == identity(TEACHER, [Raw()], MEASUREMENT)


def test_interval_and_channels_count_where_the_teacher_is_guided() -> None:
    teacher = GaussianMixture([[0.0], [1.0]], labels=[0, 1])
    guided = attrs.evolve(MEASUREMENT, guidance=2.0)

    def of(interval: tuple[float, float], measurement: Measurement) -> dict[str, object]:
        return identity(Guided(teacher, interval), [Raw()], measurement)

    assert of((0.0, 0.5), guided) != of((0.0, 0.6), guided)
    assert of((0.0, 0.5), MEASUREMENT) == of((0.0, 0.6), MEASUREMENT)
    assert of((0.0, 0.5), MEASUREMENT) == identity(teacher, [Raw()], MEASUREMENT)


def test_a_reference_of_an_earlier_ffcore_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "reference.safetensors"
    write_weights(path, {"a": torch.ones(1)}, {"distances": {}, "identity": {}})
    with pytest.raises(WeightsError, match="from an earlier ffcore"):
        Reference.read(str(path))
    assert evaluator(Raw()).known_reference(tmp_path) is None


@pytest.mark.parametrize(
    "config", [{}, {"ladders": {}}, {"ladders": {"raw": {}}, "distances": {}, "identity": {}}]
)
def test_a_file_that_is_no_reference_is_refused(config: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_weights(path, {"a": torch.ones(1)}, config)
    with pytest.raises(WeightsError, match="not a teacher's reference"):
        Reference.read(str(path))


def test_a_teacher_of_images_is_measured_like_any_other() -> None:
    teacher = FieldTeacher.around(Gaussian(Stream(0).normal(1, 2, 2).float(), 0.5))
    small = Measurement(samples=64, solver=Solver("rk4", 8), euler=(1,), batch=64)
    student = ExactStudent(teacher.velocity)  # type: ignore[arg-type]
    images = Evaluator(teacher=teacher, features=[Raw()], measurement=small)
    evaluation, _ = images.evaluate(student)
    assert max(e.value for e in evaluation.trajectory_error.values()) < 1e-4


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_the_solver_s_error_falls_with_its_order_and_is_the_true_one(
    method: Any, order: int
) -> None:
    def error(steps: int) -> float:
        return solver_error(TEACHER, Measurement(solver=Solver(method, steps)))

    assert error(32) / error(64) == pytest.approx(2**order, rel=0.15)
    z, condition = next(prior(TEACHER, Measurement(), "trajectory", 64))
    exact = integrate(TEACHER, z, condition, Solver("rk4", 256))
    found = integrate(TEACHER, z, condition, Solver(method, 32))
    true = float(((found - exact).square().sum() / (exact - z).square().sum()).sqrt())
    assert error(32) <= 1.01 * true <= 2.2 * error(32)


def test_a_picture_beyond_the_limit_of_pillow_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # an error from twice as many on
    with pytest.raises(EvaluationError, match=r"a\.png cannot be read as a picture: .* limit"):
        _pixels(tmp_path / "a.png")
