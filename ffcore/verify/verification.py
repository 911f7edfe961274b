"""The verification of a student against its teacher, with its conditions."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import attrs
import torch
from torch import Tensor

from ffcore.evaluate.prior import Measurement, prior
from ffcore.evaluate.trajectory import DELTAS
from ffcore.flow.flow_map import generate
from ffcore.flow.ode import integrate
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, Teacher
from ffcore.system.faults import enough_memory
from ffcore.verify.agreement import Agreement, agreement
from ffcore.verify.errors import Errors
from ffcore.verify.flows import compare_flows, exact_solution
from ffcore.verify.noising import Fit, NoisingGap, fit_velocity, noising_gap
from ffcore.verify.residual import STEP
from ffcore.verify.subject import Subject

Progress = Callable[[str, int, int, str], None]
"""(name of the work, number done, total number, text)."""


_NO_NETWORK = (
    "the noising gap is left out: this teacher cannot be copied, and its recipe names no network "
    "to fit to samples; name one, as in --network mlp"
)


def silent(what: str, done: int, total: int, news: str) -> None:
    """Report no progress."""
    del what, done, total, news


@attrs.frozen(kw_only=True)
class Settings:
    """The amount and the precision of a verification."""

    samples: int = 256
    seed: int = 0
    solver: Solver = attrs.field(factory=lambda: Solver("dopri5", steps=256, tolerance=1e-5))
    """Solver of the teacher's trajectories."""
    fit_steps: int = 300
    """Number of steps of a fit of the noising velocity; 0 skips the noising gap."""
    fit_samples: int = 512
    """Number of samples to fit on; none of them is measured."""
    batch: int = 64
    """Number of samples per network call."""

    @staticmethod
    def usual(sample_shape: tuple[int, ...]) -> Settings:
        """Return settings that take about a minute on a CPU, for small images or for vectors.

        Vectors are cheap, but need more samples, since each has few numbers to average noise over.
        The fit to vectors usually starts from scratch, not from a copy of the teacher.
        """
        if len(sample_shape) > 1:
            return Settings()
        return Settings(samples=2048, fit_steps=1000, fit_samples=4096, batch=1024)


@attrs.frozen(kw_only=True)
class Noising:
    """The noising gap at each noise level r."""

    student: dict[float, NoisingGap]
    control: dict[float, NoisingGap]
    """The same for the teacher's own samples: the result of a perfect student."""


@attrs.frozen(kw_only=True)
class Verification:
    """The numbers and their conditions."""

    identity: dict[float, Errors]
    """v_G − u at each δ, relative to u."""
    trajectory: dict[float, Errors]
    """f(z, δ) − Φ(z, δ) at each δ, relative to Φ(z, δ) − z; Φ is the solver's."""
    closed_form: dict[float, Errors] | None
    """The same with the exact flow map for Φ; None if the teacher does not know it."""
    noising: Noising | None
    """None if it is left out."""
    classes: dict[str, Agreement]
    """By the name of the features."""
    conditions: dict[str, Any]
    notes: tuple[str, ...]
    seconds: dict[str, float]

    def document(self) -> dict[str, Any]:
        """Return it ready for JSON; the keys δ and r become strings."""
        tree = {"schema": 1, **attrs.asdict(self)}
        return dict(json.loads(json.dumps(tree, allow_nan=False)))


