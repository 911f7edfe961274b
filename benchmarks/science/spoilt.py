"""Does the verdict find what is wrong? A good student and four spoilt ones, over ten seeds.

    python benchmarks/science/spoilt.py GOOD SHORT [--out benchmarks/science/spoilt.jsonl]
                                                   [--blur 0.1] [--label 0] [--seeds 10]

GOOD and SHORT are run directories of one teacher with classes: a student trained well, and one
trained for a tenth of the steps. From GOOD's samples come the others: blurred by a little noise; a
class replaced by its neighbour; a class without variety, from 20 noises only. Every evaluation seed
samples teacher and students anew. Prints each verdict, then how often the good student is first,
the worst of all intervals, and how often each fault is limited by a measure that should see it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import click
import torch
from torch import Tensor

from ffcore.draws import Draws
from ffcore.evaluate.distribution import MOST, Yardstick
from ffcore.evaluate.evaluator import Evaluator
from ffcore.evaluate.measure import observe
from ffcore.evaluate.pair import Pair
from ffcore.evaluate.prior import Drawn, Sampling
from ffcore.evaluate.reference import Reference
from ffcore.evaluate.verdict import Standings, Verdict, standing, verdict
from ffcore.flow.flow_map import generate
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, Context, Student

EXPECTED = {
    "short": {"frechet", "energy", "sharpness"},
    "blurred": {"sharpness"},
    "dropped": {"class", "coverage", "class_coverage"},
    "collapsed": {"class", "coverage", "class_coverage"},
}
"""The measures that should limit each spoilt student."""
VARIETY = 20
"""Different samples of the class without variety."""


def spoilt(student: Student, blur: float, label: int) -> dict[str, Sampling]:
    """Return the samplings of a student and of what is made from its samples."""
    good = partial(generate, student)
    generator = torch.Generator().manual_seed(0)

    def blurred(z: Tensor, condition: Condition) -> Tensor:
        return good(z, condition) + blur * torch.randn(z.shape, generator=generator)

    def dropped(z: Tensor, condition: Condition) -> Tensor:
        assert condition.label is not None
        other = torch.where(condition.label == label, label + 1, condition.label)
        return good(z, attrs.evolve(condition, label=other))

    def collapsed(z: Tensor, condition: Condition) -> Tensor:
        assert condition.label is not None
        few = Draws(2, 0, 0, VARIETY, "cpu").normal("few", tuple(z.shape[1:])).to(z)
        same = few[torch.arange(len(z)) % VARIETY]
        here = (condition.label == label).reshape(-1, *[1] * (z.dim() - 1))
        return good(torch.where(here, same, z), condition)

    return {"good": good, "blurred": blurred, "dropped": dropped, "collapsed": collapsed}


def judged(
    evaluator: Evaluator, reference: Reference, yardsticks: dict[str, Yardstick], make: Sampling
) -> tuple[Verdict, Standings]:
    """Return the verdict on samples."""
    samples = Drawn(make, evaluator.teacher, evaluator.measurement, "student")
    seen = observe(samples, evaluator.features)
    standings = {}
    for name, yardstick in yardsticks.items():
        found = yardstick.measures(seen[name].cloud)
        ladders = reference.ladders[name]
        standings[name] = {n: standing(n, {1: found[n]}, each) for n, each in ladders.items()}
    return verdict(standings, 1, min(evaluator.measurement.samples, MOST)), standings


@click.command()
@click.argument("good")
@click.argument("short")
@click.option("--out", type=click.Path(path_type=Path), default="benchmarks/science/spoilt.jsonl")
@click.option("--blur", default=0.1, help="Standard deviation of the blurring noise.")
@click.option("--label", default=0, help="The class that is dropped, or without variety.")
@click.option("--seeds", default=10)
@click.option("--steps", default=32, help="Heun steps of the converged teacher.")
@torch.no_grad()
def main(good: str, short: str, out: Path, blur: float, label: int, seeds: int, steps: int) -> None:
    """Judge five students of one teacher over many seeds."""
    torch.set_num_threads(1)
    pair, undertrained = Pair.open(good), Pair.open(short)
    makes: dict[str, Callable[..., Tensor]] = spoilt(pair.file.student, blur, label)
    makes["short"] = partial(generate, undertrained.file.student)
    torch.manual_seed(0)
    evaluator = Evaluator.of(pair.recipe, pair.teacher, Context(teacher=pair.teacher), "cpu")
    first = 0
    widest = 1.0
    hits = dict.fromkeys(EXPECTED, 0)
    for seed in range(seeds):
        measurement = attrs.evolve(evaluator.measurement, seed=seed, solver=Solver("heun", steps))
        here = attrs.evolve(evaluator, measurement=measurement, reference=None)
        reference = here.make_reference()
        yardsticks = {name: Yardstick(each) for name, each in reference.clouds.items()}
        places: dict[str, tuple[float, bool]] = {}
        for name, make in makes.items():
            found, standings = judged(here, reference, yardsticks, make)
            click.echo(f"seed {seed} {name:9} {found.sentence}")
            line: dict[str, Any] = {
                "teacher": Path(good).name, "blur": blur, "seed": seed, "student": name,
                **attrs.asdict(found),
                "places": {
                    f"{space} {n}": each.worth[1].text
                    for space, measures in standings.items()
                    for n, each in measures.items()
                },
            }  # fmt: skip
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            places[name] = found.high or float("inf"), found.limited_by is None
            if found.high and found.low:
                widest = max(widest, found.high / found.low)
            if name in hits:
                hits[name] += found.limited_by in EXPECTED[name]
        first += all(places["good"] > places[name] for name in EXPECTED)
    click.echo(f"the good student is first in {first} of {seeds} seeds")
    click.echo(f"the widest interval: a factor of {widest:.2f}")
    for name, count in hits.items():
        click.echo(
            f"{name}: limited by {' or '.join(sorted(EXPECTED[name]))} in {count} of {seeds}"
        )


if __name__ == "__main__":
    main()
