"""The training loop: steps, reports, checkpoints.

for report in train(distillation):
    print(report.step, report.metrics["loss"])
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from ffcore import checkpoint
from ffcore.distill import Distillation


class Diverged(Exception):
    """Training met a number that is not finite."""


@attrs.frozen(kw_only=True)
class Report:
    """How training stands after `step` steps."""

    step: int
    steps: int
    metrics: dict[str, float]
    """As `Distillation.step` names them, of the last step."""
    steps_per_second: float
    """Since the report before."""

    @property
    def seconds_left(self) -> float:
        """At the present speed."""
        return (self.steps - self.step) / self.steps_per_second


def train(
    distillation: Distillation,
    *,
    log_every: int = 50,
    checkpoint_path: Path | None = None,
    checkpoint_every: int = 1000,
    digest: str = "",
) -> Iterator[Report]:
    """Train to the last step, yielding a report each `log_every` steps and at the end.

    Metrics leave the device only for a report. A checkpoint is written each `checkpoint_every`
    steps and at the end, before the report of that step.

    Raises Diverged where a reported metric is not finite; no checkpoint is written then.
    """
    begun, before = time.perf_counter(), distillation.step_index
    while distillation.step_index < distillation.steps:
        metrics = distillation.step()
        step, last = distillation.step_index, distillation.step_index == distillation.steps
        saves = checkpoint_path is not None and (last or step % checkpoint_every == 0)
        if not (saves or last or step % log_every == 0):
            continue
        values = {name: float(value) for name, value in metrics.items()}
        _require_finite(step, values)
        if saves and checkpoint_path is not None:
            checkpoint.save(checkpoint_path, distillation, digest)
        if last or step % log_every == 0:
            now = time.perf_counter()
            yield Report(
                step=step,
                steps=distillation.steps,
                metrics=values,
                steps_per_second=(step - before) / max(now - begun, 1e-9),
            )
            begun, before = time.perf_counter(), step


def _require_finite(step: int, metrics: dict[str, float]) -> None:
    bad = {name: value for name, value in metrics.items() if not math.isfinite(value)}
    if bad:
        listed = ", ".join(f"{name} = {value}" for name, value in bad.items())
        raise Diverged(
            f"step {step}: {listed}. The last checkpoint is untouched; try a lower learning rate "
            "or a larger weight_epsilon."
        )
