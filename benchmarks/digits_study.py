"""What matters on the digits: the recipe with one thing changed at a time.

    python benchmarks/digits_study.py [--steps 600] [--only NAME …] [--out study.json]

Each variant distils by recipes/digits.toml, cut to `--steps`, and prints the Fréchet distances of
the student's one step to the teacher in both feature spaces, the trajectory error at δ = 1, and the
seconds of the whole run. About a minute for each variant on 2 CPU cores.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import click

from ffcore.recipe import load_recipe
from ffcore.run import run

RATES = ("optimizer.learning_rate={}", "corrector.online_optimizer.learning_rate={}")


def variants(steps: int) -> dict[str, list[str]]:
    """Return the overrides of each variant."""
    return {
        "recipe": [],
        "other seed": ["training.seed=1"],
        "predictor alone": ["corrector=none"],
        "corrector alone": ["predictor=none"],
        "correction from a third on": [f"balancer.correction_from={steps // 3}"],
        "correction 10 % of the batch": ["balancer.correction=0.1"],
        "correction 50 % of the batch": ["balancer.correction=0.5"],
        "α = 0.3": ["balancer.alpha=0.3"],
        "α = 3": ["balancer.alpha=3.0"],
        "k = 0": ["balancer.power=0.0"],
        "k = 0.5": ["balancer.power=0.5"],
        "weight ε = 0.001": ["balancer.weight_epsilon=1e-3"],
        "weight ε = 0.01": ["balancer.weight_epsilon=1e-2"],
        "λ on raw gaps": ["balancer.lambda_on=raw"],
        "start: teacher at its own time": ["student.start=teacher-time"],
        "derivative: jvp": ["predictor.derivative=jvp"],
        "δ = 1 for a fifth": ["predictor.delta.at_one=0.2"],
        "r uniform": ["corrector.r.law=uniform"],
        "2 updates of g_ψ a step": ["corrector.online_updates=2"],
        "both learning rates doubled": [rate.format(2e-3) for rate in RATES],
        "both learning rates halved": [rate.format(5e-4) for rate in RATES],
        "batch 128, half the steps": ["training.batch=128", f"training.steps={steps // 2}"],
        "batch 32, twice the steps": ["training.batch=32", f"training.steps={steps * 2}"],
    }


@click.command()
@click.option("--steps", default=600)
@click.option("--only", multiple=True, help="A variant to run; all by default.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the numbers go, as JSON.")
def main(steps: int, only: tuple[str, ...], out: Path | None) -> None:
    """Run the variants and print a row for each."""
    chosen = {n: o for n, o in variants(steps).items() if not only or n in only}
    rows = {}
    click.echo(f"{'variant':<34} {'digits':>8} {'raw':>8} {'δ = 1':>7} {'seconds':>8}")
    for name, overrides in chosen.items():
        recipe = load_recipe("digits.toml", [f"training.steps={steps}", *overrides])
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            found = run(recipe, Path(folder) / "run")
            seconds = time.monotonic() - begun
        assert found is not None
        rows[name] = {
            "digits": found.distances["digits"].student,
            "raw": found.distances["raw"].student,
            "trajectory": found.trajectory_error[1.0],
            "seconds": seconds,
        }
        digits, raw, trajectory, seconds = rows[name].values()
        click.echo(f"{name:<34} {digits:8.3f} {raw:8.3f} {trajectory:7.3f} {seconds:8.0f}")
        if out is not None:
            out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
