"""How a training step's time grows with batch, width, depth and tokens.

    python benchmarks/speed/growth.py [--rounds 5] [--threads 2]

FreeFlow's step with guidance on networks of random weights. One of the four grows while the others
stand at a batch of 8, a width of 256, a depth of 4 and 64 tokens; a row's sizes take turns. The
exponent is the slope of log time against log size, in each round and then as ratio.py has it;
beside it is that of the multiplications of a forward, 24 N D² + 4 N² D + 12 D² in each block for N
tokens of width D, at the same sizes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import click
import torch
from cases import of_size
from ratio import Ratio
from timing import in_turn, machine, table

from ffcore.system.allocator import keep_freed_memory

BASE = {"batch": 8, "width": 256, "depth": 4, "tokens": 64}
GROWN = {
    "batch": (4, 8, 16, 32),
    "width": (128, 256, 512),
    "depth": (2, 4, 8, 16),
    "tokens": (16, 64, 256),
}


def step(batch: int, width: int, depth: int, tokens: int) -> Callable[[], object]:
    """Return a training step."""
    batches = f"training.batch={batch}"
    return of_size(2 * math.isqrt(tokens), width, depth, width // 64, batches).step


def work(batch: int, width: int, depth: int, tokens: int) -> float:
    """Return the multiplications of a forward, up to a factor."""
    per_block = 24 * tokens * width**2 + 4 * tokens**2 * width + 12 * width**2
    return batch * depth * per_block


def slope(sizes: tuple[int, ...], values: Sequence[float]) -> float:
    """Return the slope of log value against log size, by least squares."""
    x, y = (torch.tensor(each, dtype=torch.float64).log() for each in (sizes, values))
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", type=int, help="CPU threads; without it, torch's own choice.")
def main(rounds: int, threads: int | None) -> None:
    """Measure, and print a table."""
    if threads:
        torch.set_num_threads(threads)
    print(f"# How a step's time grows\n\nfloat32, {machine()}; elsewhere {BASE}.\n")
    row = table("", "sizes", "ms", "exponent", "of the work")
    for name, sizes in GROWN.items():
        made = {size: {**BASE, name: size} for size in sizes}
        with keep_freed_memory():
            taken = in_turn({str(size): step(**each) for size, each in made.items()}, rounds)
        times = list(zip(*(taken[str(size)] for size in sizes), strict=True))
        exponent = Ratio(tuple(slope(sizes, each) for each in times))
        row(
            name,
            ", ".join(map(str, sizes)),
            ", ".join(f"{1e3 * statistics.median(taken[str(size)]):.0f}" for size in sizes),
            f"**{exponent:.2f}**",
            f"{slope(sizes, [work(**each) for each in made.values()]):.2f}",
        )


if __name__ == "__main__":
    main()
