"""Laws of objectives: those of predictors and correctors, and one of predictors alone."""

from __future__ import annotations

import builtins
import io
import itertools
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

import attrs
import torch
from torch import Tensor, nn

from ffcore.draws import Draws
from ffcore.interfaces import (
    Auxiliary,
    Balancer,
    Batch,
    Condition,
    DataSource,
    Gap,
    Gaps,
    Norms,
    Objective,
    VelocityField,
)
from ffcore.recipe.needs import ANYWHERE, DATA, WHOLE
from ffcore.testing import process
from ffcore.testing.answers import same
from ffcore.testing.case import EXACT, SIZE, Case, Inputs, networks_of, words
from ffcore.testing.law import Broken, Check, ask_only_where, law, require
from ffcore.testing.network import ROUNDING, relative
from ffcore.testing.small import MEAN, SCALE, GaussianStudent
from ffcore.training.distillation import Distillation
from ffcore.training.learner import Learner
from ffcore.training.optimizer import Optimizer

STEPS, BATCH, RATE = 12, 64, 0.05
"""Of the short training runs."""
NEARER = 0.95
"""Largest distance after training, as a share of the distance before."""
LEARNING, LEARNING_RATE = 200, 1e-2
"""Of auxiliary networks that learn before the student does."""


MICRO_BATCHES = 24
"""Batches of one sample each. A fair coin shows one side in all of them once in 8 million times."""


def both(number: int) -> Callable[[Check], Check]:
    """Register a check as a law of predictors and of correctors."""

    def register(check: Check) -> Check:
        return law("corrector", number)(law("predictor", number)(check))

    return register


@both(1)
def answers_with_gaps(case: Case, live: Any) -> None:
    """`gaps` returns at least one gap. Each has one finite row per sample of the batch, in the
    shape of a sample, under autocast too."""
    asked = case.prepared(live)
    for precision in ("float32", "autocast to bfloat16"):
        with torch.autocast("cpu", torch.bfloat16, precision != "float32"):
            found = live.gaps(asked.networks, asked.batch)
        require(isinstance(found, Gaps), f"gaps returns {type(found).__name__}")
        for gap in found.gaps:
            wanted = tuple(asked.batch.z.shape)
            require(gap.gap.shape == wanted, f"a gap is {tuple(gap.gap.shape)}, not {wanted}")
            require(gap.gap.isfinite().all(), f"in {precision} a gap is not finite")
            require(gap.output.isfinite().all(), f"in {precision} an output is not finite")


@both(2)
def sends_its_gradient_to_the_student_alone(case: Case, live: Any) -> None:
    """A gradient flows from the outputs to the student's parameters. None flows through the teacher
    or the auxiliary networks."""
    asked = case.prepared(live)
    others = {"the teacher": asked.networks.teacher, **_by_name(asked.networks.auxiliaries)}
    with _gradients_through(others) as passed:
        found = live.gaps(asked.networks, asked.batch)
        silent = not all(gap.output.requires_grad for gap in found.gaps)
        require(not silent, "an output has no gradient")
        torch.stack([gap.output.square().sum() for gap in found.gaps]).sum().backward()
    require(_has_gradient(asked.networks.student), "no gradient reaches the student")
    require(not passed, f"a gradient flows through {' and '.join(passed)}")


