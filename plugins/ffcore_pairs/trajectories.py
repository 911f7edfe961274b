"""Solutions of a teacher's flow from prior noise, made once and kept in CPU memory.

A solver moves noise z at time 1 to x_δ at time 1 − δ. The average velocity of this motion is
(x_δ − z) / δ; its limit for δ → 0 is u(z, 1).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs
import torch
from torch import Tensor, nn

from ffcore.flow.guidance import remove_guidance
from ffcore.flow.ode import FlowError, integrate
from ffcore.flow.solver import Solver
from ffcore.interfaces import Batch, Condition, Teacher
from ffcore_pairs.defaults import steps_between

_LOG = logging.getLogger("ffcore")
REPORTS = 10
"""Progress reports, approximately."""


@attrs.frozen(eq=False)
class Trajectories:
    """Solutions of N trajectories, at K durations each."""

    z: Tensor
    """Noise, Float[N, *S]."""
    average_velocity: Tensor
    """Float[N, K, *S], in the noise's dtype: float32 in a run."""
    condition: Condition
    """Of size N, with γ if the run guides."""
    evaluations: int
    """Evaluations of the base network: where guidance acts, a velocity needs two."""

    @staticmethod
    def solve(
        teacher: Teacher,
        draw: Callable[[int, int], Batch],
        number: int,
        *,
        deltas: Sequence[float],
        solver: Solver,
        batch: int,
    ) -> Trajectories:
        """Solve `number` trajectories, `batch` at a time, and report progress.

        `teacher` and `draw` are as in PredictorObjective.prepare; for the others, see
        `average_velocities`.
        """
        shape, dtype = teacher.sample_shape, draw(0, 1).z.dtype
        z = torch.empty(number, *shape, dtype=dtype)
        average_velocity = torch.empty(number, len(deltas), *shape, dtype=dtype)
        conditions, starts, begun = [], range(0, number, batch), time.perf_counter()
        with evaluations_of(teacher) as evaluations:
            for done, start in enumerate(starts):
                if done % max(1, len(starts) // REPORTS) == 0:
                    _LOG.info("pairs: %s of %s are solved", f"{start:,}", f"{number:,}")
                part = slice(start, min(number, start + batch))
                drawn = draw(part.start, part.stop)
                z[part] = drawn.z.cpu()
                average_velocity[part] = average_velocities(teacher, drawn, deltas, solver).cpu()
                conditions.append(drawn.condition.to("cpu"))
        _LOG.info(
            "pairs: all %s are solved; this took %s evaluations of the teacher and %.0f s",
            f"{number:,}",
            f"{evaluations():,}",
            time.perf_counter() - begun,
        )
        return Trajectories(z, average_velocity, Condition.cat(conditions), evaluations())


@torch.no_grad()
def average_velocities(
    teacher: Teacher, drawn: Batch, deltas: Sequence[float], solver: Solver
) -> Tensor:
    """Return (x_δ − z) / δ of each sample at each duration, and u(z, 1) where δ is 0.

    The solver computes in the noise's dtype, under autocast too.

    Args:
        teacher: already guided, if it is to be.
        drawn: noise and conditions of B samples.
        deltas: K increasing durations in [0, 1].
        solver: for the whole way from noise to data; a duration ends one of its steps.

    Returns:
        Float[B, K, *S].

    Raises FlowError if a solution is not finite, or if dopri5 fails.
    """
    z, condition = drawn.z, drawn.condition
    found, x, before = [], z, 0.0
    with torch.autocast(z.device.type, enabled=False):
        for delta in deltas:
            if delta == 0:
                found.append(teacher(z, torch.ones_like(z.flatten(1)[:, 0]), condition))
                continue
            steps = steps_between(solver, before, delta)
            assert steps is not None
            last = solver.last_step if delta == 1 else "full"
            part = attrs.evolve(solver, steps=steps, last_step=last)
            x = integrate(teacher, x, condition, part, start=1 - before, stop=1 - delta)
            found.append(((x.double() - z.double()) / delta).to(z.dtype))
            before = delta
    velocities = torch.stack(found, dim=1)
    if not velocities.isfinite().all():
        raise FlowError(
            "a solution of the teacher's flow is not finite and cannot be a target. The weights "
            "may be damaged, or the guidance scale may be too large."
        )
    return velocities


@contextmanager
def evaluations_of(teacher: Teacher) -> Iterator[Callable[[], int]]:
    """Count the samples at which the network inside `teacher` is evaluated in this block."""
    count = 0

    def note(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        nonlocal count
        del module
        count += len(arguments[0])

    hook = remove_guidance(teacher).register_forward_pre_hook(note)
    try:
        yield lambda: count
    finally:
        hook.remove()
