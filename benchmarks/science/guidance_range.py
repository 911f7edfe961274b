"""One student for every guidance scale: does it move along γ, as its teacher does?

    python benchmarks/science/guidance_range.py [--directory runs/digits_guided] [--scales 1,2,4]

Distils recipes/digits_guided.toml (or takes the finished run in the directory), samples the student
at each scale γ, and the teacher guided at each scale. Prints, in classifier features, the Fréchet
distance of the student at γ (row) to the teacher at γ′ (column), which should be least on the
diagonal, and how many samples of each are read as the class that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import click
import torch
from torch import Tensor

from ffcore.evaluate.measure import feature_statistics
from ffcore.evaluate.metrics import Statistics, frechet_distance
from ffcore.evaluate.prior import Drawn
from ffcore.export import STUDENT, load_student
from ffcore.flow.flow_map import generate
from ffcore.flow.ode import integrate
from ffcore.interfaces import Condition
from ffcore.recipe import load_recipe
from ffcore.run.build import build
from ffcore.run.stages import run
from ffcore_digits.classifier import DigitFeatures

Sampler = Callable[[Tensor, Condition], Tensor]


@click.command()
@click.option("--recipe", default="digits_guided.toml")
@click.option("--directory", default="runs/digits_guided", type=click.Path(path_type=Path))
@click.option("--scales", default="1,2,4", help="Scales γ, all within the recipe's range.")
@click.option("--set", "overrides", multiple=True, help="Override a key of the recipe.")
def main(recipe: str, directory: Path, scales: str, overrides: tuple[str, ...]) -> None:
    """Distil if need be, then measure student and teacher at each scale."""
    resolved = load_recipe(recipe, overrides)
    torch.set_num_threads(1)
    if not (directory / STUDENT).exists():
        run(resolved, directory)
    built, student = build(resolved), load_student(directory)
    teacher = built.distillation.teacher
    (features,) = built.evaluator.features
    assert isinstance(features, DigitFeatures)

    def measured(sampler: Sampler, scale: float, purpose: str) -> tuple[Statistics, float]:
        measurement = attrs.evolve(built.evaluator.measurement, guidance=scale)
        right = []

        def watched(z: Tensor, condition: Condition) -> Tensor:
            samples = sampler(z, condition)
            assert condition.label is not None
            right.append((features.classify(samples) == condition.label).double())
            return samples

        found = feature_statistics(Drawn(watched, teacher, measurement, purpose), [features])
        return found[features.name], float(torch.cat(right).mean())

    gammas = [float(each) for each in scales.split(",")]
    solver = built.evaluator.measurement.solver
    exact = {
        gamma: measured(lambda z, c: integrate(teacher, z, c, solver), gamma, "reference")
        for gamma in gammas
    }
    ours = {
        gamma: measured(lambda z, c: generate(student, z, c), gamma, "student") for gamma in gammas
    }
    columns = " ".join(f"{f'γ = {gamma:g}':>8}" for gamma in gammas)
    click.echo(f"{'':6} class accuracy     FD to the teacher at")
    click.echo(f"{'γ':>6} {'student':>8} {'teacher':>8} {columns}")
    for gamma in gammas:
        (statistics, read), (_, teachers) = ours[gamma], exact[gamma]
        distances = (frechet_distance(statistics, exact[other][0]) for other in gammas)
        row = " ".join(f"{distance:8.3f}" for distance in distances)
        click.echo(f"{gamma:6g} {read:8.4f} {teachers:8.4f} {row}")


if __name__ == "__main__":
    main()
