"""MeanFlow's predictor: its gap on exact maps, the paper's loss by numpy, guidance, its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import GaussianCase, Stream, seeds, shapes
from networks import ExactStudent, FieldTeacher
from numpy.typing import NDArray
from torch import Tensor, nn

from ffcore.draws import Draws
from ffcore.flow.derivative import Derivative, jvp
from ffcore.flow.derivative_check import DerivativeMismatch
from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.flow.guidance import Guided
from ffcore.flow.path import expand_like, interpolate
from ffcore.flow.time_distribution import TimeDistribution
from ffcore.interfaces import Batch, Condition, Context, Gap, Networks, Student
from ffcore.keys import ImpossibleValue
from ffcore.recipe import RecipeError, load_recipe
from ffcore.run.build import build
from ffcore.run.stages import run
from ffcore_freeflow.balancer import AdaptiveBalancer
from ffcore_meanflow.objective import MeanFlowPredictor
from ffcore_meanflow.tables import MeanFlow
from ffcore_mlp.student import MlpAverageVelocity

SIZE = 12


@attrs.frozen
class Tampered:
    """A derivative whose tangents or whose answer somebody got wrong."""

    tangents: Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]] = lambda *each: each
    answer: Callable[[Tensor, Tensor], Tensor] = lambda found, delta: found
    backend = "jvp"

    def __call__(self, function: Any, primals: Any, tangents: Any, **rest: Any) -> Tensor:
        del rest
        delta = expand_like(primals[2], primals[0])
        return self.answer(jvp(function, primals, self.tangents(*tangents)), delta)

    def with_value(self, function: Any, primals: Any, tangents: Any, **rest: Any) -> Any:
        return function(*primals), self(function, primals, tangents, **rest)


WRONG: dict[str, Any] = {
    "tangent along u": Tampered(tangents=lambda x, t, d: (-x, t, d)),
    "t stands": Tampered(tangents=lambda x, t, d: (x, 0 * t, d)),
    "δ stands": Tampered(tangents=lambda x, t, d: (x, t, 0 * d)),
    "δ runs back": Tampered(tangents=lambda x, t, d: (x, t, -d)),
    "minus the derivative": Tampered(answer=lambda found, delta: -found),
    "δ missing": Tampered(answer=lambda found, delta: found / delta),
    "no derivative": Tampered(answer=lambda found, delta: 0 * found),
}


class Swapped(Student):
    """A student that is told r where t is meant."""

    starts_at = "anywhere"

    def __init__(self, right: Student) -> None:
        super().__init__()
        self.right = right

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        output: Tensor = self.right(x_t, t - delta, delta, condition)
        return output


class Times:
    """A law of times that answers what it was given, as t and r."""

    def __init__(self, t: Any, r: Any) -> None:
        self.known = {"t": torch.as_tensor(t).double(), "r": torch.as_tensor(r).double()}

    def draw(self, draws: Draws, purpose: str) -> Tensor:
        del draws
        return self.known[purpose]


# On exact maps.


def identity_holds(
    case: GaussianCase,
    seed: int,
    velocity: Callable[[Gaussian, Tensor, Tensor, Condition], Tensor] = lambda u, x, t, c: u(
        x, t, c
    ),
    derivative: Any = None,
    exact: Callable[[Gaussian], Student] = lambda u: ExactStudent(u, starts_at="anywhere"),
) -> None:
    """F* + δ D F* = u(x, t), where D is along (−u, 1, 1)."""
    stream = Stream(seed)
    t = stream.uniform(0.01, 1, SIZE)
    t[:3] = 1.0
    delta = t * case.delta
    x, u = case.z, velocity(case.teacher, case.z, t, case.condition)
    student = exact(case.teacher)

    def average(*inputs: Tensor) -> Tensor:
        output: Tensor = student(*inputs, case.condition)
        return output

    along = (-u, torch.ones_like(t), torch.ones_like(t))
    D = (derivative or Tampered())(average, (x, t, delta), along)
    found = average(x, t, delta) + expand_like(delta, x) * D
    torch.testing.assert_close(found, u, rtol=1e-10, atol=1e-10)


@given(seed=seeds, shape=shapes, conditional=st.booleans())
def test_the_exact_map_of_two_times_obeys_the_identity(
    seed: int, shape: tuple[int, ...], conditional: bool
) -> None:
    identity_holds(GaussianCase.of(seed, shape, conditional), seed)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"derivative": each} for name, each in WRONG.items() if name != "δ missing"),
        {"exact": lambda u: Swapped(ExactStudent(u, starts_at="anywhere"))},
        {"exact": lambda u: ExactStudent(u)},
        {"exact": lambda u: ExactStudent(u, offset=1e-3, starts_at="anywhere")},
        {"velocity": lambda u, x, t, c: u(x, 1 - t, c)},
    ],
)
def test_a_wrong_identity_would_be_seen(wrong: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        identity_holds(GaussianCase.of(0), 0, **wrong)


def networks_of(case: GaussianCase, student: Student | None = None) -> Networks:
    exact = ExactStudent(case.teacher, starts_at="anywhere")
    return Networks(student=student or exact, teacher=case.teacher)


def batch_of(case: GaussianCase, seed: int = 0) -> Batch:
    data = Stream(seed).normal(*case.z.shape)
    return Batch(z=case.z, condition=case.condition, draws=Draws(seed, 0, 0, SIZE), data=data)


def gap_of(predictor: MeanFlowPredictor, networks: Networks, batch: Batch) -> Gap:
    (gap,) = predictor.gaps(networks, batch).gaps
    return gap


def vanishes(case: GaussianCase, seed: int = 0, student: Any = None, **options: Any) -> None:
    """With the teacher's velocity the gap of the exact map is zero, at any data."""
    predictor = MeanFlowPredictor("teacher", unequal=0.8, **options)
    gap = gap_of(predictor, networks_of(case, student), batch_of(case, seed)).gap
    torch.testing.assert_close(gap, torch.zeros_like(gap), rtol=0, atol=1e-10)


