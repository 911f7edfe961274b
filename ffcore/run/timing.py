"""How many steps fit into `training.minutes`."""

from __future__ import annotations

import time

import attrs
import torch

from ffcore.system.distributed import Processes
from ffcore.training.distillation import Distillation

PROVISIONAL = 1_000_000
"""Steps of the distillation that is timed, so that its last ones have every objective active."""
_WARM = 3
_FEWEST, _MOST = 5, 100
_ENOUGH = 3.0
"""Seconds after which a step has been timed long enough."""


@attrs.frozen(kw_only=True)
class Timed:
    """Steps that came from a time."""

    minutes: float
    steps: int
    seconds_per_step: float
    seconds_before: float
    """Of the objectives' preparation, which counts as training."""

    def __str__(self) -> str:
        each = f"{1000 * self.seconds_per_step:.3g} ms a step"
        before = (
            f", after {self.seconds_before:.0f} s of preparation" if self.seconds_before > 1 else ""
        )
        return f"training.steps = {self.steps}: {self.minutes:g} minutes at {each}{before}"


def steps_in(minutes: float, distillation: Distillation, processes: Processes) -> Timed:
    """Time steps with every objective active; return how many fit into the minutes, at least 1.

    The distillation, built for PROVISIONAL steps and parallelized, is spent afterwards. All
    processes must call this, and get the same number.
    """
    begun = _clock(distillation)
    distillation.prepare()
    before = _clock(distillation) - begun
    distillation.step_index = PROVISIONAL - _MOST - _WARM
    for _ in range(_WARM):
        distillation.step()
    steps, begun = 0, _clock(distillation)
    while True:
        distillation.step()
        steps += 1
        seconds = _clock(distillation) - begun
        enough = steps >= _FEWEST and (seconds > _ENOUGH or steps >= _MOST)
        if processes.any(enough):
            break
    means = processes.total(torch.tensor([seconds / steps, before])) / processes.size
    each, before = means.tolist()
    left = max(0.0, 60 * minutes - before)
    return Timed(
        minutes=minutes,
        steps=max(1, round(left / each)),
        seconds_per_step=each,
        seconds_before=before,
    )


def _clock(distillation: Distillation) -> float:
    """Return the time when the device has done all work so far."""
    if torch.device(distillation.device).type == "cuda":
        torch.cuda.synchronize(distillation.device)
    return time.perf_counter()
