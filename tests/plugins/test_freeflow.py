"""FreeFlow's predictor, whose gap vanishes on the flow map, and its balancer."""

import copy
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import GaussianCase, Stream, seeds, shapes, slope
from networks import ExactStudent, FieldTeacher, FunctionStudent, OwnSilu
from torch import Tensor

from ffcore.draws import Draws
from ffcore.flow.derivative import Derivative, jvp
from ffcore.flow.derivative_check import DerivativeMismatch
from ffcore.flow.exact import Gaussian
from ffcore.flow.time_distribution import TimeDistribution
from ffcore.interfaces import Batch, Condition, Context, Gap, Networks, Norms, Student, Teacher
from ffcore.keys import ImpossibleValue
from ffcore_freeflow.balancer import AdaptiveBalancer
from ffcore_freeflow.objective import FreeFlowPredictor
from ffcore_freeflow.tables import Adaptive, FreeFlow
from ffcore_mlp.student import MlpAverageVelocity

SIZE = 12


def batch_of(case: GaussianCase) -> Batch:
    return Batch(z=case.z, condition=case.condition, draws=Draws(0, 0, 0, SIZE))


def gap_of(
    predictor: FreeFlowPredictor, student: Student, teacher: Teacher, case: GaussianCase
) -> Gap:
    networks = Networks(student=student, teacher=teacher)
    (gap,) = predictor.gaps(networks, batch_of(case)).gaps
    return gap


# The gap is zero on the flow map.


def vanishes(
    case: GaussianCase,
    student: Callable[[Gaussian], Student] = ExactStudent,
    teacher: Callable[[Gaussian], Teacher] = lambda exact: exact,
    law: TimeDistribution | None = None,
) -> None:
    predictor = FreeFlowPredictor(delta=law, derivative=Derivative(backend="dual"))
    gap = gap_of(predictor, student(case.teacher), teacher(case.teacher), case).gap
    torch.testing.assert_close(gap, torch.zeros_like(gap), rtol=0, atol=1e-10)


@given(seed=seeds, shape=shapes, conditional=st.booleans(), at_one=st.booleans())
def test_the_gap_of_the_exact_student_is_zero(
    seed: int, shape: tuple[int, ...], conditional: bool, at_one: bool
) -> None:
    law = TimeDistribution(at_one=0.5 if at_one else 0.0)
    vanishes(GaussianCase.of(seed, shape, conditional), law=law)


def changed(change: Callable[[Teacher, Tensor, Tensor, Condition], Tensor]) -> Any:
    """A teacher that answers differently from the exact one."""
    return lambda exact: FieldTeacher(
        lambda x, t, condition: change(exact, x, t, condition), exact.sample_shape
    )