@given(seed=seeds, shape=shapes, conditional=st.booleans())
def test_by_the_teachers_velocity_the_gap_of_the_exact_map_is_zero(
    seed: int, shape: tuple[int, ...], conditional: bool
) -> None:
    vanishes(GaussianCase.of(seed, shape, conditional), seed)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_derivative_leaves_a_gap(wrong: str) -> None:
    with pytest.raises(AssertionError):
        vanishes(GaussianCase.of(0), derivative=WRONG[wrong])


def test_a_map_that_is_off_has_a_gap() -> None:
    case = GaussianCase.of(0)
    exact = ExactStudent(case.teacher, starts_at="anywhere")
    for student in (Swapped(exact), ExactStudent(case.teacher, 1e-3, "anywhere")):
        with pytest.raises(AssertionError):
            vanishes(case, student=student)


@pytest.mark.parametrize(("scheme", "order"), [("one-sided", 1), ("central", 2)])
def test_by_finite_differences_the_gap_is_small(scheme: Any, order: int) -> None:
    case = GaussianCase.of(0)
    for step in (1e-2, 1e-3):
        derivative = Derivative(backend="finite-difference", step=step, scheme=scheme)
        predictor = MeanFlowPredictor("teacher", unequal=1.0, derivative=derivative)
        gap = gap_of(predictor, networks_of(case), batch_of(case)).gap
        assert gap.isfinite().all()
        assert gap.norm() < 100 * step**order


