"""A Gaussian's exact network in every convention, restated by other formulas, and recovered."""

import itertools
import math
from collections.abc import Callable
from typing import Any, get_args

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ffcore import convert
from ffcore.flow.convention import Convention, Path, Prediction, Schedule, Time
from ffcore.flow.convert import converted
from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.flow.guidance import Guided
from ffcore.flow.ode import integrate
from ffcore.flow.path import expand_like
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, Labels, Unconditional

RANGE = (0.01, 50.0)
D = 0.5


def conventions() -> list[Convention]:
    """Every combination that is not refused."""
    found = []
    for prediction, path, time in itertools.product(*map(get_args, (Prediction, Path, Time))):
        keys: dict[str, Any] = {"prediction": prediction, "path": path, "time": time}
        keys["sigma_range"] = None if time == "index" else RANGE
        keys["sigma_data"] = D if path in ("edm", "trig") else None
        keys["schedule"] = "linear" if time == "index" else None
        try:
            found.append(Convention(**keys))
        except ValueError:
            continue
    return found


CONVENTIONS = conventions()


def name(convention: Convention) -> str:
    return f"{convention.prediction} {convention.path} {convention.time}"


def alphas_cumprod(schedule: str) -> np.ndarray:
    """By the definitions of the papers, not by ours."""
    if schedule == "cosine":
        f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))
    if schedule == "linear":
        return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    return np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def ratio(convention: Convention, time: Tensor) -> Tensor:
    """σ/α of a network's time."""
    c = convention
    if c.time == "index":
        bar = alphas_cumprod(c.schedule or "")
        a, s = bar**0.5, (1 - bar) ** 0.5
        t = torch.from_numpy(np.interp(time.numpy(), np.arange(1000), s / (a + s)))
        return t / (1 - t)
    d = D if c.path in ("edm", "trig") else 1.0
    by_fraction: Callable[[Tensor], Tensor] = (
        (lambda share: share / (1 - share))
        if c.path == "linear"
        else (lambda share: D * torch.tan(share * math.pi / 2))
    )
    rules: dict[str, Callable[[Tensor], Tensor]] = {
        "sigma": lambda time: time,
        "log-snr": lambda time: torch.exp(-time / 2),
        "c-noise": lambda time: torch.exp(4 * time),
        "angle": lambda time: d * torch.tan(time),
        "noise-at-1": by_fraction,
        "noise-at-0": lambda time: by_fraction(1 - time),
        "noise-at-1000": lambda time: by_fraction(time / 1000),
    }
    return rules[c.time](time)


class ExactNetwork(nn.Module):
    """What a perfect network of the convention returns, for data N(mean, scale²)."""

    def __init__(self, convention: Convention, mean: Tensor, scale: float) -> None:
        super().__init__()
        self.convention, self.scale = convention, scale
        self.mean = nn.Parameter(mean)

    def forward(self, y: Tensor, time: Tensor, condition: Condition) -> Tensor:
        rho = expand_like(ratio(self.convention, time), y)
        alpha = {
            "linear": 1 / (1 + rho),
            "vp": 1 / (1 + rho**2).sqrt(),
            "ve": torch.ones_like(rho),
            "edm": 1 / (rho**2 + D**2).sqrt(),
            "trig": torch.cos(torch.atan(rho / D)) / D,
        }[self.convention.path]
        sigma = alpha * rho
        variance = alpha**2 * self.scale**2 + sigma**2
        x = self.mean + alpha * self.scale**2 / variance * (y - alpha * self.mean)
        n = sigma / variance * (y - alpha * self.mean)
        theta = torch.atan(rho / (D if self.convention.path in ("edm", "trig") else 1.0))
        x_hat = x / (D if self.convention.path in ("edm", "trig") else 1.0)
        c_skip, c_out = D**2 / (rho**2 + D**2), rho * D / (rho**2 + D**2).sqrt()
        return {
            "velocity-to-data": x - n,
            "velocity-to-noise": n - x,
            "noise": n,
            "data": x,
            "v": torch.cos(theta) * n - torch.sin(theta) * x_hat,
            "score": -(y - alpha * self.mean) / variance,
            "edm-output": (x - c_skip * (y / alpha)) / c_out,
        }[self.convention.prediction]


