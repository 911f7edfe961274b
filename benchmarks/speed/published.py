"""What training costs at the size of published models, with random weights.

    python benchmarks/speed/published.py --peak 989 [--recipe sit_b_256.toml] …
                                   [--steps 300] [--set training.batch=64] …

For each recipe, in bfloat16, compiled, with recomputed activations, unless `--set` says otherwise:
steps and images per second and where a step goes, over all but the first tenth of the steps, which
warms up; the most memory; and model FLOP utilisation: the FLOPs of `ffd run --dry-run`, which
count nothing twice that is recomputed, per second, of the `--peak` in TFLOP/s (an H100 or H200:
989, dense bfloat16).
"""

from __future__ import annotations

import statistics

import click
import torch
from timing import wake

from ffcore.cost import Cost
from ffcore.recipe import load_recipe
from ffcore.run.build import build
from ffcore.system.distributed import Processes
from ffcore.training.loop import Report, train

RANDOM = (
    "teacher.weights='none'",
    "decoder={type='identity'}",
    "evaluation.features=[]",
    "training.precision='bfloat16'",
    "training.compile=true",
    "parallel.activation_checkpointing=true",
)


def measured(name: str, overrides: tuple[str, ...], steps: int) -> tuple[list[Report], Cost]:
    """Train for some steps; return ten reports, and what a step costs by counting."""
    recipe = load_recipe(name, [*RANDOM, f"training.steps={steps}", *overrides])
    run = build(recipe).distillation
    for sentence in run.self_check():
        click.echo(sentence, err=True)
    wake(run.teacher, run.student, spread=0.02)
    run.parallelize(
        Processes(),
        activation_checkpointing=recipe.parallel.activation_checkpointing,
        compiled=recipe.training.compile,
    )
    reports = []
    for report in train(run, log_every=max(1, steps // 10)):
        click.echo(f"{name}: step {report.step} of {steps}", err=True)
        reports.append(report)
    return reports, Cost.of(recipe, 1)


@click.command()
@click.option("--recipe", "recipes", multiple=True, default=("sit_b_256.toml", "sit_xl_256.toml"))
@click.option("--steps", default=300)
@click.option("--peak", type=float, help="Of the device, in TFLOP/s; without it, no utilisation.")
@click.option("--set", "overrides", multiple=True)
def main(
    recipes: tuple[str, ...], steps: int, peak: float | None, overrides: tuple[str, ...]
) -> None:
    """Measure, and print a row for each recipe."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    click.echo(f"{name}, torch {torch.__version__}\n")
    click.echo("| recipe | batch | steps/s | images/s | memory, GiB | utilisation | of a step |")
    click.echo("|---|---|---|---|---|---|---|")
    for recipe in recipes:
        reports, cost = measured(recipe, overrides, steps)
        warm = reports[1:] or reports
        speed = statistics.median(each.steps_per_second for each in warm)
        losses = [each.metrics["loss"] for each in reports]
        click.echo(f"{recipe}: loss {losses[0]:.4f}, at the end {losses[-1]:.4f}", err=True)
        parts = ", ".join(
            f"{part} {seconds * warm[-1].steps_per_second:.0%}"
            for part, seconds in warm[-1].seconds.items()
        )
        used = "" if peak is None else f"{cost.flops * speed / peak / 1e12:.1%}"
        memory = max(each.memory_peak for each in reports) / 2**30
        click.echo(
            f"| {recipe} | {cost.batch} | {speed:.3g} | {speed * cost.batch:.3g} | {memory:.1f} "
            f"| {used} | {parts} |"
        )


if __name__ == "__main__":
    main()
