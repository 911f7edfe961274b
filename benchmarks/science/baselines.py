"""From data or from the teacher alone: MeanFlow beside FreeFlow on the digits.

    python benchmarks/science/baselines.py [--out runs/baselines.jsonl] [--picture PNG]
                                   [--unequal 0.5]

First, three seeds each: FreeFlow by recipes/digits.toml, and recipes/digits_meanflow.toml by data's
velocity and by the teacher's, for as many steps and for as much time (processor seconds of
training, as the first seed took). Then the teacher-data mismatch: the data are warped by an
increasing strength (`data.augment`) while the teacher stays what it is. FreeFlow opens no data, so
that its line is level.

Prints both tables and draws the second. Each run that is finished is a line of `--out`, and is not
made again. About 25 minutes on one CPU core.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import click
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ffcore.draws import Draws, epochs
from ffcore.evaluate.metrics import Statistics, frechet_distance
from ffcore.recipe import load_recipe
from ffcore.run.build import build
from ffcore.training.loop import train

STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0)
SPACES = {"digits": "classifier features", "raw": "pixels"}
SAMPLES = 5000
PICTURE = Path(__file__).parents[2] / "docs" / "images" / "mismatch.png"

METHODS: dict[str, tuple[str, tuple[str, ...]]] = {
    "FreeFlow": ("digits.toml", ()),
    "MeanFlow, data": ("digits_meanflow.toml", ()),
    "MeanFlow, teacher": ("digits_meanflow.toml", ("predictor.velocity=teacher",)),
}
"""What is trained: the recipe, and what is changed in it."""


@attrs.frozen
class Case:
    """One run."""

    method: str
    seed: int
    steps: int
    strength: float = 0.0
    unequal: float | None = None
    """Another share than the recipe's of samples whose two times differ."""

    def overrides(self) -> Iterator[str]:
        """Yield what this run changes in its method's recipe."""
        recipe, changes = METHODS[self.method]
        yield from changes
        yield from (f"training.seed={self.seed}", f"training.steps={self.steps}")
        if recipe != "digits.toml":
            yield f"data.augment={self.strength}"
            if self.unequal is not None:
                yield f"predictor.unequal={self.unequal}"
            if self.strength:
                yield "evaluation.student_steps=[1]"

    def measured(self) -> dict[str, Any]:
        """Train and evaluate; return what was found."""
        built = build(load_recipe(METHODS[self.method][0], list(self.overrides())))
        begun = time.process_time()
        for _ in train(built.distillation, log_every=self.steps):
            pass
        seconds = time.process_time() - begun
        found, _ = built.evaluator.evaluate(built.distillation.ema, built.evaluator.reference)
        steps = {
            name: {1: each.student, **each.student_steps} for name, each in found.distances.items()
        }
        error = found.trajectory_error[1.0]
        assert error is not None
        return {
            **attrs.asdict(self),
            "seconds": seconds,
            "trajectory": error.value,
            "distances": steps,
        }


@attrs.frozen
class Kept:
    """Finished runs, in a file."""

    path: Path
    unequal: float | None = None

    def of(self, case: Case) -> dict[str, Any]:
        """Return what a run found, and make it if that has not been done."""
        if case.method != "FreeFlow":
            case = attrs.evolve(case, unequal=self.unequal)
        wanted = json.loads(json.dumps(attrs.asdict(case)))
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        for line in map(json.loads, lines):
            if wanted.items() <= line.items():
                return dict(line)
        line = json.loads(json.dumps(case.measured()))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return dict(line)


def data_distances() -> dict[str, list[float]]:
    """Return how far the data themselves are from the teacher, for each strength."""
    found: dict[str, list[float]] = {name: [] for name in SPACES}
    for strength in STRENGTHS:
        built = build(load_recipe("digits_meanflow.toml", [f"data.augment={strength}"]))
        source, reference = built.distillation.data, built.evaluator.reference
        assert source is not None
        assert reference is not None
        draws = Draws(0, 0, 0, SAMPLES)
        samples, _ = source.read(epochs(0, 0, SAMPLES, len(source)), draws)
        for features in built.evaluator.features:
            with torch.no_grad():
                own = Statistics.of(features(samples))
            distance = frechet_distance(own, reference.statistics[features.name])
            found[features.name].append(distance)
    return found