def off(true: Convention, stated: Convention, seed: int, low: float = 0.05) -> float:
    """The relative error of the velocity, if the network is `true` and is said to be `stated`."""
    draw = torch.Generator().manual_seed(seed)
    mean = torch.randn(3, generator=draw, dtype=torch.float64)
    scale = 0.3 + float(torch.rand((), generator=draw))
    exact = Gaussian(mean, scale)
    teacher = converted(ExactNetwork(true, mean, scale), stated, (3,), Unconditional())
    a, b = true.trained
    t = a + (b - a) * torch.rand(20, generator=draw, dtype=torch.float64)
    t[:2] = torch.tensor([a, b], dtype=torch.float64)
    x = torch.randn(20, 3, generator=draw, dtype=torch.float64)
    with torch.no_grad():
        found, wanted = (each(x, t, Condition(size=20)) for each in (teacher, exact))
    return float((found - wanted).norm() / wanted.norm())


def test_there_are_as_many_conventions_as_documented() -> None:
    assert len(CONVENTIONS) == 114


@pytest.mark.parametrize("convention", CONVENTIONS, ids=name)
@settings(max_examples=2)
@given(seed=st.integers(0, 2**31 - 1))
def test_an_exact_network_of_any_convention_is_recovered(convention: Convention, seed: int) -> None:
    assert off(convention, convention, seed) < 1e-10


def twins(true: Convention) -> list[Convention]:
    """The conventions that differ from `true` in one word; "edm" and "trig" are one path."""
    words = ("prediction", "path", "time")
    return [
        other
        for other in CONVENTIONS
        if sum(getattr(true, word) != getattr(other, word) for word in words) == 1
        and {true.path, other.path} != {"edm", "trig"}
    ]


@pytest.mark.parametrize("true", CONVENTIONS, ids=name)
def test_a_network_said_to_be_of_another_convention_is_not_recovered(true: Convention) -> None:
    assert twins(true)
    with np.errstate(all="ignore"):
        for wrong in twins(true):
            assert not off(true, wrong, 0) < 1e-3, name(wrong)


# The flow, and the ends of time.


def exact(seed: int = 0, size: int = 4) -> tuple[GaussianMixture, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(5, size, generator=draw, dtype=torch.float64)
    return GaussianMixture(means, 0.2), torch.randn(64, size, generator=draw, dtype=torch.float64)


class Restated(nn.Module):
    """The exact noise or data of a teacher of ours, on our path."""

    def __init__(self, teacher: nn.Module, noise: bool) -> None:
        super().__init__()
        self.teacher, self.noise = teacher, noise

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        u, time = self.teacher(x_t, t, condition), expand_like(t, x_t)
        return x_t - (1 - time) * u if self.noise else x_t + time * u


def on_our_path(teacher: nn.Module, prediction: Any, size: int = 4, **keys: Any) -> Any:
    network = Restated(teacher, prediction == "noise")
    return convert(
        network,
        prediction=prediction,
        path="linear",
        time="noise-at-1",
        sample_shape=(size,),
        **keys,
    )


@pytest.mark.parametrize("prediction", ["noise", "data"])
@pytest.mark.parametrize(("highest", "cost"), [(20.0, 0.1), (80.0, 2e-3), (157.0, 5e-4)])
def test_the_flow_is_right_and_the_ends_cost_what_is_documented(
    prediction: str, highest: float, cost: float
) -> None:
    teacher, z = exact()
    found = on_our_path(teacher, prediction, sigma_range=(0.002, highest))
    condition, solver = Condition(size=len(z)), Solver("dopri5", tolerance=1e-8)
    converged = teacher.flow_map(z, torch.ones(64).double(), torch.ones(64).double(), condition)
    error = (integrate(found, z, condition, solver) - converged).square().mean().sqrt()
    assert float(error) < cost
    wrong = on_our_path(teacher, "data" if prediction == "noise" else "noise", sigma_range=(0.1, 9))
    wrong.field.network.noise = prediction == "noise"
    assert (integrate(wrong, z, condition) - converged).square().mean().sqrt() > 0.3


@pytest.mark.parametrize("prediction", ["noise", "data"])
def test_the_ends_join_continuously_and_are_finite(prediction: str) -> None:
    teacher, z = exact()
    found = on_our_path(teacher, prediction, sigma_range=(0.05, 20.0))
    low, high = 0.05 / 1.05, 20 / 21
    condition = Condition(size=64)

    def u(t: float) -> Tensor:
        velocity: Tensor = found(z, torch.full((64,), t, dtype=torch.float64), condition)
        return velocity

    for end in (low, high):
        away = float((u(end + 1e-9) - u(end - 1e-9)).abs().max())
        assert away < 1e-5
        assert float((u(end + 1e-3) - u(end - 1e-3)).abs().max()) > 10 * away
    x = integrate(teacher, z, condition)
    for point, time in ((x, torch.zeros(64)), (z, torch.ones(64))):
        wanted = teacher(point, time.double(), condition)
        error = (found(point, time.double(), condition) - wanted).square().mean().sqrt()
        assert 1e-3 < float(error) < 0.3 * float(wanted.square().mean().sqrt())


def test_a_derivative_in_time_passes_through_the_whole_range() -> None:
    teacher, z = exact()
    found = on_our_path(teacher, "noise", sigma_range=(0.05, 20.0))
    t = torch.linspace(0, 1, 64, dtype=torch.float64)

    def u(t: Tensor) -> Tensor:
        velocity: Tensor = found(z, t, Condition(size=64))
        return velocity

    _, change = torch.func.jvp(u, (t,), (torch.ones_like(t),))
    assert change.isfinite().all()
    inner = slice(5, 59)
    step = 1e-6
    wanted = (u(t + step) - u(t - step)) / (2 * step)
    torch.testing.assert_close(change[inner], wanted[inner], rtol=1e-4, atol=1e-4)


# Precision.


class Rounded(nn.Module):
    """Answers right but for the precision of a linear layer that does nothing."""

    def __init__(self, inner: nn.Module, size: int) -> None:
        super().__init__()
        self.inner, self.last = inner, nn.Linear(size, size, bias=False)
        with torch.no_grad():
            self.last.weight.copy_(torch.eye(size))
        self.asked: list[torch.dtype] = []

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        found: Tensor = self.last(self.inner(x, time, condition))
        self.asked.append(found.dtype)
        return found


def in_bfloat16(prediction: Any, range_: Any) -> tuple[float, torch.dtype]:
    """The largest error of a velocity at t = .99 under autocast, and the network's dtype."""
    teacher = GaussianMixture(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), 0.2)
    inner = (
        teacher if prediction.startswith("velocity") else Restated(teacher, prediction == "noise")
    )
    network = Rounded(inner, 4)
    found = convert(
        network,
        prediction=prediction,
        path="linear",
        time="noise-at-1",
        sample_shape=(4,),
        sigma_range=range_,
    )
    z, t = torch.randn(64, 4, generator=torch.Generator().manual_seed(1)), torch.full((64,), 0.99)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        velocity = found(z, t, Condition(size=64))
    assert velocity.dtype == torch.float32
    wanted = teacher(z, t, Condition(size=64))
    return float((velocity - wanted).abs().max()), network.asked[-1]


