"""What a network must be: each way to break it is refused with its cause, before training."""

import functools
import random
import time
from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import torch
from distillations import alone
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import spectral_norm

from ffcore.interfaces import (
    Condition,
    FrozenTeacher,
    Labels,
    Student,
    Teacher,
    Unconditional,
    VelocityField,
)
from ffcore.training.distillation import Distillation
from ffcore.training.finite import Diverged
from ffcore.training.loop import train
from ffcore.training.network_check import NetworkError

W = 8


@pytest.fixture(autouse=True)
def shapes() -> None:
    """Nothing but the check itself may see a wrong shape."""


class Plain(Student):
    """A student with a place for what the tests put in."""

    starts_at = "prior"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Linear(3, W), nn.Linear(W, 2)
        self.build()

    def build(self) -> None:
        pass

    def middle(self, h: Tensor) -> Tensor:
        return h

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Any:
        del t, condition
        h = functional.silu(self.first(torch.cat([x_t, delta[:, None]], 1)))
        return self.last(self.middle(h))


class ZeroHead(Plain):
    def build(self) -> None:
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)


class Dropout(ZeroHead):
    """Behind a last layer of zeros nothing else would show."""

    def middle(self, h: Tensor) -> Tensor:
        return torch.dropout(h, 0.1, self.training)


class DropsRarely(Plain):
    def middle(self, h: Tensor) -> Tensor:
        drop = torch.rand(len(h), 1) < 1e-6 if self.training else torch.zeros(len(h), 1)
        return torch.where(drop.bool(), 0.0, h)


class NumpyNoise(Plain):
    def middle(self, h: Tensor) -> Tensor:
        return h + 0.1 * float(np.random.default_rng().normal())


class GlobalNumpyNoise(Plain):
    def middle(self, h: Tensor) -> Tensor:
        return h + 1e-9 * float(np.random.rand())


class PythonNoise(Plain):
    def middle(self, h: Tensor) -> Tensor:
        return h + 1e-9 * random.random()


class OwnGenerator(Plain):
    def build(self) -> None:
        self.generator = torch.Generator()

    def __deepcopy__(self, memo: Any) -> "OwnGenerator":
        copied = OwnGenerator()
        copied.load_state_dict(self.state_dict())
        return copied

    def middle(self, h: Tensor) -> Tensor:
        return h + torch.randn(h.shape, generator=self.generator)


class SpectralNorm(Plain):
    def build(self) -> None:
        self.inner = spectral_norm(nn.Linear(W, W))

    def middle(self, h: Tensor) -> Tensor:
        found: Tensor = self.inner(h)
        return found


class BatchNorm(Plain):
    def build(self) -> None:
        self.norm = nn.BatchNorm1d(W)

    def middle(self, h: Tensor) -> Tensor:
        found: Tensor = self.norm(h)
        return found


class Counts(Plain):
    def build(self) -> None:
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def middle(self, h: Tensor) -> Tensor:
        self.calls += 1
        return h


class Remembers(Plain):
    def build(self) -> None:
        self.before: Tensor | None = None

    def middle(self, h: Tensor) -> Tensor:
        moved = h if self.before is None else h + self.before
        self.before = h.detach().mean() + (0 if self.before is None else self.before)
        return moved


class Centred(Plain):
    def middle(self, h: Tensor) -> Tensor:
        return h - h.mean(0)


class RunningSum(ZeroHead):
    def middle(self, h: Tensor) -> Tensor:
        return h.cumsum(0)


class OneDuration(Plain):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Any:
        return super().forward(x_t, t, delta[:1].expand(len(delta)), condition)


class Squeezes(Plain):
    def middle(self, h: Tensor) -> Tensor:
        return h.squeeze(0)


class Writes(Plain):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Any:
        found = super().forward(x_t, t, delta, condition)
        delta.mul_(1000)
        return found


class OneColumn(Plain):
    def build(self) -> None:
        self.last = nn.Linear(W, 1)