def detached(exact: Gaussian) -> Student:
    return FunctionStudent(
        lambda z, delta: exact.average_velocity(z, delta.detach(), Condition(size=len(z)))
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"student": lambda exact: ExactStudent(exact, offset=1e-3)},
        {"student": detached},
        {"teacher": changed(lambda exact, x, t, c: exact(x, 1 - t, c))},
        {"teacher": changed(lambda exact, x, t, c: -exact(x, t, c))},
        {"teacher": lambda exact: Gaussian(exact.mean[0] + 1e-3, exact.scale[0])},
        {"teacher": lambda exact: Gaussian(exact.mean[0], exact.scale[0] + 1e-3)},
    ],
    ids=[
        "student off",
        "no derivative",
        "time reversed",
        "velocity towards noise",
        "another mean",
        "another scale",
    ],
)
def test_a_student_that_is_no_flow_map_of_its_teacher_has_a_gap(wrong: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        vanishes(GaussianCase.of(0), **wrong)


@pytest.mark.parametrize(("scheme", "order"), [("one-sided", 1), ("central", 2)])
def test_by_finite_differences_the_gap_vanishes_at_their_order(scheme: str, order: int) -> None:
    case, steps = GaussianCase.of(0), [2.0**-k for k in range(5, 10)]
    law = TimeDistribution(
        low=0.1, high=0.9
    )  # away from the ends, where central differences shorten
    gaps = []
    for step in steps:
        derivative = Derivative(backend="finite-difference", step=step, scheme=scheme)
        predictor = FreeFlowPredictor(delta=law, derivative=derivative)
        gaps.append(
            float(gap_of(predictor, ExactStudent(case.teacher), case.teacher, case).gap.norm())
        )
    assert slope(steps, gaps) == pytest.approx(order, abs=0.1)


# What the gap is off the flow map.


def moves_towards_the_target(
    predictor: FreeFlowPredictor, average: Callable[[Gap], Tensor], seed: int
) -> None:
    """The gradient is that of ½ ‖F − sg(u − δ ∂_δ F)‖² / d."""
    case = GaussianCase.of(seed)
    torch.manual_seed(seed)
    student = MlpAverageVelocity(3, 0, width=8, depth=2).double()
    parameters = list(student.parameters())
    gap = gap_of(predictor, student, case.teacher, case)
    found = torch.autograd.grad(average(gap), parameters)

    delta = predictor.delta.draw(batch_of(case).draws, "delta").double()

    def average(d: Tensor) -> Tensor:
        return student(case.z, torch.ones_like(d), d, case.condition)

    with torch.no_grad():
        f = case.z + delta[:, None] * average(delta)
        derivative = jvp(average, (delta,), (torch.ones_like(delta),))
        target = case.teacher(f, 1 - delta, case.condition) - delta[:, None] * derivative
    loss = (average(delta) - target).square().mean(1).sum() / 2
    for a, b in zip(found, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@settings(max_examples=10)
@given(seed=seeds)
def test_the_gap_moves_the_student_towards_the_velocity_less_its_derivative(seed: int) -> None:
    moves_towards_the_target(FreeFlowPredictor(), lambda gap: gap.inner(torch.ones(SIZE)), seed)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda gap: -gap.inner(torch.ones(SIZE)),
        lambda gap: 2 * gap.inner(torch.ones(SIZE)),
        lambda gap: gap.inner(torch.ones(SIZE)) / SIZE,
    ],
    ids=["ascent", "whole square", "mean"],
)
def test_another_direction_would_be_seen(wrong: Callable[[Gap], Tensor]) -> None:
    with pytest.raises(AssertionError):
        moves_towards_the_target(FreeFlowPredictor(), wrong, 0)


def test_the_gap_of_a_shifted_student_is_the_shift() -> None:
    """F + c has the same ∂_δ, and is pushed to f + δ c: the gap is c − (u(f + δ c) − u(f))."""
    case, c = GaussianCase.of(0), 0.3
    predictor = FreeFlowPredictor()
    gap = gap_of(predictor, ExactStudent(case.teacher, offset=c), case.teacher, case).gap
    delta = predictor.delta.draw(batch_of(case).draws, "delta").double()
    f = case.teacher.flow_map(case.z, case.ones, delta, case.condition)
    u = case.teacher(f, 1 - delta, case.condition)
    u_moved = case.teacher(f + c * delta[:, None], 1 - delta, case.condition)
    torch.testing.assert_close(gap, c - (u_moved - u), rtol=1e-10, atol=1e-10)


