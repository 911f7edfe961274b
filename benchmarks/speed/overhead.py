"""What being told costs: steps of the digits recipe with everything on, against bare steps.

    python benchmarks/speed/overhead.py [reports, 60 unless told otherwise]

On: the training loop with a report each 50 steps, which is written to metrics.jsonl, shown on a bar
as a terminal gets it, and handed to TensorBoard and to wandb (offline); with the sections of each
step timed. Off: `Distillation.step` alone, no section timed. The two take turns step by step in one
process, so that whatever else the machine does meets both. What runs beside them, the bar's thread
and the trackers', meets both too, and is told apart: as CPU time per second. wandb's own process is
not counted.

A ratio is of sums over all steps, its interval from resampled stretches of 50 steps.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TextIO

import torch
from rich.console import Console
from torch import Tensor

from ffcore.cli.bars import Bars
from ffcore.cli.run import Observer
from ffcore.interfaces import Context
from ffcore.recipe import Recipe, load_recipe, to_toml
from ffcore.run.build import build
from ffcore.run.directory import METRICS, RunDirectory
from ffcore.run.tracking import Tracking
from ffcore.training.distillation import Distillation
from ffcore.training.loop import Report, train
from ffcore.training.stopwatch import Stopwatch

STRETCH = 50
"""Steps between two reports, the recipe's default."""
TRACKERS = "trackers=[{type='tensorboard'}, {type='wandb', mode='offline'}]"
CLOCKS = {"wall": time.perf_counter, "CPU of the main thread": time.thread_time}


class Idle(Stopwatch):
    """A stopwatch that is never started."""

    def __call__(self, name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """Do nothing."""
        del name
        return nullcontext()


def now() -> Tensor:
    """Return what each clock shows, in seconds."""
    return torch.tensor([clock() for clock in CLOCKS.values()], dtype=torch.float64)


class Bare:
    """Makes a bare step after each step of the training loop, which asks it whether to stop."""

    def __init__(self, distillation: Distillation) -> None:
        self.distillation = distillation
        self.took = torch.zeros(len(CLOCKS), dtype=torch.float64)

    def __call__(self) -> bool:
        """Make a step; do not stop."""
        begun = now()
        self.distillation.step()
        self.took += now() - begun
        return False


def teller(
    recipe: Recipe, folder: Path, screen: TextIO, stack: ExitStack
) -> Callable[[Report], None]:
    """Return what tells a report to all who can be told."""
    bars = stack.enter_context(Bars(Console(file=screen, force_terminal=True, width=80)))
    telling = Observer(bars)
    tree = tomllib.loads(to_toml(recipe))
    tracking = stack.enter_context(Tracking(folder / "tracking", "overhead", tree, print))
    tracking.add((type(each).__name__, each.build(Context())) for each in recipe.trackers)
    tracking.begin(0)

    def tell(report: Report) -> None:
        RunDirectory(folder).append(METRICS, {"step": report.step, **report.numbers})
        tracking.track(report.step, report.numbers)
        telling.report(report)

    return tell


def measure(reports: int, folder: Path) -> tuple[Tensor, Tensor, float]:
    """Return seconds on and off, Float[reports, clock], and CPU per second of all other threads.

    A first stretch, which warms up, is left out.
    """
    steps = f"training.steps={STRETCH * (reports + 1)}"
    recipe = load_recipe("digits.toml", [TRACKERS, steps, f"training.log_every={STRETCH}"])
    bare = Bare(build(recipe).distillation)
    bare.distillation.time = Idle()
    rows = []
    with Path(os.devnull).open("w") as screen, ExitStack() as stack:
        tell = teller(recipe, folder, screen, stack)
        loop = train(build(recipe).distillation, log_every=STRETCH, stop=bare)
        for _ in range(reports + 1):
            bare.took.zero_()
            begun, all_threads = now(), time.process_time()
            tell(next(loop))
            whole = now() - begun
            others = time.process_time() - all_threads - float(whole[1])
            rows.append([whole - bare.took, bare.took.clone(), torch.tensor([others, whole[0]])])
    on, off, beside = (torch.stack(each[1:]) for each in zip(*rows, strict=True))
    return on, off, float(beside[:, 0].sum() / beside[:, 1].sum())


def interval(on: Tensor, off: Tensor) -> tuple[float, float]:
    """Return the middle 95 % of the ratio of sums over resampled stretches."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(on), (5000, len(on)), generator=generator)
    ratios = on[chosen].sum(1) / off[chosen].sum(1)
    low, high = ratios.quantile(torch.tensor([0.025, 0.975], dtype=ratios.dtype)).tolist()
    return low, high


def main() -> None:
    """Print a row for each clock, and what runs beside."""
    reports = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    torch.set_num_threads(1)  # as the recipe has it
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        on, off, beside = measure(reports, Path(folder))
    print(f"{reports} × {STRETCH} steps of each kind, digits.toml, 1 thread")
    print(f"{'clock':<24}{'ms a step, off':>15}{'on':>8}{'ratio':>8}{'95 %':>18}")
    for index, name in enumerate(CLOCKS):
        a, b = on[:, index], off[:, index]
        low, high = interval(a, b)
        print(
            f"{name:<24}{1000 / STRETCH * b.mean():>15.2f}{1000 / STRETCH * a.mean():>8.2f}"
            f"{a.sum() / b.sum():>8.4f}{f'{low:.4f} to {high:.4f}':>18}"
        )
    print(f"threads beside: {1000 * beside:.1f} ms of CPU per second")


if __name__ == "__main__":
    main()
