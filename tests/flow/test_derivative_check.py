"""The check of a derivative on a student, and the choice of its backend."""

from collections.abc import Callable
from typing import Any, cast

import attrs
import pytest
import torch
import torch.nn.functional as functional
from inputs import Stream
from networks import FunctionStudent
from torch import Tensor, nn

from ffcore.draws import Draws
from ffcore.flow import dual
from ffcore.flow.derivative import Derivative
from ffcore.flow.derivative_check import (
    PERIOD,
    DerivativeMismatch,
    _perturb,
    backend_for,
    choose,
    self_check,
)
from ffcore.flow.path import expand_like
from ffcore.interfaces import Condition, Student


def wave(x: Tensor, delta: Tensor) -> Tensor:
    return torch.sin(3 * expand_like(delta, x) + x)


DRAWS = Draws(0, 0, 0, 8)
DUAL, JVP = Derivative(backend="dual"), Derivative(backend="jvp")
DIFFERENCE = Derivative(backend="finite-difference")
BACKENDS = pytest.mark.parametrize(
    "derivative", [DUAL, JVP, DIFFERENCE], ids=["dual", "jvp", "difference"]
)


def check(student: Student, derivative: Derivative) -> float:
    z = Stream(0).normal(8, 3)
    return self_check(student, derivative, z, Condition(size=8), DRAWS).error


class NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor], output: Tensor) -> None:
        pass


@BACKENDS
def test_the_check_passes_where_the_backends_agree(derivative: Derivative) -> None:
    error = check(FunctionStudent(wave), derivative)
    assert error < (2e-3 if derivative == DIFFERENCE else 1e-6)  # |F''| / 2 · step, relative


@BACKENDS
@pytest.mark.parametrize(
    "function",
    [
        lambda z, delta: wave(z, delta.detach()),
        lambda z, delta: wave(z, (1000 * delta).floor() / 1000),
        lambda z, delta: wave(z, delta) + wave(z, delta.detach()),
    ],
    ids=["detached", "a thousand time steps", "half detached"],
)
def test_the_check_fails_a_student_that_is_not_differentiable(
    function: Callable[[Tensor, Tensor], Tensor], derivative: Derivative
) -> None:
    with pytest.raises(DerivativeMismatch, match="not be differentiable in δ"):
        check(FunctionStudent(function), derivative)


@BACKENDS
def test_the_check_fails_a_student_that_takes_its_time_in_jumps(derivative: Derivative) -> None:
    """Both backends may say 0 then, and agree, unless a difference straddles a jump."""
    with pytest.raises(DerivativeMismatch, match="may round"):
        check(FunctionStudent(lambda z, delta: wave(z, (4 * delta).floor() / 4)), derivative)


@BACKENDS
def test_the_check_lets_a_student_be_that_does_not_depend_on_time(derivative: Derivative) -> None:
    assert check(FunctionStudent(lambda z, delta: z + 0 * delta[:, None]), derivative) == 0


@BACKENDS
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_check_tells_a_student_that_is_not_finite(derivative: Derivative, value: float) -> None:
    with pytest.raises(ValueError, match="the student's output is NaN or infinite"):
        check(FunctionStudent(lambda z, delta: value * wave(z, delta)), derivative)


def test_the_check_fails_a_step_that_is_too_long() -> None:
    with pytest.raises(DerivativeMismatch, match=r"step than 0\.1"):
        check(FunctionStudent(wave), attrs.evolve(DIFFERENCE, step=0.1))


def test_forward_mode_is_not_chosen_for_a_student_without_it() -> None:
    student = FunctionStudent(lambda z, delta: NoForwardMode.apply(wave(z, delta)))
    with pytest.raises(DerivativeMismatch, match=r'jvp.*\n.*"auto"'):
        check(student, JVP)


def test_differences_need_no_forward_mode() -> None:
    student = FunctionStudent(lambda z, delta: NoForwardMode.apply(wave(z, delta)))
    assert check(student, DIFFERENCE) < 2e-3


def test_the_check_sees_through_a_student_that_starts_without_delta() -> None:
    """Its weight on δ is zero; a copy with other weights shows that δ is detached."""

    class Started(FunctionStudent):
        def __init__(self) -> None:
            super().__init__(lambda z, delta: z)
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
            del t, condition
            return x_t + self.weight.to(x_t) * expand_like(delta.detach(), x_t)

    with pytest.raises(DerivativeMismatch):
        check(Started(), JVP)


def test_the_check_leaves_the_student_and_the_random_state_alone() -> None:
    student = FunctionStudent(wave).train()
    state = torch.get_rng_state()
    check(student, JVP)
    assert torch.equal(torch.get_rng_state(), state)
    assert student.training
    assert student.scale.requires_grad
    assert torch.equal(student.scale, torch.ones(1))