def test_no_gradient_flows_through_the_teacher_or_the_gap() -> None:
    case, modes = GaussianCase.of(0), []

    def watched(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        modes.append((torch.is_grad_enabled(), x.requires_grad))
        return case.teacher(x, t, condition)

    student = FunctionStudent(lambda z, delta: z * delta[:, None])
    gap = gap_of(FreeFlowPredictor(), student, FieldTeacher(watched, (3,)), case)
    assert modes == [(False, False)]
    assert gap.output.requires_grad
    assert not gap.gap.requires_grad


def test_durations_follow_the_law_that_was_asked_for() -> None:
    case = GaussianCase.of(0)
    seen: list[Tensor] = []

    def function(z: Tensor, delta: Tensor) -> Tensor:
        seen.append(delta)
        return z * delta[:, None]

    derivative = Derivative(backend="finite-difference", step=1e-3)
    predictor = FreeFlowPredictor(delta=TimeDistribution(low=0.25, high=0.5), derivative=derivative)
    gap_of(predictor, FunctionStudent(function), case.teacher, case)
    assert len(seen) == 2
    assert seen[0].min() >= 0.25
    assert seen[0].max() <= 0.5
    torch.testing.assert_close(seen[1] - seen[0], torch.full_like(seen[0], 1e-3))


def test_the_predictor_checks_its_derivative_on_the_student() -> None:
    case = GaussianCase.of(0)

    def said(student: Student) -> str | None:
        networks = Networks(student=student, teacher=case.teacher)
        return FreeFlowPredictor().self_check(networks, batch_of(case))

    smooth = FunctionStudent(lambda z, delta: torch.sin(z + delta[:, None]))
    assert "derivative: dual" in (said(smooth) or "")
    with pytest.raises(DerivativeMismatch):
        said(detached(case.teacher))


def test_the_derivative_is_chosen_at_the_first_gaps_and_kept() -> None:
    case = GaussianCase.of(0)
    predictor = FreeFlowPredictor()
    assert predictor.derivative.backend == "auto"
    gap_of(predictor, ExactStudent(case.teacher), case.teacher, case)
    assert predictor.derivative == Derivative(backend="dual")
    checked = FreeFlowPredictor()
    networks = Networks(student=ExactStudent(case.teacher), teacher=case.teacher)
    checked.self_check(networks, batch_of(case))
    assert checked.derivative == predictor.derivative


class Layers(Student):
    starts_at = "prior"

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.act = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3), act
        for index, each in enumerate(self.parameters()):
            each.data = Stream(index).normal(*each.shape)

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        output: Tensor = self.last(self.act(self.first(torch.cat([x_t, delta[:, None]], 1))))
        return output


def test_a_student_with_its_own_backward_gets_the_same_gradient() -> None:
    case = GaussianCase.of(0)
    found = []
    for act in (OwnSilu.apply, torch.nn.functional.silu):
        network = Layers(act)
        gap = gap_of(FreeFlowPredictor(), network, case.teacher, case)
        (gap.output * gap.gap).sum().backward()
        found.append([each.grad for each in network.parameters()])
    for one, other in zip(*found, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


# The balancer.

Weights = Callable[[AdaptiveBalancer, Tensor], Tensor]


def gap_with(values: Tensor) -> Gap:
    return Gap(output=values, gap=values)


def follows_the_power_law(weights: Weights, balancer: AdaptiveBalancer, gap: Tensor) -> None:
    """w = 1 / (‖Δ‖²/d + ε)^k, sample by sample."""
    found = weights(balancer, gap)
    for each, weight in zip(gap, found, strict=True):
        square = float(each.norm() ** 2) / each.numel()
        expected = 1 / (square + balancer.weight_epsilon) ** balancer.power
        assert float(weight) == pytest.approx(expected, rel=1e-12)


def of_prediction(balancer: AdaptiveBalancer, gap: Tensor) -> Tensor:
    return balancer.weights("prediction", gap_with(gap))


balancers = st.builds(
    AdaptiveBalancer,
    alpha=st.floats(0.1, 5),
    power=st.floats(0, 2),
    weight_epsilon=st.floats(1e-4, 1),
    scale_epsilon=st.floats(1e-8, 1),
    lambda_on=st.sampled_from(["weighted", "raw"]),
)


@given(seed=seeds, shape=shapes, balancer=balancers)
def test_weights_follow_the_power_law(
    seed: int, shape: tuple[int, ...], balancer: AdaptiveBalancer
) -> None:
    follows_the_power_law(of_prediction, balancer, Stream(seed).normal(6, *shape))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda b, gap: (gap.flatten(1).square().sum(1) + b.weight_epsilon) ** -b.power,
        lambda b, gap: (gap.flatten(1).square().mean(1).sqrt() + b.weight_epsilon) ** -b.power,
        lambda b, gap: gap.flatten(1).square().mean(1) ** -b.power,
        lambda b, gap: of_prediction(b, gap) / of_prediction(b, gap).mean(),
        lambda b, gap: 1 / of_prediction(b, gap),
    ],
    ids=["sum over dimensions", "norm for its square", "no ε", "normalised", "inverse"],
)
def test_other_weights_would_be_seen(wrong: Weights) -> None:
    with pytest.raises(AssertionError):
        follows_the_power_law(wrong, AdaptiveBalancer(power=0.7), Stream(0).normal(6, 3))


