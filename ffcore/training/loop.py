"""The training loop: steps, reports, checkpoints.

for report in train(distillation):
    print(report.step, report.metrics["loss"])
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from ffcore.interfaces import Ratio
from ffcore.system.distributed import Processes
from ffcore.system.faults import enough_memory
from ffcore.training.defaults import CHECKPOINT_EVERY, LOG_EVERY
from ffcore.training.distillation import Distillation
from ffcore.training.finite import Diverged

if TYPE_CHECKING:
    from ffcore.training.checkpoint import Checkpoints


__all__ = ["Diverged", "Report", "Stopped", "train"]


_REMEDY = (
    "Use a smaller training.batch. Or keep the batch and set parallel.accumulation to 2 or more, "
    "set parallel.activation_checkpointing = true, or use several processes; "
    "parallel.strategy = 'fsdp' divides the networks among them."
)

_LESS_TO_KEEP = "Let the objective keep less; see its keys in the recipe."


class Stopped(Exception):
    """Training stopped on request, after a complete step and a checkpoint."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}; run it again to continue from there")
        self.step = step


@attrs.frozen(kw_only=True)
class Report:
    """The state of training after `step` steps."""

    step: int
    steps: int
    metrics: dict[str, float]
    """Means of `Distillation.step`'s metrics over the finite steps since the previous report, and
    the numbers of the preparation.

    `skipped` is the number of steps skipped because they were not finite."""
    steps_per_second: float
    """Speed over the same steps."""
    samples_per_second: float
    """Samples of the global batch per second, over the same steps."""
    seconds: dict[str, float]
    """Mean seconds per step in this process, by section, over the same steps. The rest of a step
    is drawing, balancing, reports and checkpoints."""
    memory_peak: int
    """Peak memory so far, in bytes: allocated by torch on a CUDA device, or else the largest
    resident size of this process."""

    @property
    def seconds_left(self) -> float:
        """Seconds left at the current speed."""
        return (self.steps - self.step) / self.steps_per_second

    @property
    def numbers(self) -> dict[str, float]:
        """All measurements by name, as stored and tracked."""
        return {
            **self.metrics,
            "steps_per_second": self.steps_per_second,
            "samples_per_second": self.samples_per_second,
            "seconds_left": self.seconds_left,
            "memory_peak": self.memory_peak,
            **{f"seconds/{name}": seconds for name, seconds in self.seconds.items()},
        }


class _Means:
    """Running means of metrics over finite steps, on the device until they are read."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.ratios: dict[str, Tensor] = {}
        """Sums of the objectives' own numbers, each of part and whole: Float[2]."""
        self.roots: dict[str, bool] = {}

    def add(self, metrics: Mapping[str, Tensor], finite: Tensor) -> None:
        for name, value in metrics.items():
            counted = torch.where(finite, value.detach(), 0)
            self.sums[name] = self.sums.get(name, 0) + counted
            self.counts[name] = self.counts.get(name, 0) + finite

    def add_numbers(self, numbers: Mapping[str, Ratio], finite: Tensor) -> None:
        for name, ratio in numbers.items():
            counted = torch.where(finite, torch.stack([ratio.part, ratio.whole]), 0)
            self.ratios[name] = self.ratios.get(name, 0) + counted
            self.roots[name] = ratio.root

    def read(self, processes: Processes) -> dict[str, float]:
        """Return the means over all processes; all of them must call this."""
        sums = torch.stack([*self.sums.values()]).double()
        counts = torch.stack([*self.counts.values()])
        means = processes.total(sums / counts.clamp(min=1)) / processes.size
        found = zip(self.sums, means.tolist(), counts.tolist(), strict=True)
        return {name: mean for name, mean, count in found if count} | self._numbers(processes)

    def _numbers(self, processes: Processes) -> dict[str, float]:
        if not self.ratios:
            return {}
        sums = processes.total(torch.stack([*self.ratios.values()])).tolist()
        both = dict(zip(self.ratios, sums, strict=True))
        found = {name: part / whole for name, (part, whole) in both.items() if whole}
        return {n: max(each, 0.0) ** 0.5 if self.roots[n] else each for n, each in found.items()}


def train(
    distillation: Distillation,
    *,
    log_every: int = LOG_EVERY,
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int = CHECKPOINT_EVERY,
    stop: Callable[[], bool] = lambda: False,
    after_step: Callable[[int], None] = lambda step: None,
) -> Generator[Report, None, None]:
    """Train to the last step; yield a report every `log_every` steps and at the end.

    Before the first step, networks and objectives are checked unless that was done, and the
    objectives prepare; a finished run does neither.

    Metrics leave the device only for a report or a checkpoint. A checkpoint starts every
    `checkpoint_every` steps and at the end. However the generator ends, it first finishes all
    writes.

    After each step, `after_step` is called with the number of steps made, then `stop`. If `stop`
    returns True in any process, all processes write a checkpoint and raise Stopped.

    Raises Diverged, without a checkpoint, if too many steps in a row were not finite. Raises the
    error of a failed checkpoint (mostly Unwritable) at the next report or checkpoint or at the
    end. Raises OutOfMemory with what to change, and ValueError for numbers of steps below 1.
    """
    for name, every in (("log_every", log_every), ("checkpoint_every", checkpoint_every)):
        if every < 1:
            raise ValueError(f"{name}: must be at least 1, found {every!r}")
    with checkpoints or nullcontext():
        if distillation.step_index < distillation.steps:
            distillation.check_once()
            with enough_memory("the preparation of the objectives", _LESS_TO_KEEP):
                distillation.prepare()
        yield from _train(distillation, log_every, checkpoints, checkpoint_every, stop, after_step)


def _train(
    distillation: Distillation,
    log_every: int,
    checkpoints: Checkpoints | None,
    checkpoint_every: int,
    stop: Callable[[], bool],
    after_step: Callable[[int], None],
) -> Iterator[Report]:
    means, begun, before = _Means(), time.perf_counter(), distillation.step_index
    check = distillation.finite_check
    skipped = check.skipped
    distillation.time.read()  # discards time before these steps
    while distillation.step_index < distillation.steps:
        with enough_memory(f"step {distillation.step_index + 1}", _REMEDY):
            means.add(distillation.step(), check.finite)
            means.add_numbers(distillation.numbers, check.finite)
        step, last = distillation.step_index, distillation.step_index == distillation.steps
        after_step(step)
        reports = last or step % log_every == 0
        stops = distillation.processes.any(stop()) and not last
        saves = last or stops or step % checkpoint_every == 0
        if not (reports or saves):
            continue
        distillation.check()  # a diverged state is neither saved nor reported
        if checkpoints is not None:
            checkpoints.notice()
        if saves and checkpoints is not None:
            checkpoints.save(distillation)
        if stops:
            raise Stopped(step)
        if reports:
            metrics = means.read(distillation.processes) | distillation.prepare()
            if check.patience:
                metrics["skipped"] = check.skipped - skipped
            speed = (step - before) / max(time.perf_counter() - begun, 1e-9)
            sections = distillation.time.read()
            yield Report(
                step=step,
                steps=distillation.steps,
                metrics=metrics,
                steps_per_second=speed,
                samples_per_second=speed * distillation.batch,
                seconds={name: total / (step - before) for name, total in sections.items()},
                memory_peak=_memory_peak(distillation.device),
            )
            means, begun, before = _Means(), time.perf_counter(), step
            skipped = check.skipped


def _memory_peak(device: str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest
