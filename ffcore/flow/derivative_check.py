"""The check of a derivative before training, and the choice of its backend.

A backend is right if its derivative, integrated over a stretch of the input, is the network's own
change over it: F(b) − F(a) = ∫ ∂F. This needs no step: the stretch is the longest that the
quadrature resolves, long for a smooth network, short for one that embeds 1000 δ. So the rounding of
a long stretch is small, even in bfloat16. A sign, a factor or a term that is missing, a rounded δ
and a detached part all show.

The check uses a copy of the student whose parameters are perturbed. A new student often does not
depend on δ, or has a last layer of zeros that hides what its inner layers do; then every backend
would be right. The student itself is never called, so its buffers do not change.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast
from weakref import WeakKeyDictionary

import attrs
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ffcore.draws import Draws
from ffcore.flow.backend import BACKENDS, Backend
from ffcore.flow.derivative import Derivative
from ffcore.flow.dual import custom_operations, random_states
from ffcore.flow.path import expand_like
from ffcore.interfaces import Condition, Context, Student

_LOG = logging.getLogger(__name__)
_REFUSALS = (RuntimeError, TypeError, AttributeError, ValueError, AssertionError, KeyError)
"""Errors of a network that does not accept dual numbers or has no forward mode."""

SAMPLES = 2
"""Most samples of a check: it takes about as long as 22 forwards of each."""
REPEATS = 16
"""Calls of a student that draws, to see whether its answer does not depend on the draw."""
PERTURBATION, PERIOD = 0.05, 8191
STRETCHES = [2.0**-k for k in range(1, 14, 2)]
"""Lengths to integrate over, as shares of the input's room."""
RULE = [
    (sign * node, kronrod, gauss)
    for node, kronrod, gauss in (
        (0.9604912687080203, 0.1046562260264673, 0.0),
        (0.7745966692414834, 0.2684880898683334, 5 / 9),
        (0.4342437493468026, 0.4013974147759622, 0.0),
    )
    for sign in (-1, 1)
] + [(0.0, 0.4509165386584741, 8 / 9)]
"""Nodes in [−1, 1], and the weights of Kronrod's rule of 7 and Gauss's of 3."""
RESOLVED = 0.05
"""Greatest difference of the two quadratures, relative, for a stretch to count."""
EXACT, ROUGH = 0.01, 0.05
"""Greatest relative errors: of an exact backend, and of a finite difference or in low precision."""


class DerivativeMismatch(ValueError):
    """The derivative of this student is wrong, or its backend does not work on the student."""


@attrs.frozen
class Agreement:
    """A derivative that passed the check."""

    derivative: Derivative
    """With a backend that is not "auto"."""
    error: float
    """Greatest difference between the integral and the student's change, relative to the latter."""

    def __str__(self) -> str:
        return (
            f"derivative: {self.derivative.backend}; its integral gives the student's own change "
            f"to {self.error:.1e}"
        )


def self_check(
    student: Student,
    derivative: Derivative,
    x: Tensor,
    condition: Condition,
    draws: Draws,
    *,
    velocity: Tensor | None = None,
) -> Agreement:
    """Check that a derivative is right on this student; choose the backend if it is "auto".

    It starts at the prior and moves δ. With a `velocity` for each sample, it starts at random times
    and also moves t, and x along `velocity`. At most SAMPLES samples are used. For "dual" it also
    compares the output and its gradient with those of a plain forward.

    Args:
        student: not yet parallelized, in the mode in which it trains. It is not called.
        derivative: "auto" takes the first of BACKENDS that passes.
        x: prior noise, Float[B, *S].
        condition: of size B.
        draws: of size B.
        velocity: Float[B, *S].

    Raises:
        DerivativeMismatch: if the derivative is wrong, does not work on the student, or changes the
            output's gradient.
        ValueError: if the student cannot be copied, if its output is not finite, or if it answers
            the same question differently.
    """
    if known := _known(student, derivative, x, velocity):
        return known
    return _probed(student, derivative, x, condition, draws, velocity, answers=not x.is_meta)