@given(seed=seeds, balancer=balancers)
def test_a_sample_s_weight_does_not_depend_on_the_others(
    seed: int, balancer: AdaptiveBalancer
) -> None:
    gap = Stream(seed).normal(6, 3)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    for objective in ("prediction", "correction"):
        weights = balancer.weights(objective, gap_with(gap))
        assert torch.equal(balancer.weights(objective, gap_with(gap[order])), weights[order])
        assert torch.equal(balancer.weights(objective, gap_with(gap[2:4])), weights[2:4])


@given(seed=seeds, balancer=balancers)
def test_correction_is_not_weighted(seed: int, balancer: AdaptiveBalancer) -> None:
    weights = balancer.weights("correction", gap_with(Stream(seed).normal(6, 3)))
    assert torch.equal(weights, torch.ones(6, dtype=torch.float64))


Scale = Callable[[AdaptiveBalancer, dict[str, Norms]], dict[str, Tensor]]


def norms_of(seed: int) -> dict[str, Norms]:
    values = Stream(seed).uniform(0.01, 10, 4)
    return {
        "prediction": Norms(raw=values[0], weighted=values[1]),
        "correction": Norms(raw=values[2], weighted=values[3]),
    }


def scales_by_lambda(scale: Scale, balancer: AdaptiveBalancer, seed: int) -> None:
    """λ = α E‖Δ_G‖ / (E‖Δ_N‖ + ε) on correction, 1 on prediction."""
    norms = norms_of(seed)
    factors = scale(balancer, norms)
    magnitude = getattr(norms["prediction"], balancer.lambda_on)
    expected = float(
        balancer.alpha * magnitude / (norms["correction"].raw + balancer.scale_epsilon)
    )
    assert float(factors["correction"]) == pytest.approx(expected, rel=1e-12)
    assert float(factors["prediction"]) == 1


@given(seed=seeds, balancer=balancers)
def test_correction_is_scaled_by_lambda(seed: int, balancer: AdaptiveBalancer) -> None:
    scales_by_lambda(AdaptiveBalancer.scale, balancer, seed)


def swapped(balancer: AdaptiveBalancer, norms: dict[str, Norms]) -> Any:
    return balancer.scale({"prediction": norms["correction"], "correction": norms["prediction"]})


def on_the_other(balancer: AdaptiveBalancer, norms: dict[str, Norms]) -> Any:
    other = AdaptiveBalancer(alpha=balancer.alpha, lambda_on="raw")
    return other.scale(norms)


def on_prediction(balancer: AdaptiveBalancer, norms: dict[str, Norms]) -> Any:
    factors = balancer.scale(norms)
    return {"prediction": factors["correction"], "correction": factors["prediction"]}


@pytest.mark.parametrize("wrong", [swapped, on_the_other, on_prediction])
def test_another_lambda_would_be_seen(wrong: Scale) -> None:
    with pytest.raises(AssertionError):
        scales_by_lambda(wrong, AdaptiveBalancer(alpha=1.7), 0)


@given(seed=seeds, balancer=balancers, name=st.sampled_from(["prediction", "correction"]))
def test_an_objective_that_is_alone_is_not_scaled(
    seed: int, balancer: AdaptiveBalancer, name: str
) -> None:
    factors = balancer.scale({name: norms_of(seed)[name]})
    assert {key: float(value) for key, value in factors.items()} == {name: 1.0}


