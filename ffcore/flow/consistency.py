"""Whether a velocity is that of its own samples, and what is wrong with one that is not.

For samples x of the flow of u and fresh noise n, an exact u is E[x − n | x_t]. So the residual
(x − n) − u is orthogonal to u: the regression of x − n on u has slope 1 at every t. With another
sign, time, prediction or path, the flow ends elsewhere and the slopes depart from 1. This needs no
data. It does not see what changes data and velocity together: another scale of the samples, a wrong
class, a network that was trained on something else.

It does not see the end t = 1 either, from which every student starts. `noise_slope` looks there; it
sees no wrong path, and no sign that is flipped together with the time. So both are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import get_args

import attrs
import torch
from torch import Tensor

from ffcore.draws import Draws
from ffcore.flow.convention import Convention, Path, Prediction, Schedule, Time
from ffcore.flow.convert import ConvertedVelocity, converted
from ffcore.flow.guidance import remove_guidance
from ffcore.flow.ode import integrate, likely_fault, noise_slope, points_wrongly
from ffcore.flow.path import expand_like, interpolate
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, FrozenTeacher, FunctionTeacher, Teacher

TIMES = (0.25, 0.5, 0.75)
SOLVER = Solver("heun", 16)
SLOPED = 8
"""Number of noise samples for the slope at t = 1."""
NOISES = 4
"""Noises for each sample, n and −n in pairs."""
EXACT, IMPERFECT = 0.05, 0.25
"""Departures of a slope from 1 of a good network, and of one that is badly trained or solved in
too few steps; between the two only a better explanation makes a complaint (decision 27)."""
ERRORS = 3.0
"""Standard errors that a departure must exceed beyond that."""
SILENT = 1e-3
"""Share of E‖x − n‖² below which a velocity says nothing, as that of a new network."""
USUAL = (0.04, 20.0)
"""Root mean squares of samples that a network is trained on; noise has 1. SOLVER reaches from 0.03
to 22 where the data are far smaller or larger."""


class NoTeacher(ValueError):
    """A velocity that no data have. The message is for its author."""


@attrs.frozen
class Consistency:
    """The slopes of x − n on u at `TIMES`."""

    slopes: tuple[float, ...]
    errors: tuple[float, ...]
    """Their standard errors."""
    shares: tuple[float, ...]
    """E‖u‖² / E‖x − n‖²."""
    size: float
    """Root mean square of the samples."""

    @property
    def departure(self) -> float:
        """The largest distance of a slope from 1 beyond its interval; 0 if u is silent."""
        rows = zip(self.slopes, self.errors, self.shares, strict=True)
        found = [abs(s - 1) - ERRORS * e for s, e, share in rows if not share < SILENT]
        return max((each if math.isfinite(each) else math.inf for each in found), default=0.0)

    @property
    def explains(self) -> bool:
        """Whether the velocity says much: a silent one is consistent with itself."""
        return max(self.shares) > 0.2

    def __str__(self) -> str:
        rows = zip(TIMES, self.slopes, self.errors, strict=True)
        return ", ".join(f"{slope:.2f} ± {2 * e:.2f} at t = {t:g}" for t, slope, e in rows)


def enough(dimensions: int) -> int:
    """Return the number of samples for a check of samples with this many dimensions."""
    return max(32, min(512, 4096 // dimensions))


@torch.no_grad()
def consistency(teacher: Teacher, z: Tensor, condition: Condition, draws: Draws) -> Consistency:
    """Measure an unguided velocity on the samples that it solves from noise.

    Args:
        teacher: the velocity; guidance is removed.
        z: prior noise, Float[B, *S].
        condition: of size B.
        draws: random streams for the B samples' fresh noise.
    """
    field = remove_guidance(teacher)
    condition = attrs.evolve(condition, guidance=None)
    x = integrate(field, z, condition, SOLVER)
    slopes, errors, shares = [], [], []
    for time in TIMES:
        t = torch.full_like(z.flatten(1)[:, 0], time)
        products, squares, wholes = [], [], []
        for index in range(NOISES // 2):
            noise = draws.named("consistency", index).normal("noise", tuple(z.shape[1:])).to(z)
            for n in (noise, -noise):
                u = field(interpolate(x, n, t), t, condition).double().flatten(1)
                target = (x - n).double().flatten(1)
                products.append((u * target).mean(1))
                squares.append(u.square().mean(1))
                wholes.append(target.square().mean(1))
        product, square, whole = (torch.stack(p).mean(0) for p in (products, squares, wholes))
        slope = product.mean() / square.mean()
        residual = product - slope * square
        slopes.append(float(slope))
        errors.append(float(residual.std() / square.mean()) / math.sqrt(len(z)))
        shares.append(float(square.mean() / whole.mean()))
    size = float(x.double().square().mean().sqrt())
    return Consistency(tuple(slopes), tuple(errors), tuple(shares), size)


def complaint(teacher: Teacher, z: Tensor, condition: Condition, draws: Draws) -> str | None:
    """Return what is wrong with a velocity, for its author; None if nothing shows.

    Raises NoTeacher if its samples are not finite.
    """
    found = consistency(teacher, z, condition, draws)
    if max(found.shares) < SILENT:
        return (
            "the teacher's velocity is almost zero, so that its samples are the noise itself: it "
            "seems untrained. Check that its weights are loaded"
        )
    off = found.departure > EXACT
    causes = _causes(remove_guidance(teacher), found, z, condition, draws) if off else []
    fit = f"It would fit if {', or if '.join(causes)}"
    if not math.isfinite(found.size):
        raise NoTeacher(
            f"the teacher's samples are NaN or infinite after {SOLVER.steps} steps from noise, "
            "although noise has root mean square 1: its velocity grows along its own flow. "
            + (fit if causes else "Check its sign, its scale and its time; t = 1 is noise")
        )
    text = (
        "the teacher's velocity is not that of its own samples: the slope of x − n on u is "
        f"{found}; an exact one has 1. "
    )
    if causes:
        return text + fit
    if not USUAL[0] <= found.size <= USUAL[1]:
        return (
            f"the teacher's samples have root mean square {found.size:.3g} after "
            f"{SOLVER.steps} steps, and noise has 1: almost surely their scale is wrong. Divide "
            "the data by a factor that makes it about 1, in the teacher's velocity too"
        )
    if found.departure > IMPERFECT:
        return text + "Its path, schedule or time may be another, or the network is untrained"
    return _complaint_at_noise(teacher, z, condition)


def _complaint_at_noise(teacher: Teacher, z: Tensor, condition: Condition) -> str | None:
    """Return what is wrong with a velocity at t = 1, guided if the teacher is."""
    slope = noise_slope(teacher, z[:SLOPED], condition[: min(SLOPED, len(z))])
    if not points_wrongly(slope):
        return None
    return (
        f"the teacher's velocity at t = 1 has slope {slope:+.2f} in the noise; an exact one has "
        f"−1. {likely_fault(slope)}"
    )


def _causes(
    teacher: Teacher, found: Consistency, z: Tensor, condition: Condition, draws: Draws
) -> list[str]:
    """Return what explains a departure, the best first."""
    fitting: list[tuple[float, str]] = []
    for cause, other in _others(teacher):
        try:
            instead = consistency(other, z, condition, draws)
        except (RuntimeError, ValueError, IndexError):  # the network refuses such a time
            continue
        departure = instead.departure
        if instead.explains and departure <= min(IMPERFECT, found.departure / 2):
            fitting.append((departure, cause))
    fitting.sort()
    return [cause for departure, cause in fitting[:2] if departure <= fitting[0][0] + EXACT / 2]


Field = Callable[[Tensor, Tensor, Condition], Tensor]


def _others(teacher: Teacher) -> Iterator[tuple[str, Teacher]]:
    """Yield what a teacher could be instead, with the words for it."""
    inner: object = teacher.field if isinstance(teacher, FrozenTeacher) else None
    if isinstance(teacher, FunctionTeacher):
        inner = teacher.function
    if isinstance(inner, ConvertedVelocity):
        for cause, convention in _conventions(inner.convention):
            shape, conditions = teacher.sample_shape, teacher.conditions
            yield cause, converted(inner.network, convention, shape, conditions, call=inner.call)
        return
    for cause, field in _fields(teacher):
        yield cause, FunctionTeacher(field, teacher.sample_shape, teacher.conditions)


def _conventions(stated: Convention) -> Iterator[tuple[str, Convention]]:
    """Yield the conventions that differ from the stated one in one word or two."""
    changes = [
        *({"prediction": each} for each in get_args(Prediction)),
        *({"time": each} for each in get_args(Time)),
        *({"prediction": p, "time": t} for p in get_args(Prediction) for t in get_args(Time)[:2]),
        *({"schedule": each} for each in get_args(Schedule) if stated.schedule is not None),
        *({"path": each} for each in get_args(Path)),
    ]
    for change in changes:
        if any(getattr(stated, name) == each for name, each in change.items()):
            continue
        try:
            convention = attrs.evolve(stated, **change)
        except ValueError:
            try:  # a range that the stated words did not need
                convention = attrs.evolve(stated, **change, sigma_range=(0.01, 100.0))
            except ValueError:
                continue
        words = (f"{name} were {each!r}" for name, each in change.items())
        yield " and ".join(words), convention


def _fields(teacher: Teacher) -> Iterator[tuple[str, Field]]:
    """Yield the velocities that a wrong one could have been meant as."""

    def w(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        velocity: Tensor = teacher(x, t, condition)
        return velocity

    def at(t: Tensor, x: Tensor) -> Tensor:
        return expand_like(t.clamp(0.01, 0.99), x)

    yield "its sign were the opposite", lambda x, t, c: -w(x, t, c)
    yield "its time ran the other way", lambda x, t, c: w(x, 1 - t, c)
    yield "its sign and its time were the opposite", lambda x, t, c: -w(x, 1 - t, c)
    yield "it were the noise", lambda x, t, c: (x - w(x, t, c)) / (1 - at(t, x))
    yield "it were the data", lambda x, t, c: (w(x, t, c) - x) / at(t, x)
    yield (
        "it were the noise, and its time ran the other way",
        lambda x, t, c: (x - w(x, 1 - t, c)) / (1 - at(t, x)),
    )
    yield (
        "it were the data, and its time ran the other way",
        lambda x, t, c: (w(x, 1 - t, c) - x) / at(t, x),
    )
    yield "a velocity were converted as noise", lambda x, t, c: x - (1 - at(t, x)) * w(x, t, c)
    yield "a velocity were converted as data", lambda x, t, c: x + at(t, x) * w(x, t, c)
    yield "its time were σ = t / (1 − t)", lambda x, t, c: w(x, t / (1 - t).clamp(min=0.01), c)
    yield "its time, given as σ = t / (1 − t), were t", lambda x, t, c: w(x, t / (1 + t), c)
    yield "its time were 1000 times larger", lambda x, t, c: w(x, 1000 * t, c)
    yield "its time were 1000 times smaller", lambda x, t, c: w(x, t / 1000, c)