def choose(derivative: Derivative, student: Student, x: Tensor, condition: Condition) -> Derivative:
    """Return `derivative` with a backend that works on the student in place of "auto".

    The choice depends on the student and on nothing drawn in the run, so all processes and resumed
    runs choose the same.

    Args:
        student: not sharded.
        x, condition: any samples of the student's; see self_check.

    Raises as self_check.
    """
    if derivative.backend != "auto":
        return derivative
    student = getattr(student, "module", student)  # of DDP, which hooks each call
    draws = Draws(0, 0, 0, min(2, len(x)))
    z = draws.normal("z", tuple(x.shape[1:])).to(x)
    velocity = z if student.starts_at == "anywhere" else None
    found = self_check(student, derivative, z, condition[: len(z)], draws, velocity=velocity)
    _LOG.info("%s", found)
    return found.derivative


def backend_for(student: Student, x: Tensor, condition: Condition) -> Backend:
    """Return the backend that "auto" stands for: the first that passes the check.

    If none does, it is "finite-difference", which needs no more than a function.

    Args:
        student: on any device. On meta, a backend passes if it runs.
        x: prior noise for a few samples on that device, Float[B, *S].
        condition: of size B.

    Raises the student's error if an ordinary call fails.
    """
    velocity = x if student.starts_at == "anywhere" else None
    try:
        found = _probed(student, Derivative(), x, condition, Draws(0, 0, 0, len(x)), velocity)
        return cast(Backend, found.derivative.backend)
    except DerivativeMismatch:
        return BACKENDS[-1]


def _probed(
    student: Student,
    derivative: Derivative,
    x: Tensor,
    condition: Condition,
    draws: Draws,
    velocity: Tensor | None,
    *,
    answers: bool = False,
) -> Agreement:
    """Check a derivative as self_check does; with `answers`, first what the student answers."""
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        probe = _Probe.of(student, x, condition, draws, velocity)
        if answers:
            probe.check_answers()
        _restore(probe.state)
        return _checked(probe, derivative)


_PASSED: WeakKeyDictionary[nn.Module, tuple[object, Agreement]] = WeakKeyDictionary()
"""What `choose_backend` found, which takes as long as the check that follows it in a run."""


def _known(
    student: Student, derivative: Derivative, x: Tensor, velocity: Tensor | None
) -> Agreement | None:
    """Return what the choice of a backend found, if the student and its situation are the same."""
    situation, found = _PASSED.get(student, (None, None))
    if found is None or situation != _situation(student, x, velocity):
        return None
    here = found.derivative
    if derivative.backend not in ("auto", here.backend):
        return None
    settings = (derivative.step, derivative.scheme) == (here.step, here.scheme)
    if here.backend == "finite-difference" and not settings:
        return None
    return Agreement(attrs.evolve(derivative, backend=here.backend), found.error)


def _situation(student: nn.Module, x: Tensor, velocity: Tensor | None) -> object:
    """Return what a check depends on, but for its points: weights, modes, precision and device.

    A sum stands for each tensor, since other checks write into some and restore them.
    """
    kind = x.device.type
    lower = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
    held = [*student.parameters(), *student.buffers()]
    return (
        (kind, lower, x.dtype, tuple(x.shape[1:]), velocity is not None),
        [each.training for each in student.modules()],
        [(id(each), each.device, each.dtype, complex(each.detach().sum())) for each in held],
    )