# What "auto" picks.


@torch.library.custom_op("ffcore_tests::square", mutates_args=())
def square(x: Tensor) -> Tensor:
    return x * x


def keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


square.register_autograd(lambda ctx, g: 2 * ctx.saved_tensors[0] * g, setup_context=keep)


class Cubed(torch.autograd.Function):
    """Computed where torch cannot see it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy() ** 3)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class OwnGradient(torch.autograd.Function):
    """scale · x, whose gradient is lost beside dual numbers, and which has no forward mode."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, x: Tensor) -> Tensor:
        ctx.x = x
        return scale.to(x) * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return (gradient * ctx.x).sum()[None].float(), None


class Owned(FunctionStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        del t, condition
        return cast(Tensor, OwnGradient.apply(self.scale, wave(x_t, delta)))


class LosesItsGradient(FunctionStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        del t, condition
        scale = self.scale if isinstance(delta, Tensor) else self.scale.detach()
        return scale.to(x_t) * wave(x_t, delta)


class LosesALayer(LosesItsGradient):
    """Far below the other gradients, but lost."""

    def __init__(self) -> None:
        super().__init__(wave)
        self.other = nn.Parameter(torch.ones(1))

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        small = 1e-6 * super().forward(x_t, t, delta, condition)
        return small + self.other.to(x_t) * wave(x_t, delta)


class OtherForDualNumbers(FunctionStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        plain = super().forward(x_t, t, delta, condition)
        return plain if isinstance(delta, Tensor) else plain + 1


def of_tensors_alone(z: Tensor, delta: Tensor) -> Tensor:
    assert isinstance(delta, Tensor)
    return wave(z, delta)


def refused(z: Tensor, delta: Tensor) -> Tensor:
    if not isinstance(delta, Tensor):
        raise ValueError("δ must be a tensor")
    return wave(z, delta)


def picked(student: Student) -> str:
    return backend_for(student, Stream(0).normal(2, 3), Condition(size=2))


@pytest.mark.parametrize(
    ("student", "backend"),
    [
        (FunctionStudent(wave), "dual"),
        (FunctionStudent(lambda z, delta: NoForwardMode.apply(wave(z, delta))), "dual"),
        (FunctionStudent(of_tensors_alone), "jvp"),
        (FunctionStudent(refused), "jvp"),
        (FunctionStudent(lambda z, delta: wave(z, torch.as_tensor(delta))), "jvp"),
        (Owned(wave), "dual"),
        (LosesItsGradient(wave), "jvp"),
        (LosesALayer(), "jvp"),
        (OtherForDualNumbers(wave), "jvp"),
        (FunctionStudent(lambda z, delta: square(wave(z, delta))), "finite-difference"),
        (FunctionStudent(lambda z, delta: Cubed.apply(wave(z, delta))), "finite-difference"),
    ],
    ids=[
        *("plain", "own function", "asserts", "refuses", "converts", "own gradient"),
        *("loses its gradient", "loses a layer", "another value", "custom operation", "numpy"),
    ],
)
def test_the_first_backend_that_works_is_picked(student: Student, backend: str) -> None:
    assert picked(student) == backend
    derivative = Derivative(backend=cast(Any, backend))
    assert check(student, derivative) < 1e-2


@pytest.mark.parametrize(
    ("student", "said"),
    [
        (LosesItsGradient(wave), "another gradient in scale"),
        (LosesALayer(), "another gradient in scale"),
        (OtherForDualNumbers(wave), "output is another one"),
    ],
)
def test_what_dual_numbers_change_is_seen_where_they_are_asked_for(
    student: Student, said: str
) -> None:
    with pytest.raises(DerivativeMismatch, match=said):
        check(student, DUAL)


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_student_that_torch_does_not_let_be_watched_gets_a_difference() -> None:
    def branch(z: Tensor, delta: Tensor) -> Tensor:
        chosen: Tensor = torch.cond(torch.tensor(True), torch.sin, torch.cos, (wave(z, delta),))
        return chosen

    torch._dynamo.reset()
    assert picked(FunctionStudent(branch)) == "finite-difference"


def test_an_error_of_the_student_s_own_is_not_taken_for_a_refusal() -> None:
    def broken(z: Tensor, delta: Tensor) -> Tensor:
        raise ValueError("no such class")

    with pytest.raises(ValueError, match="no such class"):
        picked(FunctionStudent(broken))


def test_the_choice_is_kept_and_does_not_depend_on_the_samples() -> None:
    student, z = FunctionStudent(of_tensors_alone), Stream(0).normal(4, 3)
    for samples in (z, z[:1], 100 * z):
        found = choose(Derivative(step=1e-4), student, samples, Condition(size=len(samples)))
        assert found == Derivative(backend="jvp", step=1e-4)
    assert choose(DUAL, student, z, Condition(size=4)) is DUAL


def test_all_that_was_tried_is_named_if_nothing_works() -> None:
    student = FunctionStudent(lambda z, delta: wave(z, (1000 * delta).floor() / 1000))
    with pytest.raises(DerivativeMismatch, match=r'"dual" is wrong(.|\n)*"jvp"(.|\n)*"finite-d'):
        check(student, Derivative())


# Right backends that an inexact yardstick would fail.


class Net(Student):
    """A small network; a subclass changes how δ enters, or what lies between its two layers."""

    starts_at = "prior"

    def __init__(self, features: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.middle = nn.Linear(3 + features, 16), nn.Linear(16, 16)
            self.last = nn.Linear(16, 3)

    def embed(self, delta: Tensor) -> Tensor:
        return delta[:, None]

    def between(self, h: Tensor) -> Tensor:
        return functional.silu(self.middle(h))

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        del t, condition
        h = self.first(torch.cat([x_t, self.embed(delta)], 1))
        output: Tensor = self.last(self.between(h))
        return output


def checked(student: Student, derivative: Derivative, dtype: torch.dtype = torch.float32) -> float:
    z = Stream(0).normal(8, 3).to(dtype)
    return self_check(student, derivative, z, Condition(size=8), DRAWS).error


class ThousandDelta(Net):
    def __init__(self) -> None:
        super().__init__(32)

    def embed(self, delta: Tensor) -> Tensor:
        angles = 1000 * delta[:, None] * torch.exp(-0.5 * torch.arange(16))
        return torch.cat([angles.cos(), angles.sin()], 1)


class HalfLayer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.middle.bfloat16()

    def between(self, h: Tensor) -> Tensor:
        return h + self.middle(h.bfloat16()).float()


class ZeroHead(Net):
    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)


class ZeroBySymmetry(Net):
    """A softmax does not see what is added to all of its inputs."""

    def between(self, h: Tensor) -> Tensor:
        return functional.softmax(self.middle(h) + self.shift, 1)

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize("kind", [ThousandDelta, HalfLayer, ZeroHead, ZeroBySymmetry])
@pytest.mark.parametrize("derivative", [DUAL, JVP], ids=["dual", "jvp"])
def test_an_exact_backend_passes(kind: type[Net], derivative: Derivative) -> None:
    assert checked(kind(), derivative) < (0.02 if kind is HalfLayer else 1e-3)


@pytest.mark.parametrize("derivative", [DUAL, JVP], ids=["dual", "jvp"])
def test_an_exact_backend_passes_in_bfloat16(derivative: Derivative) -> None:
    assert checked(Net().bfloat16(), derivative, torch.bfloat16) < 0.1
    with torch.autocast("cpu", torch.bfloat16):
        assert checked(Net(), derivative) < 0.05


@pytest.mark.parametrize("kind", [ThousandDelta, HalfLayer])
def test_a_difference_fails_whose_step_is_too_long_or_rounds(kind: type[Net]) -> None:
    with pytest.raises(DerivativeMismatch, match=r"another finite-difference step than 0\.001"):
        checked(kind(), DIFFERENCE)


WRONG: dict[str, Callable[[Any], Any]] = {
    "sign": lambda change: -change,
    "factor": lambda change: 1.5 * change,
    "lost": torch.zeros_like,
    "half": lambda change: torch.cat([change[:, :8], 0 * change[:, 8:]], 1),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("kind", [Net, ThousandDelta, HalfLayer, ZeroHead])
def test_a_wrong_rule_fails(kind: type[Net], wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = dual.RULES[functional.linear]

    def rule(value: Tensor, /, x: Any, weight: Tensor, *given: Any) -> Any:
        change = right(value, x, weight, *given)
        return WRONG[wrong](change) if weight.shape == (16, 16) else change

    monkeypatch.setitem(dual.RULES, functional.linear, rule)
    with pytest.raises(DerivativeMismatch, match='"dual" is wrong'):
        checked(kind(), DUAL)


@pytest.mark.parametrize(
    "embed",
    [
        lambda delta: (1000 * delta).round() / 1000,
        lambda delta: (1000 * delta).long().float() / 1000,
        lambda delta: delta.detach(),
        lambda delta: 0.5 * delta + 0.5 * delta.detach(),
        lambda delta: 0.9 * delta + 0.1 * delta.detach(),
    ],
    ids=["rounded", "an integer", "detached", "half detached", "a tenth detached"],
)
def test_a_wrong_network_fails_with_every_backend(embed: Callable[[Tensor], Tensor]) -> None:
    class Wrong(ThousandDelta):
        def embed(self, delta: Tensor) -> Tensor:
            return super().embed(embed(delta) / 100)

    for derivative in (DUAL, JVP, DIFFERENCE, Derivative()):
        with pytest.raises(DerivativeMismatch):
            checked(Wrong(), derivative)


# Random and stateful students.


class Noted(Net):
    """A running mean that no answer depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)

    def between(self, h: Tensor) -> Tensor:
        return self.norm(functional.silu(h))


class MovesABuffer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))

    def between(self, h: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * h.mean(0)
        return functional.silu(h - self.mean.detach())


class Random(Net):
    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.draw = draw

    def between(self, h: Tensor) -> Tensor:
        return self.draw(self.middle(h))


DRAWING: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": nn.Dropout(0.2),
    "torch.dropout": lambda h: torch.dropout(h, 0.3, True),
    "native_dropout": lambda h: torch.native_dropout(h, 0.3, True)[0],
    "rrelu": lambda h: torch.rrelu(h, training=True),
    "bernoulli_": lambda h: h * torch.empty(16).bernoulli_(0.5),
    "rand": lambda h: h * (torch.rand(16) < 0.9),
    "now and then": lambda h: torch.where(torch.rand(len(h), 1) < 0.1, 0 * h, h),
    "randn_like": lambda h: h + 0.1 * torch.randn_like(h),
}


@pytest.mark.parametrize("derivative", [*BACKENDS.args[1], Derivative()])
@pytest.mark.parametrize("name", DRAWING)
def test_a_student_that_draws_is_refused_by_name(name: str, derivative: Derivative) -> None:
    with pytest.raises(ValueError, match=r"at random in training mode \(torch's \w+ draws\)"):
        checked(Random(DRAWING[name]), derivative)


def test_a_student_passes_that_draws_for_nothing() -> None:
    student = Random(lambda h: torch.where(torch.rand(len(h), 1) < 0, 0 * h, h).tanh())
    assert checked(student, DUAL) < 1e-3


@pytest.mark.parametrize("derivative", [*BACKENDS.args[1], Derivative()])
def test_a_student_that_moves_a_buffer_is_refused_by_name(derivative: Derivative) -> None:
    student = MovesABuffer()
    with pytest.raises(ValueError, match=r"stateful in training mode.* buffer mean"):
        checked(student, derivative)
    assert not student.mean.any()  # not called


def test_a_student_that_was_called_and_cannot_be_copied_is_refused() -> None:
    student = MovesABuffer()
    student(Stream(0).normal(8, 3).float(), *torch.ones(2, 8), Condition(size=8))
    with pytest.raises(ValueError, match="cannot be copied"):
        checked(student, DUAL)


def test_running_statistics_are_written_once_or_the_backend_is_refused() -> None:
    student = Noted()
    assert checked(student, Derivative()) < 1e-3
    assert student.norm.num_batches_tracked == 0
    assert backend_for(student, Stream(0).normal(2, 3).float(), Condition(size=2)) == "dual"
    for derivative in (JVP, DIFFERENCE):
        with pytest.raises(DerivativeMismatch, match=r"twice in a step.*norm\.running_mean"):
            checked(student, derivative)
    for derivative in (JVP, DIFFERENCE, Derivative()):
        assert checked(student.eval(), derivative) < 2e-3


# The perturbation.


def test_the_perturbation_draws_once_whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    right = Draws.normal

    def counted(self: Draws, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        drawn.append(shape)
        return right(self, purpose, shape)

    monkeypatch.setattr(Draws, "normal", counted)
    student = Net()
    student.last = nn.Sequential(nn.Linear(16, 1000), nn.Linear(1000, 300), nn.Linear(300, 3))
    assert checked(student, DUAL) < 1e-3
    assert drawn == [(PERIOD,)]


def test_the_perturbation_has_full_rank_and_is_another_in_each_parameter() -> None:
    layers = nn.Sequential(*(nn.Linear(200, 200) for _ in range(3)))
    for parameter in layers.parameters():
        nn.init.zeros_(parameter)
    _perturb(layers, DRAWS)
    weights = [each.weight.data for each in layers]
    for weight in weights:
        assert weight.std() == pytest.approx(0.05, rel=0.05)
        assert torch.linalg.matrix_rank(weight) == 200
    assert not torch.equal(weights[0], weights[1])
