"""FreeFlow beside the obvious baseline, regression on solved pairs.

    python benchmarks/science/pairs.py [--out benchmarks/science/pairs.jsonl] [--steps 3000]
                                       [TEACHER…]

For `ring` and `blobs_16d` (exact teachers, in teachers/) FreeFlow is its predictor alone with a
balancer of power 0, and the student an MLP of width 256 and depth 4. For `digits` it is
recipes/digits.toml, predictor and corrector. Pairs train the same student with the same optimizer
and batch:

- at equal evaluations of the teacher, solving included, for as many steps;
- at equal time: a quarter of FreeFlow's processor time solves pairs, the rest trains.

Three seeds each. Every run is a line of `--out`, and is not made again. Prints, for each, what one
step is worth, by the verdict and by each measure.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import attrs
import click
import torch

from ffcore.evaluate.reference import Reference
from ffcore.recipe import Recipe, load_recipe
from ffcore.run.build import build
from ffcore.training.loop import train

HERE = Path(__file__).parent
NFE = 32
"""Evaluations of the teacher for a pair: 16 Heun steps."""
OF_TIME = 0.25
"""The share of the time that solves pairs, at equal time."""
TOY = """
extends = "{teacher}"

[student]
type = "mlp"
width = 256
depth = 4

[predictor]
type = "freeflow"

[balancer]
type = "adaptive"
power = 0.0

[optimizer]
learning_rate = 2e-3
schedule = "cosine"

[training]
steps = {steps}
batch = 256
threads = 1
"""


@attrs.frozen
class Case:
    """One run."""

    teacher: str
    method: str
    """"FreeFlow", "pairs, equal evaluations" or "pairs, equal time"."""
    seed: int
    steps: int
    pairs: int = 0

    def recipe(self) -> Recipe:
        """Return what it trains."""
        overrides = [f"training.seed={self.seed}", f"training.steps={self.steps}"]
        if self.pairs:
            overrides += ["predictor={type='pairs'}", f"predictor.pairs={self.pairs}"]
            overrides += ["corrector=none"] if self.teacher == "digits" else []
        if self.teacher == "digits":
            return load_recipe("digits.toml", overrides)
        file = HERE / "teachers" / f"{self.teacher}-student.toml"
        file.write_text(TOY.format(teacher=f"{self.teacher}.toml", steps=self.steps))
        try:
            return load_recipe(file, overrides)
        finally:
            file.unlink()


class Runs:
    """The runs that there are, and a reference for each teacher."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.references: dict[str, Reference] = {}

    def of(self, case: Case) -> dict[str, Any]:
        """Return what a run found, and make it if that has not been done."""
        wanted = attrs.asdict(case)
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        for line in map(json.loads, lines):
            if wanted.items() <= line.items():
                return dict(line)
        line = wanted | self._measured(case)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return line

    def _measured(self, case: Case) -> dict[str, Any]:
        built = build(case.recipe())
        begun, solving = time.process_time(), 0.0
        for report in train(built.distillation, log_every=1_000_000):
            solving = report.metrics.get("predictor/teacher_evaluations", 0.0)
        seconds = time.process_time() - begun
        known = self.references.get(case.teacher, built.evaluator.reference)
        found, reference = built.evaluator.evaluate(built.student, known)
        self.references[case.teacher] = reference
        error = found.trajectory_error[1.0]
        assert error is not None
        return {
            "seconds": round(seconds, 1),
            "evaluations": round(solving) or case.steps * built.distillation.batch,
            "verdict": found.verdict[1].sentence,
            "low": found.verdict[1].low,
            "high": found.verdict[1].high,
            "measures": {
                f"{space} {name}": each.student[1].value
                for space, measures in found.measures.items()
                for name, each in measures.items()
            },
            "trajectory_error": error.value,
        }


def cases(runs: Runs, teacher: str, steps: int, seed: int) -> list[Case]:
    """Return the three runs of a teacher and a seed; times are those of the first seed."""
    free = Case(teacher, "FreeFlow", seed, steps)
    first = runs.of(attrs.evolve(free, seed=0))
    equal = Case(teacher, "pairs, equal evaluations", seed, steps, first["evaluations"] // NFE)
    told = runs.of(attrs.evolve(equal, seed=0))
    # How long a step and a pair take, from two runs of different sizes.
    short = runs.of(Case(teacher, "pairs, for the time of a step", 0, steps // 10, equal.pairs))
    step = (told["seconds"] - short["seconds"]) / (steps - steps // 10)
    pair = max((told["seconds"] - step * steps) / equal.pairs, 1e-9)
    within = first["seconds"]
    pairs = max(100, round(OF_TIME * within / pair, -2))
    longer = round((1 - OF_TIME) * within / step, -1)
    return [free, equal, Case(teacher, "pairs, equal time", seed, int(longer), int(pairs))]


@click.command()
@click.argument("teachers", nargs=-1)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("benchmarks/science/pairs.jsonl")
)
@click.option("--steps", default=3000, help="Steps of FreeFlow on the exact teachers.")
def main(teachers: tuple[str, ...], out: Path, steps: int) -> None:
    """Compare FreeFlow with regression on solved pairs."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    runs = Runs(out)
    click.echo("| teacher | method | steps | pairs | evaluations | seconds | one step is worth |")
    click.echo("|---|---|---|---|---|---|---|")
    for teacher in teachers or ("ring", "blobs_16d", "digits"):
        for seed in range(3):
            for case in cases(runs, teacher, 1000 if teacher == "digits" else steps, seed):
                line = runs.of(case)
                click.echo(
                    f"| {teacher} | {case.method} | {case.steps} | {case.pairs or ''} | "
                    f"{line['evaluations']} | {line['seconds']:.0f} | {line['verdict']} |"
                )


if __name__ == "__main__":
    main()