def choose_backend(choice: str, context: Context) -> Backend | Literal["auto"]:
    """Return the backend for a recipe's key: for "auto", the first that passes the check.

    If `context` has no student yet, "auto" is the first of BACKENDS. If none passes, it stays
    "auto": the check of networks, or the objective's own, says why.
    """
    if choice != "auto":
        return cast("Backend | Literal['auto']", choice)
    student, teacher = context.student, context.teacher
    if student is None or teacher is None:
        return BACKENDS[0]
    parameter = next(student.parameters(), torch.zeros(()))
    draws = Draws(0, 0, 0, 2)
    condition = teacher.conditions.draw(draws)
    if context.guidance_range is not None:
        condition = condition.at(context.guidance_range[0])
    x = draws.normal("z", teacher.sample_shape).to(parameter.device)
    velocity = x if student.starts_at == "anywhere" else None
    try:
        derivative = Derivative()
        found = _probed(
            student,
            derivative,
            x,
            condition.to(parameter.device),
            draws,
            velocity,
            answers=not x.is_meta,
        )
        if not x.is_meta:
            _PASSED[student] = _situation(student, x, velocity), found
        return cast(Backend, found.derivative.backend)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # noqa: BLE001 - a third party's network may fail anyhow
        return "auto"


def _checked(probe: _Probe, derivative: Derivative) -> Agreement:
    """Return the derivative with the first backend that passes, and its error."""
    backends = BACKENDS if derivative.backend == "auto" else [derivative.backend]
    causes = []
    for backend in backends:
        tried = attrs.evolve(derivative, backend=backend)
        try:
            return Agreement(tried, probe.error(tried))
        except torch.OutOfMemoryError:
            raise
        except DerivativeMismatch as mismatch:
            causes.append(str(mismatch))
        except _REFUSALS as error:
            causes.append(f'"{backend}" does not work on this student: {error}')
    advice = "" if derivative.backend == "auto" else '\nUse derivative = "auto".'
    raise DerivativeMismatch("\n".join(causes) + advice)


