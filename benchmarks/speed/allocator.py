"""What keeping freed memory is worth: steps and samples with it and without, in turn.

    python benchmarks/speed/allocator.py [--case digits] [--case S/2@128] [--rounds 5]

Each measurement has a process of its own, since a C library that was told once does not go back to
learning by itself: `without` is glibc as every script has it. Time ÷ time, a round being a process
of either kind (ratio.py).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import click
from cases import distillation
from ratio import Ratio
from sampling import sampler
from timing import in_turn, machine, own_process, table

from ffcore.system.allocator import keep_freed_memory

STEPS = {"digits": 40, "S/2@128": 4}


def measure(case: str, what: str, kept: bool) -> None:
    """Print the median seconds of a step, or of a batch of 64 samples."""
    work: Callable[[], object]
    if what == "step":
        work = distillation(case, *(["training.batch=16"] if "@" in case else [])).step
    else:
        images = sampler(case)
        work = partial(images.images, images.request(10**6), 0, 64)
    with keep_freed_memory() if kept else nullcontext():
        print(statistics.median(in_turn({what: work}, STEPS[case], warm=2)[what]))


@click.command()
@click.option("--case", "cases", multiple=True, default=tuple(STEPS))
@click.option("--rounds", default=5, show_default=True)
@click.option("--measure", "measured", type=(str, str, bool), hidden=True)
def main(cases: tuple[str, ...], rounds: int, measured: tuple[str, str, bool] | None) -> None:
    """Measure, and print a table."""
    if measured:
        measure(*measured)
        return
    print(f"# Freed memory that is kept\n\n{machine()}. Time without ÷ time with it.\n")
    row = table("", "a step", "64 samples")
    for case in cases:
        ratios = []
        for what in ("step", "samples"):
            taken: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(rounds):
                for kept, each in taken.items():
                    each.append(own_process(__file__, "--measure", case, what, str(kept)))
            ratios.append(Ratio.of(taken[False], taken[True]))
        row(case, *(f"**{each:.2f}**" for each in ratios))


if __name__ == "__main__":
    main()
