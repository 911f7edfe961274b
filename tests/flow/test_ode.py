"""Integrating a teacher's flow: each method has its order, and covers exactly its way."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from inputs import GaussianCase, Stream, seeds, shapes, slope
from networks import Counted, FieldTeacher

from ffcore.flow.guidance import Guided
from ffcore.flow.ode import MOST_STEPS, FlowError, integrate
from ffcore.flow.solver import TABLEAUS, Solver, Tableau
from ffcore.interfaces import Condition, FrozenTeacher, Labels


def measured_order(method: str) -> float:
    """Halve the step, and regress log error on log step.

    dx/dδ = −(1 + δ) x² has the solution 1 / (1/x + δ + δ²/2). (A Gaussian's flow will not do: on
    it the midpoint method is of order 3.)
    """
    x = Stream(0).uniform(0.5, 1.5, 20, 1)
    field = FieldTeacher(lambda x, t, condition: -(2 - t[:, None]) * x**2, (1,))
    exact = 1 / (1 / x + 1.5)
    counts = [32, 64, 128, 256]
    found = [integrate(field, x, Condition(size=20), Solver(method, n)) for n in counts]
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
        found = integrate(field, x, Condition(size=3), Solver(method, 7), start=0.9, stop=0.2)
        torch.testing.assert_close(found, x + 0.7 * u, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("method", TABLEAUS)
def test_a_step_costs_as_many_evaluations_as_it_has_stages(method: str) -> None:
    field = FieldTeacher(lambda x, t, condition: x, (2,))
    integrate(field, torch.ones(3, 2), Condition(size=3), Solver(method, 5))
    assert len(field.calls) == 5 * len(TABLEAUS[method].nodes)


@pytest.mark.parametrize("stop", [0.0, 0.3])
@pytest.mark.parametrize("steps", [1, 3, 7, 10, 48])
def test_the_velocity_is_asked_for_at_times_that_end_exactly(steps: int, stop: float) -> None:
    field = FieldTeacher(lambda x, t, condition: x, (2,))
    x = torch.ones(3, 2, dtype=torch.float64)
    integrate(field, x, Condition(size=3), Solver("heun", steps), stop=stop)
    times = torch.stack([t for _, t, _ in field.calls])
    assert times.shape == (2 * steps, 3)
    assert (times[0] == 1).all()
    assert (times[-1] == stop).all()  # 1 − 3 · ⅓ would be 5.6e-17
    assert times.min() == stop


def test_two_ways_make_one() -> None:
    case = GaussianCase.of(0)
    there = integrate(case.teacher, case.z, case.condition, Solver("rk4", 8), stop=0.5)
    back = integrate(case.teacher, there, case.condition, Solver("rk4", 8), start=0.5)
    whole = integrate(case.teacher, case.z, case.condition, Solver("rk4", 16))
    torch.testing.assert_close(back, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_dtype_of_the_samples_is_kept_and_is_that_of_the_network(dtype: torch.dtype) -> None:
    field = FieldTeacher(lambda x, t, condition: x, (2,))
    x = torch.ones(3, 2, dtype=dtype, requires_grad=True)
    found = integrate(field, x, Condition(size=3), Solver("rk4", 2))
    assert (found.dtype, found.requires_grad) == (dtype, False)
    assert {(x.dtype, t.dtype) for x, t, _ in field.calls} == {(dtype, dtype)}


def test_many_small_steps_do_not_lose_what_the_dtype_would_round_away() -> None:
    field = FieldTeacher(lambda x, t, condition: torch.full_like(x, 1e-3), (1,))
    x = torch.ones(1, 1, dtype=torch.float32)
    found = integrate(field, x, Condition(size=1), Solver("euler", 20_000))
    assert float(found) == pytest.approx(1.001, abs=1.2e-7)  # 1 + 5e-8 is 1 in float32


# Times, gates and costs.


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 128, 250])
def test_the_grid_is_that_of_linspace_in_float64(steps: int) -> None:
    """Bit for bit: a published guidance interval may end on a point of it."""
    points = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
    grid = list(Solver("heun", steps).grid())
    assert [step.times for step in grid] == list(itertools.pairwise(points))


def guided_heun(gate: str, last_step: str, steps: int = 5) -> list[tuple[float, bool]]:
    """At which times a Heun solver asked the network, and whether also without condition."""
    field = FieldTeacher(lambda x, t, condition: -x, (1,), Labels(2, null_label=2))
    condition = Condition(
        size=1, label=torch.zeros(1, dtype=torch.long), guidance=torch.full((1,), 2.0)
    )
    solver = Solver("heun", steps, gate=gate, last_step=last_step)  # type: ignore[arg-type]
    integrate(Guided(field, (0.0, 0.6)), torch.ones(1, 1), condition, solver)
    return [(round(float(t[0]), 6), len(x) == 2) for x, t, _ in field.calls]


def test_a_step_gate_decides_once_at_the_steps_first_time() -> None:
    assert guided_heun("step", "full") == [
        (1.0, False), (0.8, False), (0.8, False), (0.6, False),
        (0.6, True), (0.4, True), (0.4, True), (0.2, True), (0.2, True), (0.0, True),
    ]  # fmt: skip


def test_an_evaluation_gate_decides_at_each_time() -> None:
    assert guided_heun("evaluation", "full") == [
        (1.0, False), (0.8, False), (0.8, False), (0.6, True),
        (0.6, True), (0.4, True), (0.4, True), (0.2, True), (0.2, True), (0.0, True),
    ]  # fmt: skip


def test_the_last_step_may_be_one_of_euler() -> None:
    assert guided_heun("step", "euler") == guided_heun("step", "full")[:-1]


# The published protocols. 434 and 460 of "Flow Map Distillation Without Data", table 2: 128 Heun
# steps, all of two evaluations, guidance decided once a step at its first time t, both ends of the
# interval included. With REPA's own last step of Euler they would be 432 and 458.
PROTOCOLS = [
    (Solver("heun", 128, gate="step"), (0.0, 0.7), 434),
    (Solver("heun", 128, gate="step"), (0.0, 0.8), 460),
    (Solver("heun", 128, gate="step", last_step="euler"), (0.0, 0.7), 432),
    (Solver("heun", 128, gate="step", last_step="euler"), (0.0, 0.8), 458),
    (Solver("euler", 250), (0.0, 1.0), 500),  # SiT's "250 × 2"
    (Solver("euler", 250), None, 250),
    (Solver("heun", 128), (0.0, 0.7), 435),
    (Solver("midpoint", 10), (0.2, 0.5), 27),
    (Solver("rk4", 3), (0.0, 1.0), 24),
]


@pytest.mark.parametrize(("solver", "interval", "nfe"), PROTOCOLS)
def test_the_cost_of_a_protocol_is_counted_at_the_base_network(
    solver: Solver, interval: tuple[float, float] | None, nfe: int
) -> None:
    counted = Counted(FieldTeacher(lambda x, t, condition: -x, (1,)))
    teacher = FrozenTeacher(counted, (1,), Labels(2, null_label=2))
    label = torch.tensor([0, 1, 0])
    condition = Condition(size=3, label=label, guidance=torch.full((3,), 1.8))
    field = teacher if interval is None else Guided(teacher, interval)
    if interval is None:
        condition = Condition(size=3, label=label)
    integrate(field, torch.ones(3, 1), condition, solver)
    assert counted.evaluations == 3 * nfe
    assert solver.nfe(interval) == nfe


def test_a_sample_outside_the_guidance_costs_nothing_more() -> None:
    counted = Counted(FieldTeacher(lambda x, t, condition: -x, (1,)))
    teacher = FrozenTeacher(counted, (1,), Labels(2, null_label=2))
    condition = Condition(size=2, label=torch.tensor([0, 1]), guidance=torch.tensor([1.0, 2.0]))
    integrate(Guided(teacher), torch.ones(2, 1), condition, Solver("euler", 10))
    assert counted.evaluations == 10 + 20


# dopri5.


def test_dopri5_meets_the_exact_flow() -> None:
    case = GaussianCase.of(0)
    exact = integrate(case.teacher, case.z, case.condition, Solver("rk4", 400))
    found = integrate(case.teacher, case.z, case.condition, Solver("dopri5", tolerance=1e-9))
    torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-7)
    coarse = integrate(case.teacher, case.z, case.condition, Solver("dopri5", tolerance=1e-2))
    assert not torch.allclose(coarse, exact, rtol=1e-7, atol=1e-7)


def test_dopri5_covers_the_way_it_is_asked_for() -> None:
    field = FieldTeacher(lambda x, t, condition: t[:, None].expand_as(x), (1,))
    x, solver = torch.zeros(2, 1, dtype=torch.float64), Solver("dopri5")
    found = integrate(field, x, Condition(size=2), solver, start=0.9, stop=0.4)
    torch.testing.assert_close(found, torch.full_like(x, (0.9**2 - 0.4**2) / 2))
    assert torch.equal(integrate(field, x, Condition(size=2), solver, start=0.5, stop=0.5), x)
    assert solver.nfe() is None


@pytest.mark.parametrize("keys", [{"gate": "step"}, {"last_step": "euler"}])
def test_dopri5_has_no_steps_to_gate(keys: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="chooses its own steps"):
        Solver("dopri5", **keys)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_dopri5_says_where_a_velocity_is_not_finite(value: float) -> None:
    field = FieldTeacher(lambda x, t, _: torch.where(t[:, None] < 0.5, value, x), (1,))
    with pytest.raises(FlowError, match=r"velocity is not finite at t = 0\.[1-4]"):
        integrate(field, torch.ones(2, 1), Condition(size=2), Solver("dopri5"))


@pytest.mark.parametrize("tolerance", [1e-30, 1e-13])
def test_dopri5_does_not_try_for_ever(tolerance: float) -> None:
    field = FieldTeacher(lambda x, t, condition: x / 3, (1,))
    solver = Solver("dopri5", tolerance=tolerance)
    with pytest.raises(FlowError, match=f"tolerance {tolerance:g} needs .* float32 .* larger tol"):
        integrate(field, torch.ones(2, 1), Condition(size=2), solver)
    assert len(field.calls) < 6 * MOST_STEPS + 3


@pytest.mark.parametrize("name", ["method", "gate", "last_step"])
def test_a_word_that_a_solver_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: must be one of .*, found 'eulr'"):
        Solver(**{name: "eulr"})