@attrs.frozen(kw_only=True, eq=False)
class _Probe:
    """A perturbed copy of a student, and a few points at which to differentiate it."""

    network: nn.Module
    inputs: dict[str, Tensor]
    """x, t and δ."""
    directions: dict[str, Tensor]
    """Of each input that moves."""
    condition: Condition
    rounding: float
    """Relative rounding of the coarsest numbers in a forward."""
    draws: str
    """The first operation of a forward that draws random numbers; "" if none does."""
    first: Tensor
    """The output."""
    state: list[tuple[nn.Module, str, Tensor]]
    """The buffers before it."""

    @staticmethod
    def of(
        student: Student, x: Tensor, condition: Condition, draws: Draws, velocity: Tensor | None
    ) -> _Probe:
        try:
            network = copy.deepcopy(student)
        except RuntimeError as error:
            raise ValueError(
                "the student cannot be copied, so it cannot be checked and has no EMA: one of its "
                "buffers or attributes is the result of a computation. Keep such a value out of "
                f"the module, or detach it ({error})"
            ) from error
        _perturb(network, draws)
        size = min(SAMPLES, len(x))
        x, condition, draws = x[:size], condition[:size], draws[:size]
        ones = torch.ones(size, device=x.device, dtype=x.dtype)
        t = ones if velocity is None else 0.1 + 0.8 * draws.named("self-check").uniform("t").to(x)
        delta = t * (0.1 + 0.8 * draws.uniform("self-check").to(x))
        directions = {"δ": ones}
        if velocity is not None:
            directions |= {"t": ones, "x": velocity[:size]}
        state = _buffers(network)
        with torch.no_grad():
            first, watch = _watched(lambda: network(x, t, delta, condition))
        return _Probe(
            network=network,
            inputs={"x": x, "t": t, "δ": delta},
            directions=directions,
            condition=condition,
            rounding=watch.rounding,
            draws=watch.draws,
            first=first,
            state=state,
        )

    def output(self, **moved: Any) -> Tensor:
        output: Tensor = self.network(*(self.inputs | moved).values(), self.condition)
        return output

    def room(self, name: str) -> tuple[Tensor, Tensor]:
        """Return how far an input may move (behind, ahead): Float[B] each."""
        t, delta = self.inputs["t"], self.inputs["δ"]
        ones = torch.ones_like(t)
        return {"δ": (delta, t - delta), "t": (t - delta, 1 - t), "x": (ones, ones)}[name]

    @torch.no_grad()
    def check_answers(self) -> None:
        """Raise ValueError if the output is not finite, or if a second call gives another one."""
        state, first = self.state, self.first
        if not first.isfinite().all():
            raise ValueError(
                "the student's output is NaN or infinite (with weights perturbed by "
                f"{PERTURBATION:g}): check the weights that it starts from, its own or the "
                "teacher's."
            )
        others = (self.output() for _ in range(REPEATS if self.draws else 1))
        again = next((each for each in others if not torch.equal(each, first)), None)
        written = self.written(state)
        _restore(state)
        if again is None:
            return
        if self.draws:
            raise ValueError(
                f"the student answers at random in {_mode(self.network)} mode ({self.draws} "
                "draws): its output and derivative would come from different draws. Remove dropout "
                "and label dropout, or set their probability to 0"
            )
        if written and torch.equal(self.output(), first):
            raise ValueError(
                f"the student is stateful in {_mode(self.network)} mode: it changes its buffer "
                f"{', '.join(written)} and reads it in the next call. A step calls it several "
                "times, and each call would have another network. Make the buffer constant, for "
                "example by eval mode"
            )
        _restore(state)
        if (again - first).norm() > 1e-3 * first.norm():
            raise ValueError("the student gives two answers to the same question: is it stateful?")

    def written(self, before: Sequence[tuple[nn.Module, str, Tensor]]) -> list[str]:
        """Return the names of the buffers that are no longer as in `before`."""
        names = {each: name for name, each in self.network.named_modules()}
        return [
            f"{names[module]}.{key}".lstrip(".")
            for module, key, value in before
            if not torch.equal(cast(Tensor, module._buffers[key]), value)
        ]

    def error(self, derivative: Derivative) -> float:
        """Return the greatest error of this derivative, relative; 0 on the meta device.

        Raises DerivativeMismatch if it is wrong, or the network's error if it does not work.
        """
        self._check_forward(derivative)
        if self.inputs["x"].is_meta:
            return 0.0
        errors = [self._error(name, derivative) for name in self.directions]
        if derivative.backend == "finite-difference":
            self._check_parts(derivative)
        return max(errors)

    def _check_parts(self, difference: Derivative) -> None:
        """Raise DerivativeMismatch if forward mode works but misses a part of the difference."""
        forward = attrs.evolve(difference, backend="jvp")
        for name in self.directions:
            try:
                self._error(name, forward)
            except DerivativeMismatch as mismatch:
                raise DerivativeMismatch(
                    f'"{difference.backend}" and "jvp" disagree: {mismatch}'
                ) from mismatch
            except _REFUSALS:
                return

    def _check_forward(self, derivative: Derivative) -> None:
        """Check that this derivative leaves output, gradient and buffers as in a plain forward."""
        names = [name for name in self.inputs if name in self.directions]
        primals = [self.inputs[name] for name in names]
        behind, ahead = zip(*(self.room(name) for name in names), strict=True)
        room = torch.stack(behind).amin(0), torch.stack(ahead).amin(0)

        def function(*moved: Tensor) -> Tensor:
            return self.output(**dict(zip(names, moved, strict=True)))

        state = _buffers(self.network)
        with torch.enable_grad():
            plain = function(*primals)
            after = _buffers(self.network)
            written = [] if plain.is_meta else self.written(state)
            _restore(state)
            if written and derivative.backend != "dual":
                raise DerivativeMismatch(
                    f'"{derivative.backend}" calls the student twice in a step, and each call '
                    f"changes its buffer {', '.join(written)}: "
                    'use "dual", or eval mode'
                )
            with custom_operations():
                tangents = [self.directions[name] for name in names]
                output, _ = derivative.with_value(function, primals, tangents, room=room)
        if derivative.backend == "dual":
            if not plain.is_meta and self.written(after):
                raise DerivativeMismatch("with dual numbers the student writes other buffers")
            _check_gradient(self.network, output, plain, self.rounding**0.5)
        _restore(state)

    @torch.no_grad()
    def _error(self, name: str, derivative: Derivative) -> float:
        """Return the error of the derivative along one input, relative to the output's change."""
        found = min(self._stretches(name, derivative), key=lambda each: each.unresolved)
        rough = derivative.backend == "finite-difference" or self.rounding > 1e-4
        allowed = ROUGH if rough else EXACT
        if found.still and not torch.equal(
            self.output(**{name: 0 * self.inputs[name]}), self.output()
        ):
            raise DerivativeMismatch(
                f"the student depends on {name}, but its derivative is zero: it may round {name} "
                "or convert it to an integer"
            )
        if not (found.unresolved <= RESOLVED or found.error <= allowed):
            raise DerivativeMismatch(
                f'the derivative in {name} by "{derivative.backend}" cannot be checked: it varies '
                f"too much, even over {STRETCHES[-1]:.0e} of the range of {name}"
            )
        if not found.error <= allowed + found.unresolved:
            step = (
                f"Try another finite-difference step than {derivative.step:g} (a shorter one "
                "rounds more). If that does not help, the"
                if derivative.backend == "finite-difference"
                else "The"
            )
            raise DerivativeMismatch(
                f'the derivative of this student by "{derivative.backend}" is wrong: its integral '
                f"over {name} differs from the student's own change by {found.error:.1%}, and at "
                f"most {allowed:.0%} is allowed. {step} student may not be differentiable in "
                f"{name}: it may round or detach it."
            )
        return found.error

    def _stretches(self, name: str, derivative: Derivative) -> Iterator[_Stretch]:
        """Compare the integral with the change over shorter and shorter stretches, until one is
        resolved well."""
        at, direction = self.inputs[name], self.directions[name]
        behind, ahead = self.room(name)

        def moved(by: Tensor) -> Tensor:
            return at + expand_like(by, at).to(at.dtype) * direction

        def output(by: Tensor) -> Tensor:
            with torch.autocast(at.device.type, enabled=False):
                return self.output(**{name: moved(by)}).double()

        def slope(by: Tensor) -> Tensor:
            with custom_operations():
                _, found = derivative.with_value(
                    lambda each: self.output(**{name: each}),
                    (moved(by),),
                    (direction,),
                    room=(behind + by, ahead - by),
                )
            return found.double()

        for share in STRETCHES:
            if share < 64 * torch.finfo(at.dtype).eps:
                return  # too short for numbers of this precision
            half, middle = share * (ahead + behind) / 2, share * (ahead - behind) / 2
            terms = []
            for node, kronrod, gauss in RULE:
                d = slope(middle + node * half)
                terms.append((kronrod * expand_like(half, d) * d, gauss / kronrod))
            end = middle + half
            last = output(end)
            whole, short = last - output(middle - half), last - output(end - half / 64)
            found = _Stretch.of(terms, whole, short, self.rounding * float(last.norm()))
            yield found
            if found.unresolved <= RESOLVED / 5:
                return