def told(values: Sequence[float]) -> str:
    """Return mean and standard deviation over seeds."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


def compared(kept: Kept, steps: int, seeds: Sequence[int]) -> None:
    """Print the table of methods at equal steps and at equal time."""
    click.echo("| method | steps | seconds | digits | raw | digits, 2 and 4 steps | at δ = 1 |")
    click.echo("|---|---|---|---|---|---|---|")
    first = {name: kept.of(Case(name, seeds[0], steps))["seconds"] for name in METHODS}
    for longer in (False, True):
        for name in METHODS:
            ratio = first["FreeFlow"] / first[name] if longer else 1.0
            if longer and name == "FreeFlow":
                continue
            number = round(steps * ratio / 10) * 10 if longer else steps
            row(name, number, [kept.of(Case(name, seed, number)) for seed in seeds])


def row(name: str, steps: int, runs: Sequence[dict[str, Any]]) -> None:
    """Print the row of a method."""
    distances = [run["distances"] for run in runs]
    digits, raw = (told([each[space]["1"] for each in distances]) for space in SPACES)
    few = " and ".join(
        f"{statistics.mean(each['digits'][number] for each in distances):.3f}"
        for number in ("2", "4")
        if number in distances[0]["digits"]
    )
    seconds = statistics.mean(run["seconds"] for run in runs)
    error = statistics.mean(run["trajectory"] for run in runs)
    click.echo(f"| {name} | {steps} | {seconds:.0f} | {digits} | {raw} | {few} | {error:.3f} |")


def mismatched(kept: Kept, steps: int, seeds: Sequence[int], picture: Path) -> None:
    """Print the distances against the strength of the warp, and draw them."""
    lines = {
        name: [[kept.of(Case(name, seed, steps, strength)) for seed in seeds]
               for strength in STRENGTHS]
        for name in ("MeanFlow, data", "MeanFlow, teacher")
    }  # fmt: skip
    level = [kept.of(Case("FreeFlow", seed, steps)) for seed in seeds]
    data = data_distances()
    figure = Figure(figsize=(7.6, 3.1), facecolor="white")
    FigureCanvasAgg(figure)
    for axis, space in zip(figure.subplots(1, 2), SPACES, strict=True):
        found = {
            name: [[run["distances"][space]["1"] for run in runs] for runs in line]
            for name, line in lines.items()
        }
        own = [run["distances"][space]["1"] for run in level]
        click.echo(f"\n{space}: strengths {', '.join(map(str, STRENGTHS))}")
        for name, points in found.items():
            click.echo(f"| {name} | {' | '.join(map(told, points))} |")
        click.echo(f"| FreeFlow | {told(own)} |")
        click.echo(f"| the data themselves | {' | '.join(f'{each:.3f}' for each in data[space])} |")
        draw(axis, found, own, data[space])
        axis.set_title(f"in {SPACES[space]}", fontsize=9)
    figure.tight_layout()
    figure.savefig(picture, dpi=150)


def draw(
    axis: Axes, found: dict[str, list[list[float]]], level: Sequence[float], data: Sequence[float]
) -> None:
    """Draw one space: a point for each seed, a line through the means."""
    for (name, points), colour in zip(found.items(), ("#c2571a", "#7a3fa0"), strict=True):
        means = [statistics.mean(each) for each in points]
        axis.plot(STRENGTHS, means, color=colour, linewidth=1.2, label=f"{name}'s velocity")
        for strength, each in zip(STRENGTHS, points, strict=True):
            axis.plot([strength] * len(each), each, ".", color=colour, markersize=4)
    axis.axhline(statistics.mean(level), color="#1f5fbf", linewidth=1.2, label="FreeFlow, no data")
    axis.axhspan(min(level), max(level), color="#1f5fbf", alpha=0.15, linewidth=0)
    axis.plot(STRENGTHS, data, "--", color="#777777", linewidth=1, label="the data themselves")
    axis.set_yscale("log")
    axis.set_xlabel("strength of the warp of the data", fontsize=8)
    axis.set_ylabel("Fréchet distance to the teacher", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25, linewidth=0.4)
    axis.legend(fontsize=7, frameon=False)


@click.command()
@click.option("--out", default="runs/baselines.jsonl", type=click.Path(path_type=Path))
@click.option("--picture", default=PICTURE, type=click.Path(path_type=Path))
@click.option("--steps", default=600)
@click.option("--seeds", default="0,1,2")
@click.option("--unequal", type=float, help="MeanFlow's predictor.unequal. [default: the recipe's]")
def main(out: Path, picture: Path, steps: int, seeds: str, unequal: float | None) -> None:
    """Make the runs that are not there yet, and tell."""
    torch.set_num_threads(1)
    kept, numbers = Kept(out, unequal), [int(each) for each in seeds.split(",")]
    compared(kept, steps, numbers)
    mismatched(kept, steps, numbers, picture)


if __name__ == "__main__":
    main()
