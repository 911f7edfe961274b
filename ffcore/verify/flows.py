"""Two flows from the same noise, the student's and the teacher's, at each duration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat

import attrs
import torch
from torch import Tensor

from ffcore.evaluate.prior import Measurement, prior
from ffcore.evaluate.trajectory import DELTAS
from ffcore.flow.backend import Backend
from ffcore.flow.derivative_check import backend_for
from ffcore.flow.exact import ExactTeacher
from ffcore.flow.guidance import remove_guidance
from ffcore.flow.ode import integrate
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, Student, Teacher
from ffcore.sample import NotFinite
from ffcore.verify.errors import Errors, norm
from ffcore.verify.residual import residual

CONTROLLED = 32
"""Number of samples on which a coarser solver checks the solver."""


@attrs.frozen(kw_only=True, eq=False)
class Flows:
    """Differences between a student's flow and its teacher's, at each δ."""

    identity: dict[float, Errors]
    """v_G − u, relative to u."""
    trajectory: dict[float, Errors]
    """f(z, δ) − Φ(z, δ), relative to Φ(z, δ) − z; Φ is the solver's."""
    closed_form: dict[float, Errors] | None
    """The same with the exact flow map for Φ; None if it is unknown."""
    solver_error: float
    """‖Φ − exact‖ relative to the distance travelled, or ‖Φ − coarser‖, which is usually more: root
    mean square over samples at the worst δ."""
    backend: Backend
    """Of ∂_δ F."""
    derivative_error: float
    """Change of v_G relative to u when the finite difference's step doubles, as in `solver_error`;
    0 for forward mode."""
    student: Tensor
    """f(z, 1), Float[N, *S]."""
    teacher: Tensor
    """Φ(z, 1), the exact one if it is known."""
    condition: Condition


def compare_flows(
    student: Student,
    teacher: Teacher,
    measurement: Measurement,
    progress: Callable[[int, int], None],
) -> Flows:
    """Follow both flows from prior noise.

    Args:
        student, teacher: the teacher guided by the scale in a condition.
        measurement: its samples, seed, guidance, batch and solver count.
        progress: gets the samples done, in steps of δ, and their total.
    """
    found: dict[str, dict[float, list[tuple[Tensor, Tensor]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    ends: list[tuple[Tensor, Tensor, Condition]] = []
    backend: Backend | None = None
    solver, done = measurement.solver, 0
    for z, condition in prior(teacher, measurement, "verify"):
        backend = backend or backend_for(student, z[:2], condition[:2])
        fine = solutions(teacher, z, condition, solver, DELTAS)
        some = slice(0, CONTROLLED)
        coarse = (
            repeat(None, len(DELTAS))
            if ends
            else solutions(teacher, z[some], condition[some], coarser(solver), DELTAS)
        )
        for delta, exactly, roughly in zip(DELTAS, fine, coarse, strict=True):
            here = residual(student, teacher, z, condition, delta, backend)
            if not here.gap.isfinite().all():
                raise NotFinite(f"v_G − u of this student is not finite at δ = {delta:g}")
            found["identity"][delta].append((here.gap, here.velocity))
            found["derivative"][delta].append((here.uncertainty, here.velocity))
            way = norm(exactly - z)
            found["trajectory"][delta].append((norm(here.end - exactly), way))
            known = exact_solution(teacher, z, condition, delta)
            if known is not None:
                way = norm(known - z)
                found["closed form"][delta].append((norm(here.end - known), way))
                found["solver"][delta].append((norm(exactly - known), way))
            elif roughly is not None:
                found["solver"][delta].append((norm(exactly[some] - roughly), way[some]))
            done += len(z)
            progress(done, measurement.samples * len(DELTAS))
        ends.append((here.end, exactly if known is None else known.to(z.dtype), condition))
    assert backend is not None
    errors = {
        name: {
            delta: Errors.of(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))
            for delta, pairs in each.items()
        }
        for name, each in found.items()
    }
    mine, its, conditions = zip(*ends, strict=True)
    return Flows(
        identity=errors["identity"],
        trajectory=errors["trajectory"],
        closed_form=errors.get("closed form"),
        solver_error=_worst(errors["solver"].values()),
        backend=backend,
        derivative_error=_worst(errors["derivative"].values()),
        student=torch.cat(mine),
        teacher=torch.cat(its),
        condition=Condition.cat(conditions),
    )


def _worst(errors: Iterable[Errors]) -> float:
    return max((each.relative.rms for each in errors if each.relative is not None), default=0.0)


def solutions(
    teacher: Teacher,
    z: Tensor,
    condition: Condition,
    solver: Solver,
    deltas: Sequence[float],
) -> Iterator[Tensor]:
    """Yield Φ(z, δ), Float[B, *S], at ascending durations; a solver of fixed steps spreads them."""
    state, before = z, 0.0
    for delta in deltas:
        steps = max(1, round(solver.steps * (delta - before)))
        part = attrs.evolve(solver, steps=steps)
        state = integrate(teacher, state, condition, part, start=1 - before, stop=1 - delta)
        before = delta
        yield state


def coarser(solver: Solver) -> Solver:
    """Return a coarser solver; the difference of both estimates the error of `solver`."""
    if solver.method == "dopri5":
        return attrs.evolve(solver, tolerance=10 * solver.tolerance)
    return attrs.evolve(solver, steps=max(1, solver.steps // 2))


def exact_solution(
    teacher: Teacher, z: Tensor, condition: Condition, delta: float
) -> Tensor | None:
    """Return the exact f*(z, δ) in float64, Float[B, *S]; None if it is unknown.

    Only unguided teachers can know it.
    """
    known = remove_guidance(teacher)
    if not isinstance(known, ExactTeacher) or condition.guidance is not None:
        return None
    ones = torch.ones(len(z), dtype=torch.float64, device=z.device)
    return known.flow_map(z.double(), ones, delta * ones, condition)