@pytest.mark.parametrize("prediction", ["noise", "data"])
def test_a_magnified_network_runs_outside_autocast(prediction: str) -> None:
    error, dtype = in_bfloat16(prediction, (0.002, 157.0))
    assert dtype == torch.float32
    assert error < 1e-3


def test_other_networks_run_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    error, dtype = in_bfloat16("velocity-to-data", None)
    assert dtype == torch.bfloat16
    assert error < 0.05
    monkeypatch.setattr(Convention, "magnifies", False)  # the wrong twin
    error, dtype = in_bfloat16("noise", (0.002, 157.0))
    assert dtype == torch.bfloat16
    assert error > 0.2


def test_half_precision_weights_become_float32() -> None:
    network = nn.Linear(2, 2).bfloat16()
    found = convert(
        network,
        prediction="velocity-to-data",
        path="linear",
        time="noise-at-0",
        sample_shape=(2,),
        call=lambda net, x, time, condition: net(x),
    )
    assert found(torch.randn(3, 2), torch.rand(3), Condition(size=3)).dtype == torch.float32
    assert network.weight.dtype == torch.float32


# The teacher.


def labelled() -> Any:
    network = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 4))
    return convert(
        network,
        prediction="v",
        path="vp",
        time="index",
        schedule="scaled-linear",
        sample_shape=(2,),
        conditions=Labels(3, null_label=3),
        call=lambda net, x, time, c: net(torch.cat([x, time[:, None] / 999 + c.label[:, None]], 1))[
            :, :2
        ],
    )


def test_the_copy_is_the_wrapper_around_a_network_of_its_own() -> None:
    teacher = labelled()
    assert not any(each.requires_grad for each in teacher.parameters())
    copied = teacher.trainable_copy()
    x, t = torch.randn(5, 2), torch.rand(5)
    condition = Condition(size=5, label=torch.arange(5) % 4)
    before = teacher(x, t, condition)
    assert torch.equal(copied(x, t, condition), before)
    copied(x, t, condition).square().sum().backward()
    for parameter in copied.parameters():
        assert parameter.grad is not None
        assert parameter.grad.any()
        parameter.data.add_(1)
    assert torch.equal(teacher(x, t, condition), before)
    with pytest.raises(ValueError, match="no input for γ"):
        teacher.trainable_copy(takes_guidance=True)
    guided = Guided(teacher)(x, t, condition.at(2.0))
    null = Condition(size=5, label=torch.full((5,), 3))
    torch.testing.assert_close(guided, 2 * before - teacher(x, t, null))


