"""What a network must be, checked on a few samples before training.

The contract is that of `VelocityField` and `Student` (ffcore/interfaces.py). A network that breaks
it would train without a word and to nothing; here it is refused by name, with the point and the
cause.
"""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ffcore.draws import Draws
from ffcore.flow.convert import ConvertedVelocity
from ffcore.flow.dual import Dual
from ffcore.flow.guidance import remove_guidance
from ffcore.interfaces import (
    Batch,
    Condition,
    FrozenTeacher,
    FunctionTeacher,
    Student,
    Teacher,
    VelocityField,
)

TIMES = (0.0, 1e-4, 0.25, 0.5, 0.75, 1.0)
"""The times, or durations, of the samples that a network is asked about."""
_ALONE = 3
"""The sample that is also asked alone; one before and one after it would move it."""
_ROUNDING, _COARSE = 5e-3, 5e-2
"""Relative differences that the size of a batch alone can make; the second, under autocast."""
_SAME = 0.02
"""The part of it that the same batch can make: some kernels add in any order."""


class NetworkError(ValueError):
    """A network breaks its contract. The message names the network, the point and the cause."""


def check_kinds(teacher: object, student: object) -> None:
    """Raise TypeError for anything but a Teacher and a Student, ValueError if they state no shape
    or start."""
    if not isinstance(teacher, Teacher):
        raise TypeError(
            f"the teacher must be a Teacher, found {_kind(teacher)}: make one of a function by "
            "VelocityField.of, of a trained network by FrozenTeacher"
        )
    shape = getattr(teacher, "sample_shape", None)
    if not (isinstance(shape, tuple) and shape and all(type(n) is int and n > 0 for n in shape)):
        raise ValueError(
            f"sample_shape of the teacher ({_kind(teacher)}) must be a tuple of positive integers, "
            f"found {shape!r}"
        )
    if not isinstance(student, Student):
        raise TypeError(
            f"the student must be a Student, found {_kind(student)}: derive its class from "
            "ffcore.Student, which says what its forward takes"
        )
    start = getattr(student, "starts_at", None)
    if start not in ("prior", "anywhere"):
        raise ValueError(
            f"starts_at of the student ({_kind(student)}) must be 'prior' or 'anywhere', found "
            f"{start!r}"
        )
    if not any(each.requires_grad for each in student.parameters()):
        raise ValueError(f"the student ({_kind(student)}) has no parameter that trains")
    check_values("the teacher", teacher)
    theirs = {id(each): name for name, each in teacher.named_parameters()}
    for name, each in student.named_parameters():
        if id(each) in theirs:
            raise ValueError(
                f"student and teacher share the parameter {name} ({theirs[id(each)]} of the "
                "teacher): training would change the teacher. Give the student a copy"
            )


def check_values(who: str, network: nn.Module) -> None:
    """Raise ValueError for a parameter or buffer without values: on the meta device, or lazy."""
    for name, each in (*network.named_parameters(), *network.named_buffers()):
        where = f"{name} of {who} ({_kind(network)})"
        if is_lazy(each):
            raise ValueError(
                f"{where} has no shape yet, as of a lazy layer: call the network once where it is "
                "built"
            )
        if each.is_meta:
            raise ValueError(
                f"{where} has no values, since it is on the meta device: load its weights where it "
                "is built"
            )


def put_in_eval_mode(teacher: Teacher, student: Student) -> list[str]:
    """Put a teacher, with the networks that its function refers to, into eval mode.

    Returns a sentence if one was not.
    """
    trained = set(student.modules())
    found = [each for each in (teacher, *_behind(teacher)) if each not in trained]
    # The wrapper's own mode means nothing: nobody sets it.
    training = [
        type(each).__name__
        for network in found
        for each in network.modules()
        if each.training and not isinstance(each, Teacher)
    ]
    for network in found:
        network.eval()
    if not training:
        return []
    kinds = ", ".join(sorted(set(training))[:5])
    return [
        f"the teacher ({_kind(teacher)}) was in training mode ({kinds}); now it is in eval mode"
    ]