def posterior(case: GaussianCase, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of data x given x_t, for x ~ N(μ, s²)."""
    mean, scale = case.teacher.mean[0], case.teacher.scale[0]
    # The density in x is exp(−(x − μ)² / 2s² − (x_t − (1 − t) x)² / 2t²) but for a factor.
    precision = 1 / scale**2 + (1 - t) ** 2 / t**2
    centre = (mean / scale**2 + expand_like((1 - t) / t**2, x_t) * x_t) / expand_like(
        precision, x_t
    )
    return centre, expand_like(precision, x_t) ** -0.5


def data_gaps(derivative: Any, noise: Tensor) -> Tensor:
    """Return gaps of the exact map by data's velocity, x being drawn given x_t by each noise.

    The noise is Float[N, SIZE, 3]; times and points are the same for every N.
    """
    case, stream, draws = GaussianCase.of(0), Stream(5), len(noise)
    t, r = stream.uniform(0.2, 0.95, 2, SIZE).sort(0, descending=True).values.repeat(1, draws)
    x_t = stream.normal(SIZE, 3).repeat(draws, 1)
    centre, deviation = posterior(case, x_t, t)
    x = centre + deviation * noise.flatten(0, 1)
    n = (x_t - expand_like(1 - t, x_t) * x) / expand_like(t, x_t)
    batch = Batch(z=n, data=x, condition=Condition(size=len(t)), draws=Draws(0, 0, 0, len(t)))
    predictor = MeanFlowPredictor(times=Times(t, r), unequal=1.0, derivative=derivative)
    return gap_of(predictor, networks_of(case), batch).gap.unflatten(0, (draws, SIZE))


def has_no_mean(derivative: Any = None) -> None:
    """E[gap | x_t] = 0 for the exact map, within five standard errors of a mean of 600."""
    found = data_gaps(derivative, Stream(1).normal(600, SIZE, 3))
    error = found.std(0) / len(found) ** 0.5
    assert found.square().mean() > 0.1  # the gap itself is not zero
    assert error.max() < 0.2
    assert (found.mean(0).abs() < 5 * error).all()


def test_by_datas_velocity_the_gap_of_the_exact_map_is_zero_in_mean_given_the_point() -> None:
    has_no_mean()


def test_the_gap_is_affine_in_the_sample_so_that_opposite_ones_cancel() -> None:
    noise = Stream(2).normal(1, SIZE, 3)
    one, other = data_gaps(None, torch.cat([noise, -noise]))
    torch.testing.assert_close((one + other) / 2, torch.zeros_like(one), rtol=0, atol=1e-10)
    assert one.norm() > 1


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_derivative_has_a_mean(wrong: str) -> None:
    with pytest.raises(AssertionError):
        has_no_mean(WRONG[wrong])


# The paper's loss, in the paper's terms.

Array = NDArray[np.float64]
BATCH, DIMENSION, HIDDEN = 5, 3, 4


@attrs.frozen(eq=False)
class Published:
    """MeanFlow as its paper has it, in numpy: t from 0 (data) to 1, v = ε − x, u by r and t.

    The network is u(z, r, t) = B tanh(A z + a t + b r + c), differentiated by hand.
    """

    A: Array
    B: Array
    a: Array
    b: Array
    c: Array
    x: Array
    noise: Array
    t: Array
    r: Array

    @staticmethod
    def drawn() -> Published:
        draw = np.random.default_rng(7).standard_normal
        t = np.array([0.9, 0.35, 0.8, 0.5, 0.95])
        return Published(
            A=draw((HIDDEN, DIMENSION)),
            B=draw((DIMENSION, HIDDEN)),
            a=draw(HIDDEN),
            b=draw(HIDDEN),
            c=draw(HIDDEN),
            x=draw((BATCH, DIMENSION)),
            noise=draw((BATCH, DIMENSION)),
            t=t,
            r=np.array([0.2, 0.35, 0.1, 0.45, 0.0]),  # the second has r = t
        )

    def loss_and_gradients(self, p: float, c: float) -> tuple[Array, float, dict[str, Array]]:
        """Return u − u_tgt [B, D], the mean of w ‖u − u_tgt‖², and its gradients."""
        t, r = self.t[:, None], self.r[:, None]
        z = (1 - t) * self.x + t * self.noise
        v = self.noise - self.x
        h = np.tanh(z @ self.A.T + t * self.a + r * self.b + self.c)
        u = h @ self.B.T
        # du/dt along (v, 0, 1) of (z, r, t)
        du_dt = ((1 - h**2) * (v @ self.A.T + self.a)) @ self.B.T
        error = u - (v - (t - r) * du_dt)
        square = (error**2).sum(1)
        w = 1 / (square + c) ** p
        d_u = 2 * w[:, None] * error / BATCH
        d_h = (d_u @ self.B) * (1 - h**2)
        gradients = {
            "A": d_h.T @ z,
            "B": d_u.T @ h,
            "a": (d_h * t).sum(0),
            "b": (d_h * r).sum(0),
            "c": d_h.sum(0),
        }
        return error, float((w * square).mean()), gradients


class Tanh(Student):
    """The same network as an average velocity of ours: F(x_t, t, δ) = −u(x_t, t − δ, t)."""

    starts_at = "anywhere"

    def __init__(self, published: Published) -> None:
        super().__init__()
        for name in ("A", "B", "a", "b", "c"):
            setattr(self, name, nn.Parameter(torch.tensor(getattr(published, name))))

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        del condition
        r = t - delta
        h = torch.tanh(x_t @ self.A.T + t[:, None] * self.a + r[:, None] * self.b + self.c)
        return -h @ self.B.T


def is_the_published_loss(
    derivative: Any = None,
    p: float = 1.0,
    times: Callable[[Published], Times] = lambda each: Times(each.t, each.r),
    epsilon: Callable[[float], float] = lambda c: c / DIMENSION,
    swap: bool = False,
) -> None:
    """With ε = c / d, ours is d^(p − 1) / 2 times the published loss, and so is its gradient."""
    published, c = Published.drawn(), 1e-2
    error, loss, gradients = published.loss_and_gradients(p, c)
    student = Tanh(published)
    predictor = MeanFlowPredictor(times=times(published), unequal=1.0, derivative=derivative)
    batch = Batch(
        z=torch.tensor(published.noise),
        data=torch.tensor(published.x),
        condition=Condition(size=BATCH),
        draws=Draws(0, 0, 0, BATCH),
    )
    asked = Swapped(student) if swap else student
    gap = gap_of(predictor, Networks(student=asked, teacher=Gaussian([0.0])), batch)
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(gap.gap, torch.tensor(-error), **close)
    weights = AdaptiveBalancer(power=p, weight_epsilon=epsilon(c)).weights("prediction", gap)
    factor = DIMENSION ** (p - 1) / 2
    ours = (weights * gap.norm() ** 2).mean() / 2
    torch.testing.assert_close(float(ours), factor * loss, **close)
    gap.inner(weights / BATCH).backward()
    for name, expected in gradients.items():
        found = getattr(student, name).grad
        torch.testing.assert_close(found, torch.tensor(factor * expected), **close)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 1.5])
def test_gap_loss_and_gradient_are_the_published_ones(p: float) -> None:
    is_the_published_loss(p=p)


def test_the_later_of_two_times_is_the_start() -> None:
    is_the_published_loss(times=lambda each: Times(each.r, each.t))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"derivative": each} for each in WRONG.values()),
        {"times": lambda each: Times(each.t, 0 * each.r)},
        {"epsilon": lambda c: c},
        {"swap": True},
    ],
)
def test_another_loss_would_be_seen(wrong: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        is_the_published_loss(**wrong)


# Guidance by data's velocity.


class OfClasses(Student):
    """F depends on all that it is given, and keeps what that was."""

    starts_at = "anywhere"

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.calls: list[Condition] = []

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        self.calls.append(condition)
        label, gamma = condition.label, condition.guidance
        assert label is not None
        gamma = torch.ones_like(t) if gamma is None else gamma.to(t)
        each = torch.sin(1.0 + label.to(t) + t + gamma) + delta
        return self.scale.to(x_t) * expand_like(each, x_t) * (1 + x_t)


GUIDABLE = GaussianMixture([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], 0.4, labels=[0, 1, 2])
SCALES = (1.0, 4.0)


def guided_target(
    predictor: MeanFlowPredictor, interval: tuple[float, float], channels: Any = "all"
) -> dict[str, Any]:
    """Return v and ṽ, the target at δ = 0, with all that they depend on."""
    size, stream = 60, Stream(3)
    draws = Draws(0, 0, 0, size)
    gamma = stream.uniform(*SCALES, size)
    condition = Condition(size=size, label=stream.integers(3, size), guidance=gamma)
    z, data = stream.normal(size, 2), stream.normal(size, 2)
    student = OfClasses()
    networks = Networks(student=student, teacher=Guided(GUIDABLE, interval, channels))
    batch = Batch(z=z, data=data, condition=condition, draws=draws)
    gap = gap_of(predictor, networks, batch)
    t = torch.maximum(*(predictor.times.draw(draws, name) for name in "tr")).double()
    return {
        "found": gap.output.detach() - gap.gap,
        "v": data - z,
        "t": t,
        "x_t": interpolate(data, z, t),
        "condition": condition,
        "student": student,
        "asked": next(each for each in student.calls[::-1] if each.size == size),
    }


def follows_the_guided_field(
    kappa: float,
    interval: tuple[float, float] = (0.2, 0.6),
    mixed: Callable[[Tensor, float], tuple[Tensor, float, Tensor]] = lambda gamma, kappa: (
        gamma * (1 - kappa),
        kappa,
        1 - gamma * (1 - kappa) - kappa,
    ),
) -> None:
    predictor = MeanFlowPredictor(unequal=0.0, kappa=kappa, drop=0.3)
    there = guided_target(predictor, interval)
    t, x_t, condition = there["t"], there["x_t"], there["condition"]
    dropped = there["asked"].label == 3
    student, zero = OfClasses(), torch.zeros_like(t)
    null = Condition(size=60, label=torch.full((60,), 3))
    with torch.no_grad():
        parts = there["v"], student(x_t, t, zero, condition), student(x_t, t, zero, null)
    shares = mixed(condition.guidance, kappa)
    guided = sum(
        expand_like(torch.as_tensor(share, dtype=x_t.dtype).expand(60), x_t) * part
        for share, part in zip(shares, parts, strict=True)
    )
    within = (t >= interval[0]) & (t <= interval[1]) & ~dropped
    assert 5 < int(within.sum()) < 55
    expected = torch.where(expand_like(within, x_t), guided, there["v"])
    torch.testing.assert_close(there["found"], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 0.9])
def test_datas_velocity_is_guided_where_the_run_guides(kappa: float) -> None:
    follows_the_guided_field(kappa)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda gamma, kappa: (gamma, kappa, 1 - gamma - kappa),
        lambda gamma, kappa: (gamma * (1 - kappa), 1 - gamma * (1 - kappa) - kappa, kappa),
        lambda gamma, kappa: (gamma * (1 - kappa), 0.0, 1 - gamma * (1 - kappa)),
        lambda gamma, kappa: (torch.ones_like(gamma), 0.0, 0 * gamma),
    ],
    ids=["γ for ω", "conditional for unconditional", "no κ", "unguided"],
)
def test_another_guidance_would_be_seen(wrong: Any) -> None:
    with pytest.raises(AssertionError):
        follows_the_guided_field(0.5, mixed=wrong)


def test_dropped_samples_are_asked_for_the_null_condition_at_no_scale() -> None:
    there = guided_target(MeanFlowPredictor(drop=0.3, unequal=0.0), (0.0, 1.0))
    asked, condition = there["asked"], there["condition"]
    dropped = asked.label == 3
    assert 8 < int(dropped.sum()) < 28
    assert (asked.guidance[dropped] == 1).all()
    for found, given_ in ((asked.label, condition.label), (asked.guidance, condition.guidance)):
        assert torch.equal(found[~dropped], given_[~dropped])
    torch.testing.assert_close(there["found"][dropped], there["v"][dropped])


def test_channels_that_the_run_does_not_guide_follow_the_data() -> None:
    there = guided_target(MeanFlowPredictor(unequal=0.0), (0.0, 1.0), channels=1)
    torch.testing.assert_close(there["found"][:, 1:], there["v"][:, 1:])
    assert (there["found"][:, 0] - there["v"][:, 0]).abs().max() > 0.1


@pytest.mark.parametrize("guided", [True, False])
def test_without_guidance_no_condition_is_dropped(guided: bool) -> None:
    student = OfClasses()
    gamma = None if guided else torch.full((SIZE,), 3.0)
    condition = Condition(size=SIZE, label=torch.arange(SIZE) % 3, guidance=gamma)
    z = Stream(0).normal(SIZE, 2)
    batch = Batch(z=z, data=z + 1, condition=condition, draws=Draws(0, 0, 0, SIZE))
    predictor = MeanFlowPredictor(drop=0.9, unequal=0.0, guided=guided)
    gap = gap_of(predictor, Networks(student=student, teacher=Guided(GUIDABLE)), batch)
    (asked,) = student.calls
    assert torch.equal(asked.label, condition.label)
    assert asked.guidance is gamma is None or torch.equal(asked.guidance, gamma)
    torch.testing.assert_close(gap.output.detach() - gap.gap, torch.ones_like(z))


@settings(max_examples=20)
@given(seed=seeds, kappa=st.floats(0, 0.95), scale=st.floats(0, 5))
def test_the_guided_velocity_is_a_fixed_point_for_every_kappa(
    seed: int, kappa: float, scale: float
) -> None:
    """F(·, 0 | c) = γ v + (1 − γ) F(·, 0 | ∅) has no gap, so γ is the effective scale."""
    stream = Stream(seed)
    z, data = stream.normal(SIZE, 2), stream.normal(SIZE, 2)
    v, unconditional = data - z, stream.normal(SIZE, 2)

    class Fixed(OfClasses):
        def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
            null = expand_like(condition.label == 3, v)
            return torch.where(null, unconditional, scale * v + (1 - scale) * unconditional)

    condition = Condition(
        size=SIZE,
        label=torch.zeros(SIZE, dtype=torch.long),
        guidance=torch.full((SIZE,), scale, dtype=torch.float64),
    )
    predictor = MeanFlowPredictor(kappa=kappa, drop=0.0, unequal=0.0)
    batch = Batch(z=z, data=data, condition=condition, draws=Draws(seed, 0, 0, SIZE))
    gap = gap_of(predictor, Networks(student=Fixed(), teacher=Guided(GUIDABLE)), batch).gap
    torch.testing.assert_close(gap, torch.zeros_like(gap), rtol=0, atol=1e-9)


def test_the_teachers_velocity_is_guided_by_the_teacher() -> None:
    teacher = Guided(GUIDABLE, (0.0, 1.0))
    condition = GUIDABLE.conditions.draw(Draws(0, 0, 0, SIZE))
    condition = attrs.evolve(condition, guidance=torch.full((SIZE,), 3.0).double())
    stream = Stream(0)
    batch = Batch(
        z=stream.normal(SIZE, 2),
        data=stream.normal(SIZE, 2),
        condition=condition,
        draws=Draws(0, 0, 0, SIZE),
    )
    predictor, student = MeanFlowPredictor("teacher", unequal=0.0), OfClasses()
    gap = gap_of(predictor, Networks(student=student, teacher=teacher), batch)
    t = torch.maximum(*(predictor.times.draw(batch.draws, name) for name in "tr")).double()
    assert batch.data is not None
    u = teacher(interpolate(batch.data, batch.z, t), t, condition)
    torch.testing.assert_close(gap.output.detach() - gap.gap, u)
    assert torch.equal(student.calls[0].label, condition.label)  # type: ignore[arg-type]


# What it asks of its student.


DUAL = Derivative(backend="dual")


def asked_times(predictor: MeanFlowPredictor, size: int = 4000) -> tuple[Tensor, Tensor, Tensor]:
    """Return x_t, t and δ that the student is asked for."""
    seen: list[tuple[Any, ...]] = []

    class Recording(Student):
        starts_at = "anywhere"

        def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
            seen.append((x_t, t, delta))
            return torch.zeros_like(x_t)

    z = torch.zeros(size, 1)
    batch = Batch(z=z, data=z + 1, condition=Condition(size=size), draws=Draws(0, 0, 0, size))
    gap_of(predictor, Networks(student=Recording(), teacher=Gaussian([0.0])), batch)
    whole = [
        torch.cat([getattr(each, "value", each) for each in parts])
        for parts in zip(*seen, strict=True)
    ]
    x_t, t, delta = whole
    return x_t, t, delta


def test_times_are_two_of_their_law_and_mostly_equal() -> None:
    x_t, t, delta = asked_times(MeanFlowPredictor(derivative=DUAL))
    assert ((t > 0) & (t < 1) & (delta >= 0) & (delta < t)).all()
    assert float((delta > 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(x_t[:, 0], 1 - t)  # of data 1 and noise 0
    # The later of two: P(logit t ≤ −0.4) = ½². Of unequal times, the earlier: 1 − (1 − ½)².
    assert float((t.logit() <= -0.4).float().mean()) == pytest.approx(0.25, abs=0.03)
    earlier = (t - delta)[delta > 0]
    assert float((earlier.logit() <= -0.4).float().mean()) == pytest.approx(0.75, abs=0.05)


def test_the_share_of_unequal_times_and_their_law_can_be_set() -> None:
    law = TimeDistribution(low=0.4, high=0.6)
    _, t, delta = asked_times(MeanFlowPredictor(times=law, unequal=1.0, derivative=DUAL))
    assert (delta > 0).all()
    assert t.max() <= 0.6
    assert (t - delta).min() >= 0.4 - 1e-6
    _, _, delta = asked_times(MeanFlowPredictor(unequal=0.0))
    assert not delta.any()


def test_the_derivative_is_asked_of_unequal_times_alone() -> None:
    rows = []

    class Recording(Tampered):
        def with_value(self, function: Any, primals: Any, tangents: Any, *, room: Any) -> Any:
            rows.append((primals[2] > 0).all() and len(primals[2]))
            behind, ahead = room
            assert torch.equal(behind, primals[2])
            assert torch.equal(ahead, 1 - primals[1])
            return super().with_value(function, primals, tangents)

    case = GaussianCase.of(0)
    predictor = MeanFlowPredictor(derivative=Recording())  # type: ignore[arg-type]
    gap_of(predictor, networks_of(case), batch_of(case))
    assert 0 < rows[0] < SIZE


def test_no_gradient_flows_through_the_teacher_or_the_gap() -> None:
    case, modes = GaussianCase.of(0), []

    def watched(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        modes.append((torch.is_grad_enabled(), x.requires_grad))
        return case.teacher(x, t, condition)

    student = MlpAverageVelocity(3, 0, width=8, depth=2, starts_at="anywhere").double()
    networks = Networks(student=student, teacher=FieldTeacher(watched, (3,)))
    gap = gap_of(MeanFlowPredictor("teacher"), networks, batch_of(case))
    assert modes == [(False, False)]
    assert gap.output.requires_grad
    assert not gap.gap.requires_grad


def test_the_predictor_checks_all_three_derivatives_on_the_student() -> None:
    case = GaussianCase.of(0)

    def said(student: Student) -> str:
        return MeanFlowPredictor().self_check(networks_of(case, student), batch_of(case))

    good = MlpAverageVelocity(3, 0, width=8, depth=2, starts_at="anywhere").double()
    assert "derivative: dual" in said(good)
    with pytest.raises(ValueError, match="starts only at the prior"):
        said(MlpAverageVelocity(3, 0, width=8, depth=2).double())

    class Jumps(Student):
        """Takes one of its inputs in jumps."""

        starts_at = "anywhere"

        def __init__(self, which: int) -> None:
            super().__init__()
            self.which, self.good = which, good

        def forward(self, *inputs: Any) -> Tensor:
            given_ = list(inputs)
            given_[self.which] = (4 * given_[self.which]).round() / 4
            output: Tensor = self.good(*given_)
            return output

    for which, name in enumerate("xtδ"):
        with pytest.raises(
            DerivativeMismatch, match=f"on {name}.*may round|differentiable in {name}"
        ):
            said(Jumps(which))


# The recipe's table.


def test_the_table_builds_what_it_says() -> None:
    table = MeanFlow(
        velocity="teacher",
        times=TimeDistribution(low=0.1),
        unequal=0.5,
        drop=0.2,
        derivative="finite-difference",
        derivative_step=1e-2,
        derivative_scheme="central",
    )
    built = table.build(Context(teacher=Gaussian([0.0])))
    assert isinstance(built, MeanFlowPredictor)
    assert built.velocity == "teacher"
    assert built.times == TimeDistribution(low=0.1)
    assert (built.unequal, built.drop, built.kappa) == (0.5, 0.2, 0.0)
    expected = Derivative(backend="finite-difference", step=1e-2, scheme="central")
    assert built.derivative == expected
    assert built.needs == table.needs == {"data", "student starts anywhere"}
    assert MeanFlow().times == TimeDistribution(distribution="logit-normal", location=-0.4)


def test_guidance_of_data_beside_the_teachers_velocity_is_refused() -> None:
    with pytest.raises(ImpossibleValue, match="velocity is already guided"):
        MeanFlow(velocity="teacher", kappa=0.5)
    with pytest.raises(ImpossibleValue, match="guided as the recipe guides"):
        MeanFlow(velocity="teacher", guided=False)


BASE = {
    "student.type": "mlp",
    "student.starts_at": "anywhere",
    "predictor.type": "meanflow",
    "corrector": "none",
    "data.type": "teacher-samples",
}


def loaded(changes: Mapping[str, str]) -> Any:
    overrides = [f"{name}={value}" for name, value in {**BASE, **changes}.items() if value]
    return load_recipe("mixture.toml", overrides)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student.starts_at": "prior"}, "needs 'student starts anywhere'"),
        ({"data.type": ""}, "needs 'data'"),
        ({"predictor.kappa": "0.5"}, "nothing is guided"),
        ({"guidance.scale": "2.0"}, "guided: must be false.*guided twice; or set data.guided"),
        (
            {
                "guidance.scale": "2.0",
                "predictor.guided": "false",
                "predictor.kappa": "0.5",
            },
            r"0, because the data velocity is not guided \(guided = false\)",
        ),
        (
            {
                "guidance.scale": "2.0",
                "predictor.guided": "false",
                "data.guided": "false",
            },
            "guided: must be true, because the recipe guides .* these data are unguided",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        loaded(changes)


def test_a_recipe_that_fits_is_taken() -> None:
    assert loaded({}).predictor == MeanFlow()
    scale = {"guidance.scale": "2.0"}
    loaded({**scale, "data.guided": "false", "predictor.kappa": "0.5"})
    loaded({**scale, "predictor.guided": "false"})
    loaded({**scale, "predictor.velocity": "teacher"})


def test_over_a_range_of_scales_data_must_be_guided() -> None:
    changes = ["corrector=none", "student.starts_at=anywhere", "predictor.type=meanflow"]
    changes += ["data.type=teacher-samples", "data.guided=false"]
    load_recipe("digits_guided.toml", changes)
    with pytest.raises(RecipeError, match=r"true, because guidance\.range needs every scale"):
        load_recipe("digits_guided.toml", [*changes, "predictor.guided=false"])


def test_digits_are_nobodys_guided_samples() -> None:
    changes = ["guidance.scale=2.0", "predictor.guided=false"]
    with pytest.raises(RecipeError, match="these data are unguided"):
        load_recipe("digits_meanflow.toml", changes)
    load_recipe("digits_meanflow.toml", changes[:1])


@pytest.mark.parametrize("guided", [True, False])
def test_data_that_are_taken_for_guided_are_told_before_training(guided: bool) -> None:
    overrides = {**BASE, "guidance.scale": "2.0", "data.number": "64"}
    overrides |= {"predictor.guided": str(guided).lower(), "data.guided": str(not guided).lower()}
    recipe = load_recipe("mixture.toml", [f"{name}={value}" for name, value in overrides.items()])
    (said,) = build(recipe).distillation.self_check()
    assert ("the data must be samples of the guided teacher" in said) == (not guided)


# In a run.

SHORT = {
    "training.steps": "500",
    "training.batch": "128",
    "evaluation.samples": "1000",
    "evaluation.euler": "[1, 2]",
    "evaluation.student_steps": "[2]",
}


@pytest.mark.parametrize("velocity", ["data", "teacher"])
def test_a_run_comes_closer_to_the_teacher_than_two_euler_steps(
    tmp_path: Path, velocity: str
) -> None:
    changes = {**BASE, **SHORT, "predictor.velocity": velocity}
    overrides = [f"{name}={value}" for name, value in changes.items()]
    found = run(load_recipe("gaussian.toml", overrides), tmp_path / "run")
    assert found is not None
    raw = found.distances["raw"]
    assert raw.student is not None
    assert raw.student < raw.euler[2]
    assert raw.student_steps[2] < raw.euler[2]


@pytest.mark.parametrize(
    "guidance",
    [{"scale": "2.0"}, {"range": "[1.0, 3.0]"}, {"scale": "2.0", "interval": "[0, 0.5]"}],
)
@pytest.mark.parametrize("velocity", ["data", "teacher"])
def test_transformers_learn_from_data_under_guidance(
    velocity: str, guidance: dict[str, str]
) -> None:
    overrides = [
        "corrector=none",
        "student.starts_at=anywhere",
        "predictor.type=meanflow",
        f"predictor.velocity={velocity}",
        f"predictor.kappa={0.5 if velocity == 'data' else 0.0}",
        "data.type=teacher-samples",
        "data.number=64",
        "data.guided=false",
        "data.solver.steps=2",
        "training.batch=16",
        "evaluation.enabled=false",
        *(f"guidance.{name}={value}" for name, value in guidance.items()),
    ]
    distillation = build(load_recipe("digits.toml", overrides)).distillation
    distillation.self_check()
    losses = [distillation.step()["loss"] for _ in range(3)]
    assert all(loss.isfinite() for loss in losses)