def verify(
    subject: Subject, settings: Settings | None = None, progress: Progress = silent
) -> Verification:
    """Measure a student against its teacher.

    Raises FlowError if the solver fails; OutOfMemory.
    """
    settings = settings or Settings()
    measurement = Measurement(
        samples=settings.samples,
        solver=settings.solver,
        seed=settings.seed,
        guidance=subject.guidance,
        batch=settings.batch,
    )
    begun = time.perf_counter()
    with enough_memory("verifying", "Make --batch smaller, or leave out the fit: --fit-steps 0."):
        flows = compare_flows(
            subject.student,
            subject.teacher,
            measurement,
            lambda done, total: progress("both flows", done, total, settings.solver.method),
        )
        middle = time.perf_counter()
        fit = _fit(subject, settings)
        noising = None
        if fit is not None:
            samples = {"student": flows.student, "teacher": flows.teacher}
            noising = _noising(subject, measurement, fit, samples, flows.condition, progress)
    return Verification(
        identity=flows.identity,
        trajectory=flows.trajectory,
        closed_form=flows.closed_form,
        noising=noising,
        classes={
            each.name: agreement(
                each, flows.student, flows.teacher, flows.condition.label, settings.batch
            )
            for each in subject.classifiers
            if flows.condition.label is not None
        },
        conditions=subject.record
        | {
            "samples": settings.samples,
            "seed": settings.seed,
            "solver": {**attrs.asdict(settings.solver), "error": flows.solver_error},
            "derivative": {
                "backend": flows.backend,
                "step": STEP if flows.backend == "finite-difference" else None,
                "error": flows.derivative_error,
            },
            "fit": None
            if fit is None
            else {"network": type(subject.network).__name__, **attrs.asdict(fit)},
            "ffcore": version("ffcore"),
        },
        notes=(*subject.notes, *([_NO_NETWORK] if settings.fit_steps and fit is None else [])),
        seconds={"flows": middle - begun, "noising": time.perf_counter() - middle},
    )


def _fit(subject: Subject, settings: Settings) -> Fit | None:
    if settings.fit_steps == 0 or subject.network is None:
        return None
    table = attrs.evolve(subject.optimizer, warmup=settings.fit_steps // 10, schedule="cosine")
    return Fit(
        steps=settings.fit_steps,
        batch=subject.training.batch,
        samples=settings.fit_samples,
        optimizer=table,
        seed=settings.seed,
    )


def _noising(
    subject: Subject,
    measurement: Measurement,
    fit: Fit,
    samples: dict[str, Tensor],
    condition: Condition,
    progress: Progress,
) -> Noising:
    """Fit the noising velocity of both, and compare it with the teacher's on these samples."""
    pools, pooled = _pools(subject, attrs.evolve(measurement, samples=fit.samples), progress)
    found: dict[str, dict[float, NoisingGap]] = {}
    for whose, pool in pools.items():
        assert subject.network is not None
        g = copy.deepcopy(subject.network)

        def report(step: int, loss: float, whose: str = whose) -> None:
            progress(f"fit, {whose}", step, fit.steps, f"loss {loss:.3f}")

        fit_velocity(g, pool, pooled, fit, measurement.batch, report)
        g.eval()
        found[whose] = {
            r: noising_gap(
                g,
                subject.teacher,
                samples[whose],
                condition,
                r,
                seed=measurement.seed,
                chunk=measurement.batch,
            )
            for r in DELTAS
        }
    return Noising(student=found["student"], control=found["teacher"])


@torch.no_grad()
def _pools(
    subject: Subject, measurement: Measurement, progress: Progress
) -> tuple[dict[str, Tensor], Condition]:
    """Return samples to fit on, the student's and the teacher's from the same noise."""
    mine, its, conditions = [], [], []
    done = 0
    for z, condition in prior(subject.teacher, measurement, "verify fit"):
        mine.append(generate(subject.student, z, condition))
        its.append(_sample(subject.teacher, z, condition, measurement.solver))
        conditions.append(attrs.evolve(condition, guidance=None))
        done += len(z)
        progress("teacher's samples", done, measurement.samples, "")
    pools = {"student": torch.cat(mine), "teacher": torch.cat(its)}
    return pools, Condition.cat(conditions)


def _sample(teacher: Teacher, z: Tensor, condition: Condition, solver: Solver) -> Tensor:
    known = exact_solution(teacher, z, condition, 1.0)
    return integrate(teacher, z, condition, solver) if known is None else known.to(z.dtype)