def check_networks(networks: Mapping[str, nn.Module], batch: Batch) -> list[str]:
    """Check every Teacher, VelocityField and Student; return what there is to say.

    Leaves the networks, and all random states, as they were. Call it in the precision in which they
    will run.

    Args:
        networks: by what they are called in a message, such as "teacher".
        batch: as many samples as TIMES.

    Raises NetworkError.
    """
    said = []
    for name, network in networks.items():
        if isinstance(network, VelocityField | Student):
            with awake(network):
                said += [*_Check(name, network, batch).sentences()]
    return said


@contextmanager
def first_failure(name: str, network: VelocityField | Student) -> Iterator[Callable[[], str]]:
    """Watch a network in this block; yield a function that returns its first failure, or "".

    A failure is NaN or infinity in an answer for a finite point. Synchronises with the device.

    Args:
        name: of the network in a message, such as "teacher".
        network: not its wrapper.
    """
    found: list[str] = []
    moving = "δ" if isinstance(network, Student) else "t"

    def look(module: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
        del module
        answer, x_t, *times = (_value(each) for each in (answer, *given[:-1]))
        if found or not isinstance(answer, Tensor) or not isinstance(x_t, Tensor):
            return
        wrong = ~answer.isfinite().flatten(1).all(1) & x_t.isfinite().flatten(1).all(1)
        if wrong.any():
            sample = int(wrong.nonzero()[0])
            size = float(x_t[sample].double().square().mean().sqrt())
            found.append(
                f"the {name} ({_kind(network)}) answers with NaN or infinity at {moving} = "
                f"{float(times[-1][sample]):.6g} for sample {sample} of {len(x_t)}, although its "
                f"point is finite (root mean square {size:.3g})"
            )

    hook = network.register_forward_hook(look)
    try:
        yield lambda: found[0] if found else ""
    finally:
        hook.remove()


def _value(number: Any) -> Any:
    """Return the value of a dual number; anything else as it is."""
    return number.value if isinstance(number, Dual) else number


@attrs.frozen
class _Check:
    """The check of one network."""

    name: str
    network: VelocityField | Student
    batch: Batch

    @property
    def rounding(self) -> float:
        """The largest relative difference that means nothing."""
        lower = torch.is_autocast_enabled(self.batch.z.device.type)
        return _COARSE if lower else _ROUNDING

    @property
    def who(self) -> str:
        """What it is called in a message."""
        return f"the {self.name} ({_kind(self.network)})"

    @property
    def moving(self) -> str:
        """The argument that differs from sample to sample."""
        return "δ" if isinstance(self.network, Student) else "t"

    def inputs(self) -> dict[str, Any]:
        """Return new tensors for one call, by the names of the arguments."""
        z = self.batch.z.clone()
        times = torch.tensor(TIMES, dtype=z.dtype, device=z.device)
        condition = self.batch.condition[torch.arange(len(times))]
        if not isinstance(self.network, Student):
            return {"x_t": z, "t": times, "condition": condition}
        anywhere = self.network.starts_at == "anywhere"
        starts = (1 + times) / 2 if anywhere else torch.ones_like(times)
        return {"x_t": z, "t": starts, "delta": times, "condition": condition}

    def sentences(self) -> Iterator[str]:
        """Make all checks; yield what there is to say."""
        with same_random_state():
            self._call(self.inputs())  # a network may fill its caches once
            given, before = self.inputs(), _values(self.inputs())
            buffers = {name: each.clone() for name, each in self.network.named_buffers()}
            drawn = random_state()
            found = self._call(given)
            draws = random_state() != drawn
        yield from self._answer(found, given["x_t"])
        self._inputs(given, before)
        if draws:
            raise NetworkError(f"{self.who} {self._randomness()}")
        self._state(buffers)
        self._repeats(found)
        self._samples(found)
        if isinstance(self.network, Teacher) and not found.any():
            raise NetworkError(
                f"{self.who} answers zero at every t: no data have such a velocity, and there is "
                "nothing to learn. Let its forward return the network's velocity"
            )
        if isinstance(self.network, Student):
            yield from self._student(found)

    def _call(self, inputs: Mapping[str, Any]) -> Any:
        """Return the network's own answer: before it is cast to the dtype of its points."""
        try:
            with torch.no_grad():
                return self.network.forward(*inputs.values())
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            x = inputs["x_t"]
            raise NetworkError(
                f"{self.who} fails on a batch of {len(x)} samples, shape {tuple(x.shape)}, in "
                f"{x.dtype} on {x.device}: {type(error).__name__}: {error}"
            ) from error

    def _answer(self, found: Any, points: Tensor) -> Iterator[str]:
        """Check type, shape, device, dtype and values."""
        if not isinstance(found, Tensor):
            raise NetworkError(
                f"{self.who} answers with {type(found).__name__}; it must return a tensor of the "
                f"shape of its points, {tuple(points.shape)}"
            )
        if found.shape != points.shape:
            raise NetworkError(
                f"{self.who} answers with shape {tuple(found.shape)} for points of shape "
                f"{tuple(points.shape)}; the shapes must be equal"
            )
        if found.device != points.device:
            raise NetworkError(
                f"{self.who} answers on {found.device} for points on {points.device}"
            )
        inner = any(getattr(each, "casts", False) for each in self.network.modules())
        if inner or found.dtype == torch.float64:
            yield f"{self.who} answers in float64; its answers are cast to float32"
        elif found.dtype != points.dtype and not torch.is_autocast_enabled(points.device.type):
            raise NetworkError(
                f"{self.who} answers in {found.dtype} for points in {points.dtype}: let its "
                "forward compute, or at least answer, in the dtype of its points"
            )
        finite = found.isfinite().flatten(1).all(1).tolist()
        wrong = [f"{time:g}" for time, fine in zip(TIMES, finite, strict=True) if not fine]
        if wrong:
            raise NetworkError(
                f"{self.who} answers with NaN or infinity at {self.moving} = {', '.join(wrong)}; "
                f"it must be finite at every {self.moving} in [0, 1]. If it never is, its weights "
                "may be damaged"
            )

    def _inputs(self, given: Mapping[str, Any], before: Mapping[str, Tensor]) -> None:
        for name, value in _values(given, copied=False).items():
            if not torch.equal(value, before[name]):
                raise NetworkError(
                    f"{self.who} writes into its input {name}, which others read afterwards: let "
                    "its forward work on a copy"
                )

    def _state(self, before: Mapping[str, Tensor]) -> None:
        changed = [
            name
            for name, each in self.network.named_buffers()
            if name not in before or not torch.equal(_comparable(each), _comparable(before[name]))
        ]
        if changed:
            raise NetworkError(
                f"{self.who} is stateful: every call changes its buffer {changed[0]}"
                + (f" and {len(changed) - 1} more" if len(changed) > 1 else "")
                + ", as spectral norm and running statistics do, so that an answer depends on the "
                "calls before it. Keep such layers in eval mode, or leave them out"
            )

    def _repeats(self, found: Tensor) -> None:
        again = self._call(self.inputs())
        if (off := _relative(again, found)) > _SAME * self.rounding:
            raise NetworkError(
                f"{self.who} answers the same question differently the second time, by "
                f"{100 * off:.2g} %: it remembers earlier calls, reads a clock, or draws at random "
                "with a generator of its own"
            )

    def _samples(self, found: Tensor) -> None:
        inputs, one = self.inputs(), slice(_ALONE, _ALONE + 1)
        alone = self._call({name: each[one] for name, each in inputs.items()})
        shape = tuple(alone.shape) if isinstance(alone, Tensor) else type(alone).__name__
        if shape != (1, *found.shape[1:]):
            raise NetworkError(
                f"{self.who} answers with shape {shape} for a batch of one sample; it must be "
                f"{(1, *found.shape[1:])}"
            )
        if (off := _relative(alone, found[one])) > self.rounding:
            raise NetworkError(
                f"{self.who} answers differently for a sample alone than beside others, by "
                f"{off:.1%}: each answer must depend on its own sample only. Batch normalisation "
                "in training mode, or a time that is read from the first sample, does this"
            )
        order = torch.arange(len(found)).flip(0)
        turned = self._call({name: each[order] for name, each in inputs.items()})
        if (off := _relative(turned, found[order])) > self.rounding:
            raise NetworkError(
                f"{self.who} answers differently for the same samples in another order, by "
                f"{off:.1%}: it mixes samples, or keeps something of the batch before, such as its "
                f"{self.moving}"
            )

    def _student(self, found: Tensor) -> Iterator[str]:
        """Check what only a student must have: a gradient, and an answer that depends on δ."""
        inputs = self.inputs()
        with torch.enable_grad():
            answer = self.network.forward(*inputs.values())
        if not answer.requires_grad:
            raise NetworkError(
                f"{self.who} answers without gradient: its forward runs under torch.no_grad, or "
                "detaches its result"
            )
        other = self._call(inputs | {"delta": inputs["delta"] / 2})
        if torch.equal(other, found):
            yield f"{self.who} does not depend on δ: it can learn one duration, and no flow map"

    def _randomness(self) -> str:
        modes = {each: each.training for each in self.network.modules()}
        self.network.eval()
        with same_random_state():
            before = random_state()
            self._call(self.inputs())
            always = random_state() != before
        for each, mode in modes.items():
            each.training = mode
        if always:
            return (
                "draws random numbers in every call, in eval mode too, so that no two answers are "
                "alike: leave that out"
            )
        return (
            "answers at random in training mode: it draws random numbers, as dropout and label "
            "dropout do. Set their probability to 0, or keep those layers in eval mode"
        )


@contextmanager
def awake(network: nn.Module) -> Iterator[None]:
    """Fill parameters that are all zero, as the last layers of a new student, for a while.

    Behind them nothing else of the network would show.
    """
    silent = [each for each in network.parameters() if each.numel() and not each.any()]
    with torch.no_grad():
        for index, each in enumerate(silent):
            noise = Draws(0, 0, 0, 1).named("awake", index).normal("parameter", tuple(each.shape))
            each.add_(0.05 * noise[0].to(each))
        try:
            yield
        finally:
            for each in silent:
                each.zero_()


def _behind(teacher: Teacher) -> list[nn.Module]:
    """Return the networks that the function of a FunctionTeacher refers to."""
    inner = remove_guidance(teacher)
    if not isinstance(inner, FunctionTeacher):
        return []
    function: Any = inner.function
    if isinstance(function, ConvertedVelocity):
        function = function.network
    seen: list[Any] = []
    while isinstance(function, functools.partial):
        seen += [*function.args, *function.keywords.values()]
        function = function.func
    owner = getattr(function, "__self__", None)
    seen += [owner, *getattr(owner, "__dict__", {}).values()]
    if inspect.isfunction(plain := getattr(function, "__func__", function)):
        refers = inspect.getclosurevars(plain)
        seen += [*refers.nonlocals.values(), *refers.globals.values()]
    return [each for each in seen if isinstance(each, nn.Module)]


def _kind(network: object) -> str:
    """Return the class or function that a user wrote, as "module:name"."""
    inner: object = remove_guidance(network) if isinstance(network, Teacher) else network
    if isinstance(inner, FrozenTeacher):
        inner = inner.field
    if isinstance(inner, FunctionTeacher):
        inner = inner.function
    if isinstance(inner, ConvertedVelocity):
        inner = inner.network
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{getattr(named, '__module__', '?')}:{getattr(named, '__qualname__', '?')}"


def _values(inputs: Mapping[str, Any], *, copied: bool = True) -> dict[str, Tensor]:
    """Return the tensors among the arguments of a call, with those of its condition."""
    found = {name: each for name, each in inputs.items() if isinstance(each, Tensor)}
    condition: Condition = inputs["condition"]
    for field in attrs.fields(Condition):
        value = getattr(condition, field.name)
        if isinstance(value, Tensor):
            found[f"condition.{field.name}"] = value
    return {name: each.clone() if copied else each for name, each in found.items()}


def _comparable(values: Tensor) -> Tensor:
    """NaN is not equal to itself."""
    return values.nan_to_num() if values.is_floating_point() else values


def _relative(found: Any, wanted: Tensor) -> float:
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        return float("inf")
    wanted = wanted.double()
    return float((found.double() - wanted).norm() / wanted.norm().clamp(min=1e-30))


def random_state() -> Sequence[Any]:
    """Return the state of the generators that a forward can draw from, as comparable values."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    _, keys, position, *_ = np.random.get_state()
    return [
        torch.get_rng_state().numpy().tobytes(),
        [each.numpy().tobytes() for each in cuda],
        random.getstate(),
        np.asarray(keys).tobytes(),
        position,
    ]


@contextmanager
def same_random_state() -> Iterator[None]:
    """Restore the random states at the end."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    plain, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(numbers)