def test_a_function_is_a_black_box() -> None:
    teacher = convert(
        lambda x, time, condition: -x,
        prediction="velocity-to-data",
        path="linear",
        time="noise-at-0",
        sample_shape=(2,),
    )
    assert teacher.trainable_copy() is None
    assert torch.equal(
        teacher(torch.ones(1, 2), torch.ones(1), Condition(size=1)), -torch.ones(1, 2)
    )
    assert not teacher.state_dict()


def test_the_same_weights_in_another_convention_are_another_teacher() -> None:
    from ffcore.system.weights import fingerprint

    network = nn.Linear(2, 2)
    keys: dict[str, Any] = {"path": "linear", "time": "noise-at-1", "sample_shape": (2,)}
    one, same, other = (
        convert(network, prediction=each, **keys)
        for each in ("velocity-to-data", "velocity-to-data", "velocity-to-noise")
    )
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)


# Schedules.


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_a_published_schedule_is_its_numbers(schedule: Any) -> None:
    keys: dict[str, Any] = {"prediction": "v", "path": "vp", "time": "index"}
    named = Convention(schedule=schedule, **keys)
    numbers = alphas_cumprod(schedule)
    own = Convention(alphas_cumprod=tuple(numbers.tolist()), **keys)
    assert named.numbers == pytest.approx(own.numbers, rel=1e-9)
    assert named.trained == pytest.approx((named.numbers or ())[:: len(numbers) - 1])


def test_a_schedule_may_end_in_pure_noise() -> None:
    numbers = [*alphas_cumprod("scaled-linear")[:-1], 0.0]
    teacher = convert(
        lambda x, time, condition: time[:, None].expand_as(x),
        prediction="v",
        path="vp",
        time="index",
        alphas_cumprod=torch.tensor(numbers),
        sample_shape=(1,),
    )
    t = torch.tensor([0.0, 0.5, 1.0])
    found = teacher(torch.zeros(3, 1), t, Condition(size=3))
    assert found.isfinite().all()
    assert float(found[2]) == -999


REFUSED: dict[str, dict[str, Any]] = {
    "'velocity-to-data' is for the path 'linear', but path is 'vp' .*is called v": {
        "prediction": "velocity-to-data",
        "path": "vp",
    },
    "'v' is for the path .*'trig', but path is 'linear'": {"prediction": "v"},
    "'noise-at-1' is for .*, but path is 'vp' .*several meanings": {
        "prediction": "v",
        "path": "vp",
    },
    "'index' needs its schedule": {"prediction": "v", "path": "vp", "time": "index"},
    "'ve' has no end.*EDM's is": {"prediction": "data", "path": "ve", "time": "sigma"},
    "'sigma' is infinite": {"time": "sigma"},
    "'noise' says nothing of pure noise": {"prediction": "noise"},
    "'data' says nothing of pure data": {"prediction": "data"},
    "needs sigma_data": {"prediction": "v", "path": "trig"},
    "sigma_data belongs": {"sigma_data": 0.5},
    "schedule belongs": {"schedule": "linear"},
    "contradict": {
        "prediction": "v",
        "path": "vp",
        "time": "index",
        "schedule": "linear",
        "alphas_cumprod": [0.9, 0.1],
    },
    "must be falling numbers; betas": {
        "prediction": "v",
        "path": "vp",
        "time": "index",
        "alphas_cumprod": [0.0001, 0.02],
    },
    "steps is 50": {"steps": 50},
    "did you mean 'noise-at-1'": {"time": "noise-at1"},
    "prediction: must be one of .*; did you mean 'noise'": {"prediction": "noises"},
    "low at most high": {"sigma_range": (3.0, 1.0)},
    "sigma_range: must be above 0": {"sigma_range": (0.0, 1.0)},
}


@pytest.mark.parametrize("message", REFUSED)
def test_words_that_do_not_go_together_are_refused(message: str) -> None:
    keys = {"prediction": "velocity-to-data", "path": "linear", "time": "noise-at-1"}
    with pytest.raises(ValueError, match=message):
        convert(nn.Linear(2, 2), sample_shape=(2,), **(keys | REFUSED[message]))  # type: ignore[arg-type]


def test_a_convention_holds_what_convert_takes() -> None:
    import inspect

    own = {"network", "sample_shape", "conditions", "call"}
    names = {each.name for each in attrs.fields(Convention)}
    assert set(inspect.signature(convert).parameters) - own == names