@attrs.frozen
class _Stretch:
    """The integral of a derivative over a stretch, and the network's own change; all relative."""

    error: float
    """Difference of integral and change, beyond what rounding explains."""
    unresolved: float
    """Difference of the two quadratures."""
    still: bool
    """Whether neither the derivative nor the output moves."""

    @staticmethod
    def of(
        terms: Sequence[tuple[Tensor, float]], change: Tensor, short: Tensor, rounding: float
    ) -> _Stretch:
        """Compare.

        Args:
            terms: of Kronrod's sum, each with the ratio of Gauss's term to it.
            change: of the output over the stretch.
            short: over its last 128th.
            rounding: norm of the output's rounding error.
        """
        kronrod = torch.stack([term for term, _ in terms]).sum(0)
        gauss = torch.stack([ratio * term for term, ratio in terms]).sum(0)
        way = float(torch.stack([term.norm() for term, _ in terms]).sum())
        scale = max(way, float(change.norm()), 1e-300)
        jitter = max(0.0, float(short.norm()) - way / 16)  # change that no slope explains
        error = float((kronrod - change).norm()) - 3 * min(jitter, rounding)
        return _Stretch(
            error=max(0.0, error) / scale,
            unresolved=float((kronrod - gauss).norm()) / scale,
            still=way == 0 and not change.any(),
        )