class Pair(Plain):
    def forward(self, *inputs: Any) -> Any:
        return super().forward(*inputs), None


class Half(Plain):
    def forward(self, *inputs: Any) -> Any:
        return super().forward(*inputs).bfloat16()


class Divides(Plain):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Any:
        return super().forward(x_t, t, delta, condition) * (delta / delta)[:, None]


class Fails(Plain):
    def build(self) -> None:
        self.last = nn.Linear(W + 1, 2)


class Clock(Plain):
    def middle(self, h: Tensor) -> Tensor:
        return h * (1 + 0.1 * (time.monotonic_ns() % 1_000_003) / 1_000_003)


class RemembersByBatch(Plain):
    """Keeps the durations of the first batch of each size."""

    def build(self) -> None:
        self.durations: dict[int, Tensor] = {}

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Any:
        kept = self.durations.setdefault(len(delta), delta.clone())
        return super().forward(x_t, t, kept, condition)


class WithoutGradient(Plain):
    def forward(self, *inputs: Any) -> Any:
        with torch.no_grad():
            return super().forward(*inputs)


class Numpy(Plain):
    def forward(self, *inputs: Any) -> Any:
        return super().forward(*inputs).detach().numpy()


BROKEN: dict[type[Plain], str] = {
    Clock: "differently the second time, by .*reads a clock",
    RemembersByBatch: "in another order, by .*keeps something of the batch before, such as its δ",
    WithoutGradient: "answers without gradient: its forward runs under torch.no_grad",
    Numpy: "answers with ndarray; it must return a tensor",
    Dropout: "at random in training mode.*dropout",
    DropsRarely: "at random in training mode",
    GlobalNumpyNoise: "draws random numbers in every call",
    PythonNoise: "draws random numbers in every call",
    NumpyNoise: "differently the second time, by .*at random with a generator of its own",
    OwnGenerator: "differently the second time, by .*at random with a generator of its own",
    SpectralNorm: "stateful: every call changes its buffer inner.weight_u",
    BatchNorm: "stateful: every call changes its buffer norm.running_mean and 2 more",
    Counts: "stateful: every call changes its buffer calls",
    Remembers: "differently the second time, by .*remembers earlier calls",
    Centred: "differently for a sample alone than beside others",
    RunningSum: "differently for a sample alone than beside others",
    OneDuration: "differently for a sample alone than beside others",
    Squeezes: r"shape \(2,\) for a batch of one sample",
    Writes: "writes into its input delta",
    OneColumn: r"shape \(6, 1\) for points of shape \(6, 2\)",
    Pair: "answers with tuple",
    Half: "bfloat16 for points in torch.float32",
    Divides: r"NaN or infinity at δ = 0; it must be finite at every δ in \[0, 1\]",
    Fails: "fails on a batch of 6 .*mat1 and mat2",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_student_that_cannot_be_trained_is_refused_with_its_cause(kind: type[Plain]) -> None:
    run = alone(student=kind())
    with pytest.raises(NetworkError, match=f"(?s)the student .*{kind.__name__}.*{BROKEN[kind]}"):
        next(train(run))


class IgnoresDuration(Plain):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Any:
        return super().forward(x_t, t, torch.zeros_like(delta), condition)


def test_a_student_that_ignores_delta_is_reported() -> None:
    said = alone(student=IgnoresDuration()).self_check()
    assert any("IgnoresDuration) does not depend on δ" in each for each in said)
    for kind in (Plain, ZeroHead):
        assert not any("depend on δ" in each for each in alone(student=kind()).self_check())


class Scripted(Plain):
    def build(self) -> None:
        self.inner = torch.jit.script(nn.Linear(W, W))


def test_a_student_that_cannot_be_copied_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Scripted cannot be copied.*it holds a scripted module"):
        alone(student=Scripted())


class Lazy(Plain):
    def build(self) -> None:
        self.last = nn.LazyLinear(2)


@pytest.mark.parametrize("what", ["student", "teacher"])
def test_a_network_without_values_is_refused(what: str) -> None:
    def made(student: Student) -> dict[str, Any]:
        if what == "student":
            return {"student": student}
        field = VelocityField.of(lambda x, t, c: x, (2,))
        field.network = student
        return {"teacher": field}

    with pytest.raises(ValueError, match=rf"last.weight of the {what} .* has no shape yet"):
        alone(**made(Lazy()))
    with pytest.raises(ValueError, match=rf"of the {what} .* has no values, since it is on"):
        alone(**made(Plain().to("meta")))


@pytest.mark.parametrize("kind", [Plain, ZeroHead])
def test_the_check_leaves_a_lawful_student_as_it_was(kind: type[Plain]) -> None:
    run = alone(student=kind())
    before = {name: each.clone() for name, each in run.student.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1:3]
    assert not any("student (" in sentence for sentence in run.self_check())
    assert all(torch.equal(each, before[name]) for name, each in run.student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[2] == states[2][1]
    assert run.student.training


def test_an_evaluated_dropout_is_none() -> None:
    student = Dropout()
    student.eval()
    alone(student=student).self_check()


def test_a_network_may_fill_a_cache_in_its_first_call() -> None:
    class Caches(Plain):
        table: Tensor | None = None

        def middle(self, h: Tensor) -> Tensor:
            if self.table is None:
                self.table = torch.arange(W).to(h)
            return h + self.table

    alone(student=Caches()).self_check()


# Teachers.

Velocity = Callable[[Tensor, Tensor, Condition], Any]


def points(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    del t, condition
    return torch.tensor([1.0, -2.0]) - x


TEACHERS: dict[str, tuple[Velocity, str]] = {
    "one column": (lambda x, t, c: points(x, t, c)[:, :1], r"shape \(6, 1\) for .* \(6, 2\)"),
    "nothing": (lambda x, t, c: None, "answers with NoneType"),
    "a list": (lambda x, t, c: points(x, t, c).tolist(), "answers with list"),
    "half": (lambda x, t, c: points(x, t, c).half(), "float16 for points in torch.float32"),
    "integers": (lambda x, t, c: points(x, t, c).int(), "int32 for points in torch.float32"),
    "NaN at 0": (lambda x, t, c: x / t[:, None], "NaN or infinity at t = 0; it must be finite"),
    "NaN at 1": (
        lambda x, t, c: x / (1 - t[:, None]),
        "NaN or infinity at t = 1; it must be finite",
    ),
    "NaN between": (
        lambda x, t, c: points(x, t, c) + torch.where((t == 0.5)[:, None], torch.inf, 0.0),
        "NaN or infinity at t = 0.5;",
    ),
    "NaN everywhere": (
        lambda x, t, c: torch.nan * x,
        "NaN or infinity at t = 0, 0.0001, 0.25, 0.5, 0.75, 1; .* may be damaged",
    ),
    "noise": (lambda x, t, c: points(x, t, c) + torch.randn_like(x), "random numbers in every"),
    "the first time only": (
        lambda x, t, c: points(x, t, c) * t[0],
        "for a sample alone than beside others",
    ),
    "in place": (lambda x, t, c: x.neg_(), "writes into its input x_t"),
    "no labels": (lambda x, t, c: x * c.label[:, None], "fails on a batch of 6 .*TypeError"),
}


@pytest.mark.parametrize("case", TEACHERS)
def test_a_teacher_that_cannot_be_distilled_is_refused_with_its_cause(case: str) -> None:
    velocity, message = TEACHERS[case]
    run = alone(teacher=VelocityField.of(velocity, (2,)))
    with pytest.raises(NetworkError, match=f"(?s)the teacher .*lambda.*{message}"):
        next(train(run))


def test_answers_in_float64_are_cast_and_this_is_said() -> None:
    teacher = VelocityField.of(lambda x, t, c: points(x, t, c).double(), (2,))
    run = alone(teacher=teacher)
    assert any("float64; its answers are cast to float32" in each for each in run.self_check())
    x = torch.zeros(4, 2)
    assert run.teacher(x, torch.ones(4), Condition(size=4)).dtype == torch.float32
    assert len(list(train(run))) == 1


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, W), nn.Dropout(0.5), nn.Linear(W, 2))

    def velocity(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        del t, condition
        found: Tensor = self.layers(x)
        return found

    forward = velocity


class Own(Teacher):
    def __init__(self) -> None:
        super().__init__()
        self.network, self.sample_shape, self.conditions = Network(), (2,), Unconditional()

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.network.velocity(x_t, t, condition)

    def trainable_copy(self, *, takes_guidance: bool = False) -> None:
        del takes_guidance


class Holder:
    """Not a module; holds one."""

    network = None

    def __init__(self) -> None:
        self.network = Network()

    def velocity(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.network.velocity(x, t, condition)


GLOBAL = Network()


def _of_closure() -> Teacher:
    network = Network()
    return VelocityField.of(lambda x, t, c: network.velocity(x, t, c), (2,))


def _of_frozen() -> Teacher:
    teacher = FrozenTeacher(Wrapped(), (2,), Unconditional())
    teacher.field.train()
    return teacher


class Wrapped(VelocityField):
    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.network.velocity(x_t, t, condition)


FORGOTTEN: dict[str, Callable[[], Teacher]] = {
    "a teacher": Own,
    "a frozen teacher": _of_frozen,
    "a module": lambda: VelocityField.of(Network(), (2,)),
    "a bound method": lambda: VelocityField.of(Network().velocity, (2,)),
    "a closure": _of_closure,
    "a global": lambda: VelocityField.of(lambda x, t, c: GLOBAL.train().layers(x), (2,)),
    "a partial": lambda: VelocityField.of(
        functools.partial(lambda network, x, t, c: network.layers(x), Network()), (2,)
    ),
    "an object": lambda: VelocityField.of(Holder().velocity, (2,)),
}
SAID = "was in training mode (Dropout, Linear, "


@pytest.mark.parametrize("case", [each for each in FORGOTTEN if each != "a global"])
def test_a_teacher_in_training_mode_is_put_into_eval_mode_and_this_is_said(case: str) -> None:
    run = alone(teacher=FORGOTTEN[case]())
    (sentence,) = [each for each in run.self_check() if "the teacher (" in each]
    assert SAID in sentence
    x, t, condition = torch.randn(4, 2), torch.full((4,), 0.5), Condition(size=4)
    assert torch.equal(run.teacher(x, t, condition), run.teacher(x, t, condition))


def test_a_teacher_that_goes_back_to_training_mode_is_refused() -> None:
    with pytest.raises(NetworkError, match="draws random numbers in every call"):
        alone(teacher=FORGOTTEN["a global"]()).self_check()


def test_a_teacher_in_eval_mode_says_nothing() -> None:
    teacher = Own()
    teacher.network.eval()
    assert not any("training mode" in each for each in alone(teacher=teacher).self_check())


def test_a_teacher_that_answers_zero_everywhere_is_refused_but_not_a_new_network() -> None:
    with pytest.raises(NetworkError, match="answers zero at every t"):
        alone(teacher=VelocityField.of(lambda x, t, c: 0 * x, (2,))).self_check()
    fresh = Own()
    for each in fresh.parameters():
        nn.init.zeros_(each)
    alone(teacher=fresh).self_check()


# Kinds.


class Nowhere(Plain):
    starts_at: Any = "begin"


class NoShape(Own):
    def __init__(self) -> None:
        super().__init__()
        self.sample_shape = [2]  # type: ignore[assignment]


class Frozen(Plain):
    def build(self) -> None:
        self.requires_grad_(False)


KINDS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a function": ({"teacher": points}, TypeError, "by VelocityField.of"),
    "a module as teacher": ({"teacher": nn.Linear(2, 2)}, TypeError, "by VelocityField.of"),
    "a module as student": ({"student": nn.Linear(2, 2)}, TypeError, "must be a Student"),
    "a wrong start": ({"student": Nowhere()}, ValueError, "'prior' or 'anywhere', found 'begin'"),
    "a wrong shape": ({"teacher": NoShape()}, ValueError, r"tuple of positive integers, found \["),
    "nothing to train": ({"student": Frozen()}, ValueError, "has no parameter that trains"),
}


@pytest.mark.parametrize("case", KINDS)
def test_what_is_no_teacher_or_student_is_refused(case: str) -> None:
    given, kind, message = KINDS[case]
    with pytest.raises(kind, match=message):
        alone(**given)


def test_a_student_that_shares_the_teachers_weights_is_refused() -> None:
    class Shares(Plain):
        def build(self) -> None:
            self.inner = teacher.network

    teacher = Own()
    with pytest.raises(ValueError, match=r"share the parameter inner.layers.0.weight \(network"):
        alone(student=Shares(), teacher=teacher)


def test_the_online_network_is_checked_too() -> None:
    from ffcore_vsd.objective import VsdCorrector

    class Online(Wrapped):
        def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return super().forward(x_t, t, condition)[:, :1]

    run = alone(corrector=VsdCorrector(online=Online()), batch=16)
    with pytest.raises(NetworkError, match=r"the network 'online' .*Online.*shape \(6, 1\)"):
        run.self_check()


def test_labels_that_a_network_does_not_have_are_named_by_the_point() -> None:
    class Embeds(Plain):
        def build(self) -> None:
            self.y = nn.Embedding(2, W)

        def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Any:
            assert condition.label is not None
            return super().forward(x_t, t, delta, condition) + self.y(condition.label)[:, :2]

    teacher = VelocityField.of(points, (2,), Labels(50))
    with pytest.raises(NetworkError, match=r"fails on a batch of 6 .*IndexError"):
        alone(student=Embeds(), teacher=teacher).self_check()


def test_an_own_loop_is_checked_by_one_call_and_train_makes_it_once() -> None:
    calls: list[int] = []

    def velocity(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        calls.append(len(x))
        return points(x, t, condition)

    run = alone(teacher=VelocityField.of(velocity, (2,)), steps=2)
    run.self_check()
    asked = len(calls)
    list(train(run))
    assert len(calls) == asked + 2
    again = alone(teacher=VelocityField.of(velocity, (2,)), steps=2)
    calls.clear()
    list(train(again))
    assert len(calls) == asked + 2


# During a run.


@attrs.frozen
class Turns:
    """A velocity that is NaN for the points of some samples after some calls."""

    after: int
    calls: ClassVar[list[int]] = []

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.calls.append(1)
        found = points(x, t, condition)
        if len(self.calls) > self.after:
            found[5] = torch.nan
        return found


class TurnsNaN(Plain):
    """A student that is NaN for a sample in every call but the first few."""

    calls = 0

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Any:
        found = super().forward(x_t, t, delta, condition)
        self.calls += 1
        if self.calls > 12:
            return torch.where(torch.arange(len(found))[:, None] == 5, torch.nan * found, found)
        return found


def test_a_student_that_turns_nan_during_a_run_is_named_with_duration_and_sample() -> None:
    run = alone(student=TurnsNaN(), steps=30)
    run.checked = True
    with pytest.raises(Diverged) as caught:
        list(train(run))
    said = str(caught.value)
    assert "The cause: the student (" in said
    assert "TurnsNaN) answers with NaN or infinity at δ = 0." in said
    assert "for sample 5 of 16, although its point is finite" in said


def test_a_teacher_that_turns_nan_during_a_run_is_named_with_time_and_sample() -> None:
    Turns.calls.clear()
    run: Distillation = alone(teacher=VelocityField.of(Turns(6), (2,)))
    with pytest.raises(Diverged) as caught:
        list(train(run))
    said = str(caught.value)
    assert "The cause: the teacher (" in said
    assert "at t = 0." in said
    assert "sample 5 of 16" in said
    assert "learning rate" not in said
