"""Two processes against one, one thread each and the same work per process; where the rest goes.

    torchrun --nproc-per-node 2 benchmarks/speed/scaling.py [--rounds 15] [--set KEY=VALUE]

Interleaved in one run, a step each: alone, one process by itself while the other waits; beside,
both by themselves at once, which share the machine and nothing else; and together, on one batch of
twice the size, by each strategy. Prints medians of the slower process, their quartiles, and the
throughput in units of one process alone in the same round (2 would be all of it), as ratio.py has
it. What "beside" loses is the machine's, what "together" loses beyond it is communication and
waiting.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import get_args

import torch
from ratio import Ratio

from ffcore.recipe import load_recipe
from ffcore.run.build import build
from ffcore.system.distributed import Processes, join_processes
from ffcore.training.distillation import Distillation
from ffcore.training.parallelize import Strategy


def distillation(recipe: str, batch: int, overrides: list[str]) -> Distillation:
    """Build the networks of a recipe, to be trained on `batch` samples at a time."""
    return build(load_recipe(recipe, [f"training.batch={batch}", *overrides])).distillation


def seconds(processes: Processes, work: Callable[[], object], *, all_work: bool) -> float:
    """Return how long `work` takes the slowest of those that do it."""
    processes.wait()
    begun = time.perf_counter()
    if all_work or processes.leads:
        work()
    taken = time.perf_counter() - begun
    return max(processes.each(lambda: taken if all_work or processes.leads else 0.0))


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="digits.toml")
    parser.add_argument("--batch", type=int, default=64, help="samples per process")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with join_processes() as processes:
        one = distillation(asked.recipe, asked.batch, asked.overrides)
        ways: dict[str, tuple[Callable[[], object], bool, int]] = {
            "alone": (one.step, False, 1),
            "beside": (one.step, True, 2),
        }
        for strategy in get_args(Strategy):
            run = distillation(asked.recipe, processes.size * asked.batch, asked.overrides)
            run.parallelize(processes, strategy)
            ways[f"together, {strategy}"] = (run.step, True, 2)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(asked.rounds + 2):
            for name, (work, all_work, _) in ways.items():
                taken[name].append(seconds(processes, work, all_work=all_work))
        if not processes.leads:
            return
        print(f"{'':16}{'ms a step':>12}{'quartiles':>18}  throughput")
        for name, each in taken.items():
            low, middle, high = statistics.quantiles(each[2:], n=4)
            processes_at_work = ways[name][2]
            alone = [processes_at_work * one for one in taken["alone"][2:]]
            print(
                f"{name:16}{1e3 * middle:12.1f}{f'{1e3 * low:.1f} to {1e3 * high:.1f}':>18}"
                f"  {Ratio.of(alone, each[2:]):.2f}"
            )


if __name__ == "__main__":
    main()