def _perturb(network: nn.Module, draws: Draws) -> None:
    """Add noise to every parameter: one short sequence, repeated, from another start in each.

    A draw for each number would take minutes for a large network.
    """
    sequence = PERTURBATION * draws.named("self-check").normal("parameter", (PERIOD,))[0]
    for index, parameter in enumerate(network.parameters()):
        count = parameter.numel()
        noise = sequence.roll(-97 * index).to(parameter.device, parameter.dtype)
        noise = noise.repeat(-(-count // PERIOD))[:count]
        parameter.data.add_(noise.view(parameter.shape))


def _check_gradient(network: nn.Module, found: Tensor, plain: Tensor, rounding: float) -> None:
    """Raise DerivativeMismatch if an output beside its derivative has another value or gradient.

    A gradient below the rounding of the whole counts as zero: one that is zero by symmetry, as of a
    bias of keys, is rounding alone.
    """
    gradients, wanted = (_gradients(network, each) for each in (found, plain))
    pairs = {name: (gradients[name], wanted[name]) for name in wanted}
    lost = [name for name, (one, other) in pairs.items() if (one is None) != (other is None)]
    if not lost and not found.is_meta:
        given = [each for each in wanted.values() if each is not None]
        whole = max((float(each.norm()) for each in given), default=0.0)
        if (found - plain).norm() > rounding * plain.norm():
            raise DerivativeMismatch("with dual numbers the student's output is another one")
        lost = [
            name
            for name, (one, other) in pairs.items()
            if one is not None
            and other is not None
            and (one - other).norm() > 0.01 * other.norm() + rounding * whole
        ]
    if lost:
        raise DerivativeMismatch(
            f"with dual numbers the student's output has another gradient in {lost[0]}"
            + (f" and {len(lost) - 1} other parameters" if len(lost) > 1 else "")
        )


def _gradients(network: nn.Module, output: Tensor) -> dict[str, Tensor | None]:
    """Return the gradient of a sum of squares in each parameter; None where there is none.

    By `backward`, because reentrant activation checkpointing does not allow torch.autograd.grad.
    """
    network.zero_grad()
    if output.requires_grad:
        output.square().sum().backward()
    found = {name: each.grad for name, each in network.named_parameters() if each.requires_grad}
    network.zero_grad()
    return found


def _buffers(network: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    return [
        (module, key, each.clone())
        for module in network.modules()
        for key, each in module._buffers.items()
        if each is not None
    ]


def _restore(state: Sequence[tuple[nn.Module, str, Tensor]]) -> None:
    for module, key, value in state:
        module._buffers[key] = value.clone()


def _mode(network: nn.Module) -> str:
    return "training" if network.training else "evaluation"


class _Watch(TorchDispatchMode):
    """Notes the coarsest numbers that a forward computes, and the first operation that draws."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rounding, self.draws = 0.0, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = random_states()
        found = func(*args, **(kwargs or {}))
        if not self.draws and before != random_states():
            self.draws = f"torch's {func.overloadpacket.__name__}"
        for each in pytree.tree_leaves(found):
            if isinstance(each, Tensor):
                self.note(each)
        return found

    def note(self, number: Tensor) -> None:
        if number.is_floating_point():
            self.rounding = max(self.rounding, torch.finfo(number.dtype).eps)


def _watched(call: Callable[[], Tensor]) -> tuple[Tensor, _Watch]:
    """Return the result of a call, and what was noted in a second one.

    torch does not let some calls be watched, such as torch.cond's. Of these only the result is
    noted, and whether they draw.
    """
    before, watch = random_states(), _Watch()
    found = call()
    watch.note(found)
    drawn = random_states() != before
    try:
        with watch:
            call()
    except RuntimeError:
        torch._dynamo.reset()  # otherwise the compiler repeats its error in later calls
    watch.draws = (watch.draws or "something in it") if drawn else ""
    return found, watch
