"""Integrating a teacher's flow: each method has its order, and covers exactly its way."""

import pytest
import torch
from hypothesis import given, settings
from inputs import GaussianCase, Stream, seeds, shapes, slope
from networks import FieldTeacher

from ffcore.interfaces import Condition
from ffcore.solver import TABLEAUS, Tableau, integrate


def measured_order(method: str) -> float:
    """Halve the step, and regress log error on log step.

    dx/dδ = −(1 + δ) x² has the solution 1 / (1/x + δ + δ²/2). (A Gaussian's flow will not do: on
    it the midpoint method is of order 3.)
    """
    x = Stream(0).uniform(0.5, 1.5, 20, 1)
    field = FieldTeacher(lambda x, t, condition: -(2 - t[:, None]) * x**2, (1,))
    exact = 1 / (1 / x + 1.5)
    counts = [32, 64, 128, 256]
    found = [integrate(field, x, Condition(size=20), steps=n, method=method) for n in counts]
    return slope([1 / n for n in counts], [float((each - exact).norm()) for each in found])


@pytest.mark.parametrize("method", TABLEAUS)
def test_the_measured_order_of_a_solver_is_its_order(method: str) -> None:
    assert measured_order(method) == pytest.approx(TABLEAUS[method].order, abs=0.1)


@pytest.mark.parametrize(
    "wrong",
    [
        Tableau(2, (0.0, 1.0), ((), (1.0,)), (1.0, 0.0)),
        Tableau(2, (0.0, 0.5), ((), (1.0,)), (0.0, 1.0)),
        Tableau(2, (0.0, 0.0), ((), (0.5,)), (0.0, 1.0)),
        Tableau(4, (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (0.25,) * 4),
    ],
    ids=["weights of euler", "stage too far", "time of the start", "weights not Simpson's"],
)
def test_a_solver_below_its_order_would_be_seen(
    wrong: Tableau, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TABLEAUS, "heun", wrong)
    assert measured_order("heun") != pytest.approx(wrong.order, abs=0.1)


@settings(max_examples=20)
@given(seed=seeds, shape=shapes)
def test_a_constant_velocity_is_followed_exactly(seed: int, shape: tuple[int, ...]) -> None:
    stream = Stream(seed)
    x, u = stream.normal(3, *shape), stream.normal(3, *shape)
    field = FieldTeacher(lambda x, t, condition: u, shape)
    for method in TABLEAUS:
        found = integrate(field, x, Condition(size=3), steps=7, method=method, start=0.9, stop=0.2)
        torch.testing.assert_close(found, x + 0.7 * u, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("method", TABLEAUS)
def test_a_step_costs_as_many_evaluations_as_it_has_stages(method: str) -> None:
    field = FieldTeacher(lambda x, t, condition: x, (2,))
    integrate(field, torch.ones(3, 2), Condition(size=3), steps=5, method=method)
    assert len(field.calls) == 5 * len(TABLEAUS[method].nodes)


@pytest.mark.parametrize("stop", [0.0, 0.3])
@pytest.mark.parametrize("steps", [1, 3, 7, 10, 48])
def test_the_velocity_is_asked_for_at_times_that_end_exactly(steps: int, stop: float) -> None:
    field = FieldTeacher(lambda x, t, condition: x, (2,))
    x = torch.ones(3, 2, dtype=torch.float64)
    integrate(field, x, Condition(size=3), steps=steps, method="heun", stop=stop)
    times = torch.stack([t for _, t, _ in field.calls])
    assert times.shape == (2 * steps, 3)
    assert (times[0] == 1).all()
    assert (times[-1] == stop).all()  # 1 − 3 · ⅓ would be 5.6e-17
    assert times.min() == stop


def test_two_ways_make_one() -> None:
    case = GaussianCase.of(0)
    there = integrate(case.teacher, case.z, case.condition, steps=8, method="rk4", stop=0.5)
    back = integrate(case.teacher, there, case.condition, steps=8, method="rk4", start=0.5)
    whole = integrate(case.teacher, case.z, case.condition, steps=16, method="rk4")
    torch.testing.assert_close(back, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_dtype_of_the_samples_is_kept_and_is_that_of_the_network(dtype: torch.dtype) -> None:
    field = FieldTeacher(lambda x, t, condition: x, (2,))
    x = torch.ones(3, 2, dtype=dtype, requires_grad=True)
    found = integrate(field, x, Condition(size=3), steps=2, method="rk4")
    assert (found.dtype, found.requires_grad) == (dtype, False)
    assert {(x.dtype, t.dtype) for x, t, _ in field.calls} == {(dtype, dtype)}


def test_many_small_steps_do_not_lose_what_the_dtype_would_round_away() -> None:
    field = FieldTeacher(lambda x, t, condition: torch.full_like(x, 1e-3), (1,))
    x = torch.ones(1, 1, dtype=torch.float32)
    found = integrate(field, x, Condition(size=1), steps=20_000, method="euler")
    assert float(found) == pytest.approx(1.001, abs=1.2e-7)  # 1 + 5e-8 is 1 in float32
