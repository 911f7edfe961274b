"""What a checkpoint costs at the size of B/2: bytes, the stall of training, the time to the disk.

    python benchmarks/speed/checkpoint.py [folder to write into]

The tensors are those of a run that distils SiT-B/2 with an online network: student, average,
online network, and AdamW's moments of two of them, in float32 on the CPU. Between checkpoints a
stand-in for training computes products of matrices, and its slowest turn while a checkpoint is
being written is compared with one without. Medians of several; the first checkpoint, which asks
the system for the memory of the copy, stands apart.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ffcore.recipe import load_recipe
from ffcore.run.build import build
from ffcore.training.checkpoint import Checkpoints
from ffcore.training.checkpoint.contents import not_finite, tensors_of
from ffcore.training.distillation import Distillation

REPEATS = 3
B2 = (
    "teacher.weights='none'",
    "decoder={type='identity'}",
    "evaluation.features=[]",
    "evaluation.enabled=false",
    "training.device='cpu'",
)


def distillation() -> Distillation:
    """Return a distillation of random weights at the size of B/2, its moments filled."""
    found = build(load_recipe("sit_b_256.toml", B2)).distillation
    for tensor in tensors_of(found).values():
        if tensor.is_floating_point():
            tensor.normal_()
    return found


def turn() -> float:
    """Return how long a turn of the stand-in for training takes, in seconds."""
    begun = time.perf_counter()
    for _ in range(20):
        MATRIX @ MATRIX
    return time.perf_counter() - begun


MATRIX = torch.randn(512, 512)


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """Do what the module says."""
    torch.set_num_threads(1)
    run = distillation()
    held = sum(each.nbytes for each in tensors_of(run).values())
    print(f"{len(tensors_of(run))} tensors, {held / 1e9:.2f} GB")
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        checkpoints = Checkpoints(Path(folder) / "c", keep_last=1)
        stalls, totals, turns, quiet = [], [], [], []
        for index in range(REPEATS + 1):
            run.step_index = index
            quiet += [turn() for _ in range(50)]
            begun = time.perf_counter()
            stalls.append(seconds(lambda: checkpoints.save(run)))
            while not checkpoints.done:
                turns.append(turn())
            checkpoints.wait()
            totals.append(time.perf_counter() - begun)
        newest = Path(folder) / "c" / f"step-{REPEATS:08d}"
        size = sum(each.stat().st_size for each in newest.iterdir())
        found = checkpoints.newest()
        assert found is not None
        verified = seconds(checkpoints.newest)
        restored = seconds(lambda: checkpoints.restore(found, run))
    stall, checking = (
        statistics.median(stalls[1:]),
        statistics.median([seconds(lambda: not_finite(run)) for _ in range(5)]),
    )
    print(f"bytes on the disk       {size:,}")
    print(f"stall, first            {stalls[0]:.2f} s")
    print(f"stall, median           {stall:.2f} s, {held / stall / 1e9:.1f} GB/s")
    print(f"  of it, is all finite  {checking:.2f} s")
    print(f"until renamed, median   {statistics.median(totals[1:]):.2f} s")
    for name, times in {"without": quiet, "while writing": turns}.items():
        middle, high = statistics.median(times), statistics.quantiles(times, n=100)[-1]
        print(f"a turn of training      {middle * 1e3:.1f} ms, 99 % below {high * 1e3:.1f}, {name}")
    print(f"SHA-256 on resume       {verified:.2f} s, reading {restored:.2f} s")


if __name__ == "__main__":
    main()