@both(3)
def calls_within_the_domain(case: Case, live: Any) -> None:
    """The student is called at t in (0, 1] with δ in [0, t], and only at t = 1 unless the table
    needs "student starts anywhere". The teacher and auxiliary velocities are called at t in
    [0, 1]."""
    asked = case.inputs_for(live)
    _check(live, asked)
    anywhere = ANYWHERE in words(case.table, "needs")
    wrong: dict[str, None] = {}

    def of_student(x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> None:
        del x_t, condition
        wrong.update(dict.fromkeys(_outside(t, delta, anywhere)))

    def of_velocity(x_t: Tensor, t: Tensor, condition: Condition) -> None:
        del x_t, condition
        if not bool(((t >= 0) & (t <= 1)).all()):
            wrong["a velocity is called at t outside [0, 1]"] = None

    asked.networks.student.register_forward_pre_hook(_argument_hook(of_student), with_kwargs=True)
    for network in (asked.networks.teacher, *asked.networks.auxiliaries.values()):
        if isinstance(network, VelocityField):
            network.register_forward_pre_hook(_argument_hook(of_velocity), with_kwargs=True)
    case.prepare(live, asked.networks.teacher)
    for step in range(4):
        live.gaps(asked.networks, attrs.evolve(asked.batch, draws=case.draws(step=step)))
    require(not wrong, "; ".join(wrong))


@both(4)
def changes_no_network(case: Case, live: Any) -> None:
    """None of `self_check`, `prepare` and `gaps` changes a network's parameters, buffers, mode or
    `requires_grad`: only the trainer does."""
    asked = case.inputs_for(live)
    networks = asked.networks
    every: dict[str, nn.Module] = {"the student": networks.student, "the teacher": networks.teacher}
    every |= _by_name(networks.auxiliaries)
    before = {name: _state(network) for name, network in every.items()}
    calls: dict[str, Callable[[], Any]] = {
        "self_check": lambda: live.self_check(networks, asked.batch),
        "prepare": lambda: case.prepare(live, networks.teacher),
        "gaps": lambda: live.gaps(networks, asked.batch),
    }
    for what, call in calls.items():
        with suppress(ValueError):  # another law reports it
            call()
        for name, network in every.items():
            same = all(_equal(a, b) for a, b in zip(before[name], _state(network), strict=True))
            require(same, f"{what} changes {name}")


@both(5)
def is_data_free_unless_it_says(case: Case, live: Any) -> None:
    """An objective whose table does not need "data" ignores the batch's data. Neither `prepare`
    nor `gaps` then opens a file or a connection."""
    ask_only_where(DATA not in words(case.table, "needs"), "its table needs data")
    other = case.build()  # the first call's imports happen now
    asked = case.inputs_for(other)
    calls: dict[str, Callable[[], Any]] = {
        "prepare": lambda: case.prepare(other, asked.networks.teacher),
        "gaps": lambda: other.gaps(asked.networks, asked.batch),
    }
    for what, call in calls.items():
        with _record_opens() as opened:
            call()
        require(not opened, f"{what} opens {', '.join(opened)}")

    def answer(value: float | None) -> list[Tensor]:
        asked = case.prepared(live)
        data = None if value is None else torch.full_like(asked.batch.z, value)
        found = live.gaps(asked.networks, attrs.evolve(asked.batch, data=data))
        return [gap.gap for gap in found.gaps]

    without, again, beside = answer(None), answer(None), answer(1.0)
    ask_only_where(all(map(same, without, again)), "two equal calls give different gaps")
    unmoved = len(without) == len(beside) and all(map(same, without, beside))
    require(unmoved, "it reads data, but its table's `needs` does not contain it")


@both(6)
def owns_its_auxiliaries(case: Case, live: Any) -> None:
    """`auxiliaries` returns Auxiliary objects by name. Their networks share no parameter with the
    student, the teacher or each other."""
    asked = case.inputs_for(live)
    for name, each in asked.auxiliaries.items():
        require(isinstance(each, Auxiliary), f"{name!r} is a {type(each).__name__}")
    networks: dict[str, nn.Module] = {
        "the student": asked.networks.student,
        "the teacher": asked.networks.teacher,
    }
    networks |= _by_name(asked.networks.auxiliaries)
    for (one, a), (other, b) in itertools.combinations(networks.items(), 2):
        shared = {p.data_ptr() for p in a.parameters()} & {p.data_ptr() for p in b.parameters()}
        require(not shared, f"{one} and {other} share a parameter")


@both(7)
def trains_its_auxiliaries_alone(case: Case, live: Any) -> None:
    """If an auxiliary network learns, `gaps` returns detached `samples` with their conditions. The
    loss is one finite number per sample, and its gradient reaches only that network."""
    asked = case.prepared(live)
    learning = {name: each for name, each in asked.auxiliaries.items() if each.loss is not None}
    ask_only_where(learning, "it has no auxiliary network that learns")
    found = live.gaps(asked.networks, asked.batch)
    require(
        found.samples is not None and found.condition is not None,
        "an auxiliary network learns, but gaps returns no samples with conditions",
    )
    require(not found.samples.requires_grad, "the samples have a gradient: detach them")
    for name, each in learning.items():
        _check_loss(name, each, asked, found)


@both(8)
def passes_its_own_check(case: Case, live: Any) -> None:
    """`self_check` accepts a smooth student and a teacher."""
    asked = case.inputs_for(live)
    try:
        said = live.self_check(asked.networks, asked.batch)
    except ValueError as error:
        raise Broken(f"self_check fails: {error}") from error
    require(
        said is None or isinstance(said, str),
        f"self_check returns {type(said).__name__}, not a sentence or None",
    )


@both(9)
def draws_the_student_to_the_teacher(case: Case, live: Any) -> None:
    """A few training steps with an exact teacher move a student that is off by a constant nearer:
    at once, or after the auxiliary networks have learnt the student's samples."""
    ask_only_where(case.setting == EXACT, "it is not built for an exact teacher with a copy")
    for side in (1.0, -1.0):
        offset = side * torch.tensor([1.0, 0.5])
        before, after = float(offset.norm()), _left_of(offset, case)
        if after < NEARER * before:
            continue
        found = f"{STEPS} steps moved a student that was off by {before:.2f} to {after:.2f}"
        if any(each.loss is not None for each in case.inputs_for(live).auxiliaries.values()):
            after = _left_of(offset, case, first=LEARNING)
            found += (
                f", and to {after:.2f} after its auxiliary networks had learnt that student's "
                f"samples for {LEARNING} steps: they may learn something else"
            )
        require(
            after < NEARER * before,
            f"{found}; the gap may have the wrong sign, or compare velocities of different points, "
            "times or conditions",
        )


def _left_of(offset: Tensor, case: Case, first: int = 0) -> float:
    """Return how far a student that starts off by `offset` is after training.

    Before that, its auxiliary networks learn for `first` steps, at a high rate, from a student that
    does not move.
    """
    student, objective = GaussianStudent(offset), case.build()
    with process.seed_torch(1):  # auxiliary networks may start from scratch
        distillation = Distillation(
            teacher=EXACT.teacher(),
            student=student,
            **{case.role: objective},
            data=_GaussianData() if DATA in objective.needs else None,
            balancer=_Even(),
            optimizer=Optimizer(learning_rate=RATE),
            steps=first + STEPS,
            batch=BATCH,
        )
    if first:
        for name, learner in distillation.auxiliary_learners.items():
            fast = Optimizer(learning_rate=LEARNING_RATE)
            distillation.auxiliary_learners[name] = Learner.of(learner.network, fast)
        for _ in range(first):
            distillation.step()
            student.offset.data.copy_(offset)
        distillation.learner = Learner.of(student, distillation.learner.table)
    for _ in range(STEPS):
        distillation.step()
    return float(student.offset.detach().norm())


@law("predictor", 10)
def rests_at_the_flow_map(case: Case, live: Any) -> None:
    """The gaps of the exact flow map vanish; if they need data, their mean does."""
    ask_only_where(case.setting == EXACT, "it is not built for an exact teacher with a copy")
    teacher, draws = EXACT.teacher(), case.draws(1024)
    data, condition = _GaussianData().read(torch.zeros(1024, dtype=torch.int64), draws)
    batch = Batch(
        z=draws.normal("z", (2,)),
        condition=condition,
        draws=draws,
        data=data if DATA in live.needs else None,
    )

    case.prepare(live, teacher)

    def size(offset: Tensor) -> float:
        student = GaussianStudent(offset)
        with process.seed_torch(1):
            auxiliaries = live.auxiliaries(student, teacher)
        networks = networks_of(student, teacher, auxiliaries)
        gaps = torch.stack([gap.gap for gap in live.gaps(networks, batch).gaps])
        return float(gaps.mean(1).norm() if DATA in live.needs else gaps.square().mean().sqrt())

    still, moved = size(torch.zeros(2)), size(torch.ones(2))
    require(
        still <= 0.05 * moved,
        f"gaps of the exact flow map are {still:.2g}; of a map that is off by 1, {moved:.2g}",
    )


@law("predictor", 11)
@law("corrector", 10)
def calls_networks_whatever_was_drawn(case: Case, live: Any) -> None:
    """The networks that `gaps` calls, their order, and whether with gradient, do not depend on
    values. Processes that share a batch may have one sample each, and wait for each other in every
    call."""
    asked = case.prepared(live)
    _check(live, asked)
    networks: dict[str, nn.Module] = {
        "student": asked.networks.student,
        "teacher": asked.networks.teacher,
    }
    networks |= dict(asked.networks.auxiliaries)
    calls: list[str] = []
    for name, network in networks.items():

        def note(*_: object, name: str = name) -> None:
            calls.append(f"{name}{' with gradient' if torch.is_grad_enabled() else ''}")

        network.register_forward_pre_hook(note)
    ways = {}
    whole, shape = asked.batch, tuple(asked.batch.z.shape[1:])
    for step in range(MICRO_BATCHES):
        draws = case.draws(1, step)
        batch = Batch(
            z=draws.normal("z", shape),
            condition=whole.condition[:1],
            draws=draws,
            data=None if whole.data is None else draws.normal("data", shape),
        )
        calls.clear()
        live.gaps(asked.networks, batch)
        ways[", ".join(calls)] = step
    require(len(ways) == 1, f"some batches of one sample call {', and others '.join(ways)}")


@law("predictor", 12)
@law("corrector", 11)
def answers_to_each_sample_by_itself(case: Case, live: Any) -> None:
    """The gaps of a batch are those of its parts, because processes and micro-batches divide it
    anywhere. Not checked if the table needs "whole batch"."""
    ask_only_where(WHOLE not in words(case.table, "needs"), "its table needs the whole batch")
    asked = case.prepared(live)
    whole = live.gaps(asked.networks, asked.batch)
    for part in (slice(0, 1), slice(1, SIZE)):
        batch = Batch(
            z=asked.batch.z[part],
            condition=asked.batch.condition[part],
            draws=asked.batch.draws[part],
            data=None if asked.batch.data is None else asked.batch.data[part],
        )
        for gap, expected in zip(live.gaps(asked.networks, batch).gaps, whole.gaps, strict=True):
            off = relative(gap.gap, expected.gap[part])
            require(
                off <= ROUNDING,
                f"gaps of samples {part.start} to {part.stop - 1} of {SIZE} differ if "
                f"these are the whole batch, by {off:.1e} of the gaps",
            )


class _Even(Balancer):
    """Every weight and factor 1."""

    def split(self, batch: int, step: int) -> tuple[int, int]:
        """Return all for prediction."""
        del step
        return batch, 0

    def weights(self, objective: Objective, gap: Gap) -> Tensor:
        """Return ones."""
        del objective
        return torch.ones_like(gap.norm())

    def scale(self, norms: Mapping[Objective, Norms]) -> Mapping[Objective, Tensor]:
        """Return ones."""
        return {name: torch.ones_like(each.raw) for name, each in norms.items()}


class _GaussianData(DataSource):
    """Samples of N(MEAN, SCALE² I), made from the draws."""

    sample_shape = (len(MEAN),)

    def __len__(self) -> int:
        return 1024

    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        """Return as many samples as there are indices."""
        noise = draws.normal("x", self.sample_shape)
        return torch.tensor(MEAN) + SCALE * noise, Condition(size=len(indices))


def _check(objective: Any, asked: Inputs) -> None:
    """Let an objective check its networks, as training does: it may choose how it calls them.

    If it refuses them, the law passes_its_own_check says so.
    """
    with suppress(Exception):
        objective.self_check(asked.networks, asked.batch)


def _outside(t: Tensor, delta: Tensor, anywhere: bool) -> Iterator[str]:
    """Yield what is wrong with calling a student at these times and durations."""
    if not bool(((t > 0) & (t <= 1)).all()):
        yield "the student is called at t outside (0, 1]"
    if not bool(((delta >= 0) & (delta <= t)).all()):
        yield "the student is called over δ outside [0, t]"
    if not anywhere and not bool((t == 1).all()):
        yield f"the student is called at t < 1, but the table does not need {ANYWHERE!r}"


def _check_loss(name: str, auxiliary: Auxiliary, asked: Inputs, found: Gaps) -> None:
    assert auxiliary.loss is not None
    assert found.samples is not None
    assert found.condition is not None
    draws = asked.batch.draws.named(name)
    losses = auxiliary.loss(auxiliary.network, found.samples, found.condition, draws)
    require(
        losses.shape == (len(found.samples),),
        f"the loss of {name!r} is {tuple(losses.shape)} for {len(found.samples)} samples",
    )
    require(losses.isfinite().all(), f"the loss of {name!r} is not finite")
    losses.sum().backward()
    require(_has_gradient(auxiliary.network), f"{name!r} gets no gradient from its loss")
    others = {"the student": asked.networks.student, **_by_name(asked.networks.auxiliaries)}
    for who, other in others.items():
        if other is not auxiliary.network:
            require(not _has_gradient(other), f"the loss of {name!r} sends a gradient to {who}")


def _by_name(auxiliaries: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    return {f"the auxiliary network {name!r}": each for name, each in auxiliaries.items()}


def _has_gradient(network: nn.Module) -> bool:
    return any(each.grad is not None and bool(each.grad.any()) for each in network.parameters())


def _state(network: nn.Module) -> list[Any]:
    """Return everything in a network that only the trainer may change."""
    values: list[Any] = [each.detach().clone() for each in network.parameters()]
    values += [each.clone() for each in network.buffers()]
    values += [each.requires_grad for each in network.parameters()]
    return values + [each.training for each in network.modules()]


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


def _argument_hook(record: Callable[..., None]) -> Callable[..., None]:
    """Return a hook that records a network call's arguments, by name or by position."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        record(*args, **kwargs)

    return hook


@contextmanager
def _gradients_through(networks: Mapping[str, nn.Module]) -> Iterator[list[str]]:
    """Record the names of networks whose outputs get a gradient."""
    passed: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def note(gradient: Tensor) -> None:
            del gradient
            if name not in passed:
                passed.append(name)

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            del module, inputs
            if output.requires_grad:
                output.register_hook(note)

        return hook

    hooks = [each.register_forward_hook(watch(name)) for name, each in networks.items()]
    try:
        yield passed
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _record_opens() -> Iterator[list[str]]:
    """Record the files and connections that Python code opens in this block."""
    opened: list[str] = []

    def noting(what: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            opened.append(str(args[0] if args else kwargs.get("file", "a file")))
            return what(*args, **kwargs)

        return call

    def connect(self: socket.socket, address: Any) -> Any:
        opened.append(f"a connection to {address}")
        return connects(self, address)

    connects = socket.socket.connect
    with (
        mock.patch.object(builtins, "open", noting(builtins.open)),
        mock.patch.object(io, "open", noting(io.open)),
        mock.patch.object(os, "open", noting(os.open)),
        mock.patch.object(socket.socket, "connect", connect),
    ):
        yield opened
