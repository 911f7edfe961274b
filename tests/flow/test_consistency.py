"""A velocity of its own samples passes; each wrong one is caught, with its cause."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from ffcore.draws import Draws
from ffcore.flow.consistency import NoTeacher, complaint, consistency, enough
from ffcore.flow.convert import convert
from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.flow.guidance import Guided
from ffcore.flow.ode import noise_slope, points_wrongly
from ffcore.flow.path import expand_like
from ffcore.interfaces import Condition, Context, FunctionTeacher, Teacher, VelocityField
from ffcore.testing.strategies import exact_teachers, seeds
from ffcore_sit.tables import SiTTeacher

Velocity = Callable[[Tensor, Tensor, Condition], Tensor]


def complain(teacher: Teacher, seed: int = 0) -> str | None:
    draws = Draws(seed, 0, 0, enough(torch.Size(teacher.sample_shape).numel()))
    condition = teacher.conditions.draw(draws.named("condition"))
    return complaint(teacher, draws.normal("z", teacher.sample_shape), condition, draws)


def mixture() -> GaussianMixture:
    means = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    return GaussianMixture(means, 0.2, labels=[0, 1, 2, 0, 1])


def digits() -> Teacher:
    return SiTTeacher(weights="ffcore_digits:teacher.safetensors").build(Context())


@settings(max_examples=25)
@given(teacher=exact_teachers(), seed=seeds())
def test_no_exact_teacher_is_complained_of(teacher: Teacher, seed: int) -> None:
    assert complain(teacher, seed) is None


def test_a_trained_teacher_is_not_complained_of_guided_or_not() -> None:
    assert complain(digits()) is None
    assert complain(Guided(mixture())) is None


def test_a_silent_network_is_said_to_seem_untrained() -> None:
    for scale in (0.0, 1e-9):
        said = complain(VelocityField.of(lambda x, t, condition, s=scale: s * x, (4,)))
        assert said is not None
        assert "almost zero" in said


@pytest.mark.parametrize(
    ("scale", "wrong"), [(1e8, True), (200.0, True), (5.0, False), (0.2, False), (1e-4, True)]
)
def test_samples_of_another_size_than_any_network_learns_are_told(
    scale: float, wrong: bool
) -> None:
    said = complain(Gaussian(torch.zeros(4), scale))
    assert ("have root mean square" in (said or "")) == wrong, said


def test_a_constant_velocity_of_another_scale_is_told() -> None:
    said = complain(VelocityField.of(lambda x, t, condition: 0 * x + 1e8, (4,)))
    assert said is not None
    assert "have root mean square 1e+08" in said


@pytest.mark.parametrize("growth", [1e4, -1e8])
def test_a_velocity_whose_samples_are_not_finite_is_no_teacher(growth: float) -> None:
    teacher = VelocityField.of(lambda x, t, condition: growth * x, (4,))
    with pytest.raises(NoTeacher, match="samples are NaN or infinite after 16 steps"):
        complain(teacher)


def test_the_end_at_noise_and_the_samples_each_show_what_the_other_cannot() -> None:
    exact = mixture()

    def at_the_end(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        u = exact(x, t, condition)
        return torch.where(expand_like(t, x) > 0.999, -u, u)

    said = complain(FunctionTeacher(at_the_end, (4,), exact.conditions))
    assert said is not None
    assert "velocity at t = 1 has slope +" in said
    both = wrong(exact, "if its sign and its time were the opposite")
    draws = Draws(0, 0, 0, 64)
    condition = exact.conditions.draw(draws)
    assert not points_wrongly(noise_slope(both, draws.normal("z", (4,)), condition))
    assert "its sign and its time were the opposite" in (complain(both) or "")


WRONG: dict[str, Callable[[Velocity], Velocity]] = {
    "if its sign were the opposite": lambda u: lambda x, t, c: -u(x, t, c),
    "if its time ran the other way": lambda u: lambda x, t, c: u(x, 1 - t, c),
    "if its sign and its time were the opposite": lambda u: lambda x, t, c: -u(x, 1 - t, c),
    "if it were the noise": lambda u: lambda x, t, c: x - expand_like(1 - t, x) * u(x, t, c),
    "if it were the data": lambda u: lambda x, t, c: x + expand_like(t, x) * u(x, t, c),
    "if a velocity were converted as noise": lambda u: (
        lambda x, t, c: (x - u(x, t, c)) / expand_like((1 - t).clamp(min=0.01), x)
    ),
    "if a velocity were converted as data": lambda u: (
        lambda x, t, c: (u(x, t, c) - x) / expand_like(t.clamp(min=0.01), x)
    ),
    "if its time, given as σ": lambda u: lambda x, t, c: u(x, t / (1 - t).clamp(min=0.01), c),
}


def wrong(teacher: Teacher, cause: str) -> Teacher:
    field = WRONG[cause](lambda x, t, c: teacher(x, t, c))
    return FunctionTeacher(field, teacher.sample_shape, teacher.conditions)


@pytest.mark.parametrize("cause", WRONG)
def test_a_wrong_velocity_is_caught_with_its_cause(cause: str) -> None:
    said = complain(wrong(mixture(), cause))
    assert said is not None
    assert f"It would fit {cause}" in said


@pytest.mark.slow
@pytest.mark.parametrize("cause", list(WRONG)[:4])
def test_a_wrong_trained_velocity_is_caught_with_its_cause(cause: str) -> None:
    said = complain(wrong(digits(), cause))
    assert said is not None
    assert f"It would fit {cause}" in said


class Epsilon(nn.Module):
    """The exact noise of a mixture, for a network of DDPM."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = mixture()
        relation = convert(lambda x, time, c: x, **SAID).function.relation  # type: ignore[attr-defined]
        self.times = torch.tensor(relation.numbers)

    def forward(self, x: Tensor, index: Tensor, condition: Condition) -> Tensor:
        below = index.long().clamp(0, 998)
        t = torch.lerp(self.times[below], self.times[below + 1], (index - below).clamp(0, 1))
        time = expand_like(t, x)
        x_t = x * ((1 - time) ** 2 + time**2).sqrt()
        return x_t - (1 - time) * self.teacher(x_t, t, condition)


