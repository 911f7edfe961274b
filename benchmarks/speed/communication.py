"""What one training step sends between processes, counted: each collective and its bytes.

    torchrun --nproc-per-node 2 benchmarks/speed/communication.py [--model S/2] [--set KEY=VALUE]

Counts what the profiler sees of torch.distributed in one step, on CPUs through gloo: who sends what
does not depend on that. The networks are untrained. Of a message of b bytes, each of N processes
sends 2 (N − 1) / N · b where it is reduced for all of them (a ring), (N − 1) / N · b where it is
gathered or scattered. Prints the bytes beside those of the student's parameters, the unit in which
they stay the same for every size of network; docs/parallel.md turns them into seconds.
"""

from __future__ import annotations

import argparse
import math
import os
from collections import Counter
from typing import Any, get_args

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ffcore.recipe import load_recipe
from ffcore.run.build import build
from ffcore.system import distributed as parallel
from ffcore.training.parallelize import Strategy

MESSAGES = {
    "gloo:all_reduce": "all-reduce",
    "c10d::_allgather_base_": "all-gather",
    "c10d::_reduce_scatter_base_": "reduce-scatter",
}
RINGS = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}
"""How often (N − 1) / N of a message passes each process."""
FLOAT = 4  # bytes


def numbers(network: nn.Module) -> int:
    """Return how many numbers a network's parameters are."""
    return sum(each.numel() for each in network.parameters())


def largest(shapes: Any) -> int:
    """Return the numbers in the largest tensor of an event's inputs: the whole message."""
    if shapes and all(isinstance(each, int) for each in shapes):
        return math.prod(shapes)
    return max((largest(each) for each in shapes), default=0)


def counted(recipe: Any, processes: parallel.Processes, strategy: Strategy) -> None:
    """Print what one step sends."""
    run = build(recipe).distillation
    student, online = run.student, run.auxiliaries["online"].network
    sizes = {"student": numbers(student), "teacher": numbers(run.teacher), "g_ψ": numbers(online)}
    run.parallelize(
        processes, strategy, activation_checkpointing=recipe.parallel.activation_checkpointing
    )
    run.step()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        run.step()
    sent: Counter[str] = Counter()
    messages: Counter[str] = Counter()
    for event in seen.events():
        if event.name in MESSAGES:
            kind = MESSAGES[event.name]
            messages[kind] += 1
            sent[kind] += FLOAT * largest(event.input_shapes)
    for each in (messages, sent):  # gloo scatters what it has reduced for all
        each["all-reduce"] -= each["reduce-scatter"]
    if not processes.leads:
        return
    unit = FLOAT * sizes["student"]
    print(f"\n{strategy}: " + ", ".join(f"{name} {size:,}" for name, size in sizes.items()))
    print(f"{'':16}{'messages':>10}{'MB':>12}{'× student':>12}{'passing × N/(N−1)':>20}")
    for kind, size in sent.items():
        passing = RINGS[kind] * size / unit
        print(f"{kind:16}{messages[kind]:10}{size / 1e6:12.2f}{size / unit:12.2f}{passing:20.2f}")


def main() -> None:
    """Count, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="S/2")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    asked = parser.parse_args()
    small = [f"teacher.model={asked.model}", "teacher.weights=none", "training.batch=16"]
    small += ["decoder.type=identity", "training.device=cpu"]
    torch.set_num_threads(1)
    os.environ.setdefault("WORLD_SIZE", "1")
    with parallel.join_processes() as processes:
        recipe = load_recipe("sit_b_256.toml", [*small, *asked.overrides])
        for strategy in get_args(Strategy):
            counted(recipe, processes, strategy)


if __name__ == "__main__":
    main()
