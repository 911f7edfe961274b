"""The velocity of a distribution, fitted to its samples, against the teacher's."""

import math

import pytest
import torch
from inputs import Stream
from torch import Tensor

from ffcore.flow.exact import Gaussian
from ffcore.interfaces import Condition, VelocityField
from ffcore.sample import NotFinite
from ffcore.training.optimizer import Optimizer
from ffcore.verify.noising import Fit, fit_velocity, noising_gap
from ffcore_mlp.student import MlpVelocity

TEACHER = Gaussian([1.0, -2.0], 0.5)
SHIFTED = Gaussian([1.6, -2.2], 0.8)
N = 4000


def samples_of(data: Gaussian, count: int = N, seed: int = 0) -> Tensor:
    return (data.mean + data.scale * Stream(seed).normal(count, 2)).float()


def known_gap(r: float, student: Gaussian = SHIFTED, teacher: Gaussian = TEACHER) -> float:
    """‖v_N − u‖ / √d, root mean square over x_r = m' + a' ε with ε ~ N(0, I)."""

    def slope(scale: float) -> float:
        return (r - (1 - r) * scale**2) / ((1 - r) ** 2 * scale**2 + r**2)

    s, s_ = float(teacher.scale), float(student.scale)
    apart = (student.mean - teacher.mean)[0] * (1 + slope(s) * (1 - r))
    spread = (slope(s) - slope(s_)) ** 2 * ((1 - r) ** 2 * s_**2 + r**2)
    return math.sqrt(float(apart.square().mean()) + spread)


def measured(g: VelocityField, data: Gaussian, r: float, chunk: int = 512):
    condition = Condition(size=N)
    return noising_gap(g, TEACHER, samples_of(data), condition, r, seed=0, chunk=chunk)


class Wrong(VelocityField):
    """The velocity of samples with an error of its own, of norm 1 and of no one direction."""

    def __init__(self, field: VelocityField) -> None:
        super().__init__()
        self.field = field

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        error = torch.stack([(40 * x_t[:, 0]).sin(), (40 * x_t[:, 1]).cos()], 1) * 2**0.5
        velocity: Tensor = self.field(x_t, t, condition)
        return velocity + error


@pytest.mark.parametrize("r", [0.125, 0.5, 1.0])
def test_the_gap_of_a_shifted_gaussian_is_the_one_that_is_known(r):
    found = measured(SHIFTED, SHIFTED, r)
    assert found.errors.absolute.rms == pytest.approx(known_gap(r), rel=0.03)
    # For g = v_N the bound is an equality, to its standard error.
    assert found.at_least == pytest.approx(known_gap(r), abs=4 * found.at_least_error)
    assert found.at_least_error < 0.03
    # and u's loss exceeds v_N's by the square of the gap
    assert found.loss_of_teacher - found.loss == pytest.approx(
        known_gap(r) ** 2, abs=8 * found.at_least_error * known_gap(r)
    )


@pytest.mark.parametrize("r", [0.125, 0.5, 1.0])
def test_an_error_of_the_fit_adds_to_the_gap_and_not_to_the_bound(r):
    perfect, shifted = measured(Wrong(TEACHER), TEACHER, r), measured(Wrong(SHIFTED), SHIFTED, r)
    assert perfect.errors.absolute.rms == pytest.approx(1, rel=0.1)
    assert abs(perfect.at_least) < 4 * perfect.at_least_error
    assert shifted.errors.absolute.rms > 1.2 * known_gap(r)
    assert shifted.at_least < known_gap(r) + 4 * shifted.at_least_error
    assert shifted.at_least > known_gap(r) / 3


def test_what_is_the_teachers_velocity_has_no_gap():
    found = measured(TEACHER, TEACHER, 0.5)
    assert (found.errors.absolute.rms, found.at_least) == (0, 0)
    assert found.loss == found.loss_of_teacher


def test_the_noise_of_a_sample_does_not_depend_on_how_many_pass_at_a_time():
    whole, parts = measured(SHIFTED, SHIFTED, 0.5, chunk=N), measured(SHIFTED, SHIFTED, 0.5, 37)
    assert whole.loss == pytest.approx(parts.loss, rel=1e-6)
    assert whole.at_least == pytest.approx(parts.at_least, rel=1e-5)


def fitted(pool: Tensor, chunk: int = 256, steps: int = 500, rate: float = 3e-3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MlpVelocity(2, 0, width=48, depth=2)
    table = Optimizer(learning_rate=rate, warmup=20, schedule="cosine")
    fit = Fit(steps=steps, batch=256, samples=len(pool), optimizer=table)
    told: list[tuple[int, float]] = []
    fit_velocity(
        network, pool, Condition(size=len(pool)), fit, chunk, lambda *news: told.append(news)
    )
    assert told[-1][0] == steps
    return network


@pytest.mark.parametrize("data", [TEACHER, SHIFTED])
def test_a_fit_finds_the_velocity_of_the_samples(data):
    g = fitted(samples_of(data, seed=1))
    for r in (0.25, 0.75):
        x_r = (1 - r) * samples_of(data) + r * Stream(5).normal(N, 2).float()
        t, condition = torch.full((N,), r), Condition(size=N)
        with torch.no_grad():
            error = g(x_r, t, condition) - data(x_r, t, condition)
        assert error.square().mean().sqrt() < 0.12


def test_a_fit_tells_a_shifted_student_from_the_teachers_own_samples():
    student, control = (
        measured(fitted(samples_of(data, seed=1)), data, 0.25) for data in (SHIFTED, TEACHER)
    )
    assert student.errors.absolute.rms == pytest.approx(known_gap(0.25), rel=0.15)
    assert 0.85 < student.at_least / known_gap(0.25) < 1.15
    assert control.errors.absolute.rms < 0.2 * known_gap(0.25)
    assert abs(control.at_least) < 4 * control.at_least_error


def test_a_fit_does_not_depend_on_how_many_samples_pass_at_a_time():
    whole, parts = (fitted(samples_of(TEACHER), chunk, steps=5) for chunk in (256, 50))
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_fit_that_diverges_is_told():
    with pytest.raises(NotFinite, match="diverged"):
        fitted(samples_of(TEACHER), steps=40, rate=1e30)