SAID: dict[str, Any] = {
    "prediction": "noise",
    "path": "vp",
    "time": "index",
    "schedule": "linear",
    "sample_shape": (4,),
}


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({}, None),
        ({"prediction": "v"}, "prediction were 'noise'"),
        ({"prediction": "data"}, "prediction were 'noise'"),
        ({"schedule": "cosine", "sigma_range": (0.01, 150.0)}, "schedule were 'linear'"),
        ({"schedule": "scaled-linear"}, "schedule were 'linear'"),
    ],
    ids=str,
)
def test_a_wrong_word_of_convert_is_caught_with_the_right_one(
    change: dict[str, Any], cause: str | None
) -> None:
    teacher = convert(Epsilon(), conditions=mixture().conditions, **(SAID | change))
    said = complain(teacher)
    if cause is None:
        assert said is None
    else:
        assert said is not None
        assert cause in said.split("It would fit if")[1]


def test_what_no_check_can_tell_apart() -> None:
    """A velocity of other data, and a standard Gaussian's with both faults."""
    assert complain(Gaussian(torch.full((4,), 3.0), 2.0)) is None
    assert (
        complain(wrong(Gaussian(torch.zeros(4)), "if its sign and its time were the opposite"))
        is None
    )


def test_the_slopes_are_the_regressions() -> None:
    teacher = mixture()
    draws = Draws(0, 0, 0, 200)
    condition = teacher.conditions.draw(draws)
    half = VelocityField.of(lambda x, t, c: teacher(x, t, c) / 2, (4,), teacher.conditions)
    z = draws.normal("z", (4,))
    found = consistency(teacher, z, condition, draws)
    assert all(
        abs(slope - 1) < 3 * e + 0.02 for slope, e in zip(found.slopes, found.errors, strict=True)
    )
    assert consistency(half, z, condition, draws).departure > 0.2