Split = Callable[[AdaptiveBalancer, int, int], tuple[int, int]]


def splits_the_batch(split: Split, share: float, start: int, batch: int, step: int) -> None:
    balancer = AdaptiveBalancer(correction=share, correction_from=start)
    prediction, correction = split(balancer, batch, step)
    assert min(prediction, correction) >= 0
    assert prediction + correction == batch
    if step < start:
        assert correction == 0
    elif 0 < share < 1:
        assert 1 <= correction <= batch - 1
        assert abs(correction - share * batch) <= 0.5 or correction in (1, batch - 1)
    else:
        assert correction == share * batch


@given(
    share=st.floats(0, 1),
    start=st.integers(0, 20),
    batch=st.integers(2, 1000),
    step=st.integers(0, 40),
)
def test_every_sample_belongs_to_one_objective(
    share: float, start: int, batch: int, step: int
) -> None:
    splits_the_batch(AdaptiveBalancer.split, share, start, batch, step)


def test_one_sample_cannot_be_shared_by_both_objectives() -> None:
    with pytest.raises(ValueError, match="a batch of 1 cannot be split"):
        AdaptiveBalancer().split(1, 0)
    assert AdaptiveBalancer(correction_from=1).split(1, 0) == (1, 0)
    assert AdaptiveBalancer(correction=1.0).split(1, 0) == (0, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda b, batch, step: b.split(batch, step)[::-1],
        lambda b, batch, step: (batch, round(b.correction * batch)),
        lambda b, batch, step: AdaptiveBalancer(correction=b.correction).split(batch, step),
    ],
    ids=["reversed", "too many", "from the start"],
)
def test_another_split_would_be_seen(wrong: Split) -> None:
    with pytest.raises(AssertionError):
        splits_the_batch(wrong, 0.25, 10, 100, 5)


# The recipe's tables.


def test_the_tables_build_what_they_say() -> None:
    table = FreeFlow(
        delta=TimeDistribution(high=0.5),
        derivative="finite-difference",
        derivative_step=0.01,
        derivative_scheme="central",
    )
    predictor = table.build(Context())
    assert isinstance(predictor, FreeFlowPredictor)
    assert predictor.delta == TimeDistribution(high=0.5)
    assert predictor.derivative == Derivative(
        backend="finite-difference", step=0.01, scheme="central"
    )
    table = Adaptive(correction=0.5, correction_from=7, alpha=2.0, power=0.5, lambda_on="raw")
    balancer = table.build(Context())
    assert isinstance(balancer, AdaptiveBalancer)
    assert {name: getattr(balancer, name) for name in attrs.asdict(table)} == attrs.asdict(table)


def test_the_defaults_of_tables_and_objects_agree() -> None:
    built, plain = Adaptive().build(Context()), AdaptiveBalancer()
    assert vars(built) == vars(plain)
    predictor = FreeFlow().build(Context())
    assert isinstance(predictor, FreeFlowPredictor)
    assert vars(predictor) == vars(FreeFlowPredictor())


@pytest.mark.parametrize(
    "impossible",
    [{"correction": 1.2}, {"alpha": 0.0}, {"power": -1.0}, {"weight_epsilon": 0.0}],
    ids=str,
)
def test_impossible_values_are_refused(impossible: dict[str, float]) -> None:
    with pytest.raises(ImpossibleValue):
        Adaptive(**impossible)


def test_students_are_left_as_they_were() -> None:
    case = GaussianCase.of(0)
    student = MlpAverageVelocity(3, 0, width=8, depth=2).double()
    before = copy.deepcopy(student.state_dict())
    networks = Networks(student=student, teacher=case.teacher)
    FreeFlowPredictor().self_check(networks, batch_of(case))
    gap_of(FreeFlowPredictor(), student, case.teacher, case)
    assert all(torch.equal(each, before[name]) for name, each in student.state_dict().items())
