"""Alarms while a run trains: runs that deserve one, and healthy ones.

    python benchmarks/science/alarms.py [--runs runs/alarms] [--seed 1]

Each run is small and uses one thread. The deserving ones are spoilt in one way: an online network
that stands still, a student that learns too slowly or is too small (for its pairs, too), a
corrector that takes over without having learnt anything, a coarse solver. Prints which alarms each
run raised, and how many of the deserving and of the healthy runs raised the expected alarm, another
one, or none. About 8 minutes on one CPU core. The thresholds were set on runs with seed 0; another
seed is the test.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import attrs
import click
import torch

from ffcore.recipe import load_recipe
from ffcore.run.directory import ALARMS, RunDirectory
from ffcore.run.stages import run

COMMON = (
    "training.threads=1",
    "training.log_every=20",
    "evaluation.previews=0",
)
VECTORS = ("evaluation.samples=1000", "evaluation.every=100")


def mixture(means: Sequence[tuple[float, float]], scale: float, labels: Sequence[int] = ()) -> str:
    """Return the override that makes the teacher a mixture of Gaussians."""
    table = f'teacher={{type="mixture", means={[list(each) for each in means]}, scale={scale}'
    return table + (f", labels={[*labels]}}}" if labels else "}")


def around(count: int, radius: float, turn: float = 1.0) -> list[tuple[float, float]]:
    """Return points on an arc of `turn` full turns around 0."""
    angles = (2 * math.pi * turn * index / count for index in range(count))
    return [(round(radius * math.cos(a), 4), round(radius * math.sin(a), 4)) for a in angles]


RING = mixture(around(8, 2.0), 0.15)
_UPPER = around(20, 1.0, 0.5)
MOONS = mixture([*_UPPER, *((1 - x, 0.5 - y) for x, y in _UPPER)], 0.07, [0] * 20 + [1] * 20)
SPIRAL = mixture(
    [
        (round(sign * r * math.cos(4 * r), 4), round(sign * r * math.sin(4 * r), 4))
        for sign in (1, -1)
        for r in (0.3 + 0.1 * index for index in range(18))
    ],
    0.08,
)


@attrs.frozen
class Case:
    """A run, and the alarms of which it deserves one; none for a healthy run."""

    name: str
    recipe: str
    overrides: tuple[str, ...]
    deserves: frozenset[str] = frozenset()


LONG = frozenset({"gap_to_0.5", "gap_to_0.75", "gap_to_1"})
ALONE = ("training.steps=1000", *VECTORS)
PAIRS = ("corrector=none", 'predictor={type="pairs"}')
CASES = (
    Case("gaussian", "gaussian.toml", VECTORS),
    Case("mixture", "mixture.toml", VECTORS),
    Case("ring", "gaussian.toml", (RING, *ALONE)),
    Case("moons", "gaussian.toml", (MOONS, *ALONE)),
    Case("spiral", "gaussian.toml", (SPIRAL, *ALONE)),
    Case("digits, 400 steps", "digits.toml", ("training.steps=400", "evaluation.every=50")),
    Case(
        "digits_meanflow, 400 steps",
        "digits_meanflow.toml",
        ("training.steps=400", "evaluation.every=50", "evaluation.student_steps=[1]"),
    ),
    Case(
        "own g_ψ stands still",
        "gaussian.toml",
        (
            'corrector={type="vsd", online={type="mlp"}, online_optimizer={learning_rate=1e-6}}',
            "balancer.alpha=0.1",
            *VECTORS,
        ),
        frozenset({"online_excess"}),
    ),
    Case(
        "own g_ψ stands still, mixture",
        "mixture.toml",
        ("corrector.online_optimizer.learning_rate=1e-6", *VECTORS),
        frozenset({"online_excess"}),
    ),
    Case(
        "copied g_ψ stands still",
        "digits.toml",
        (
            "predictor=none",
            "corrector.online_optimizer.learning_rate=1e-7",
            "training.steps=160",
            "evaluation.enabled=false",
            "training.log_every=5",
        ),
        frozenset({"online_slope"}),
    ),
    Case(
        "corrector takes over untrained",
        "mixture.toml",
        (
            "balancer.correction=1.0",
            "balancer.correction_from=300",
            "corrector.online_optimizer.learning_rate=1e-6",
            "training.steps=600",
            "evaluation.samples=1000",
            "evaluation.every=50",
        ),
        frozenset({"measure/coverage", "measure/class"}),
    ),
    Case(
        "student too slow",
        "gaussian.toml",
        (RING, *ALONE, "optimizer.learning_rate=1e-5"),
        LONG,
    ),
    Case(
        "student too small",
        "gaussian.toml",
        (RING, *ALONE, "student.width=4", "student.depth=1"),
        LONG,
    ),
    Case("fits its pairs", "gaussian.toml", (RING, *ALONE, *PAIRS)),
    Case(
        "too small for its pairs",
        "gaussian.toml",
        (RING, *ALONE, *PAIRS, "student.width=4", "student.depth=1"),
        frozenset({"pairs_error"}),
    ),
    Case(
        "coarse solver",
        "gaussian.toml",
        ("evaluation.solver.steps=2", *VECTORS),
        frozenset({"solver"}),
    ),
)


def outcome(case: Case, raised: set[str]) -> str:
    """Return what became of a case: a row of the table."""
    if not case.deserves:
        return "false alarm" if raised else "none, as it should be"
    if not raised & case.deserves:
        return "another alarm" if raised else "missed"
    return "raised" if raised <= case.deserves else "raised, and another"


@click.command()
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/alarms"))
@click.option("--seed", default=1, help="Seed of training.")
@click.option("--only", default="", help="Part of the names of the cases to run.")
def main(runs: Path, seed: int, only: str) -> None:
    """Make the runs and print the table and the counts."""
    torch.set_num_threads(1)
    counts: dict[tuple[str, str], int] = {}
    click.echo("| run | deserves | raised (step) | |\n|---|---|---|---|")
    for index, case in enumerate(CASES):
        if only not in case.name:
            continue
        place = runs / f"{index:02d}"
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        run(load_recipe(case.recipe, [*COMMON, *case.overrides, f"training.seed={seed}"]), place)
        found = RunDirectory(place).history(ALARMS)
        (place.parent / f"{index:02d}.json").write_text(json.dumps([case.name, found], indent=2))
        end = outcome(case, {each["name"] for each in found})
        told = ", ".join(f"{each['name']} ({each['step']})" for each in found) or "–"
        wanted = " or ".join(sorted(case.deserves)) or "–"
        click.echo(f"| {case.name} | {wanted} | {told} | {end} |")
        kind = "deserving" if case.deserves else "healthy"
        counts[kind, end] = counts.get((kind, end), 0) + 1
    click.echo("")
    for (kind, end), number in counts.items():
        click.echo(f"{kind}: {number} {end}")


if __name__ == "__main__":
    main()
