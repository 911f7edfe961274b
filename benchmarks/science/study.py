"""A grid over recipe keys, with seeds: one table and one plot at the end.

    python benchmarks/science/study.py benchmarks/science/studies/power.toml … [--only-table]

A study is a TOML file: a title, a `recipe`, what is `set` in it for all, the `seeds`, the steps
`at` which the student is measured, and what varies: named `variants`, lists of `--set`s, and a
`grid` of values by key. All combinations are distilled with all seeds, each in a run directory of
its own under `--runs`, where an interrupted one goes on. What a finished run found is a line of
`--results`, and is not made again: studies that share a run share its line. Intervals are
Student's, 95 %.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import statistics
import time
import tomllib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import cattrs
import click
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import t as student_t

from ffcore.evaluate.measure import feature_statistics
from ffcore.evaluate.metrics import frechet_distance
from ffcore.evaluate.prior import Drawn
from ffcore.export import CHECKPOINTS
from ffcore.flow.flow_map import generate
from ffcore.recipe import Recipe, binding_digest, load_recipe, to_toml
from ffcore.run.build import build
from ffcore.run.stages import run
from ffcore.training.checkpoint import Checkpoints, Manifest

HERE = Path(__file__).parent
IMAGES = HERE.parents[1] / "docs" / "images"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Those of Okabe and Ito, which colour-blind people can tell apart."""


@attrs.frozen(kw_only=True)
class Study:
    """What is varied, and in what."""

    title: str
    recipe: str
    set: list[str] = attrs.field(factory=list)
    seeds: list[int] = attrs.field(factory=lambda: [0, 1, 2])
    at: list[int]
    """Steps at which the student is measured; the last is the number of steps."""
    variants: dict[str, list[str]] = attrs.field(factory=lambda: {"": []})
    grid: dict[str, list[Any]] = attrs.field(factory=dict)

    @staticmethod
    def read(path: Path) -> Study:
        """Read a study's file; an unknown key is refused."""
        converter = cattrs.Converter(forbid_extra_keys=True)
        return converter.structure(tomllib.loads(path.read_text()), Study)

    def cases(self) -> dict[str, list[str]]:
        """Return the overrides of each combination, by a name to print."""
        found = {}
        for name, overrides in self.variants.items():
            for values in itertools.product(*self.grid.values()):
                pairs = dict(zip(self.grid, values, strict=True))
                told = [f"{key.rpartition('.')[2]} {value}" for key, value in pairs.items()]
                varied = [f"{key}={json.dumps(value)}" for key, value in pairs.items()]
                found[", ".join([*filter(None, [name]), *told])] = [*overrides, *varied]
        return found

    def recipe_of(self, overrides: Sequence[str], seed: int) -> Recipe:
        """Return the recipe of one run, which keeps a checkpoint of each step to be measured."""
        each = math.gcd(*self.at)
        keeps = [f"training.checkpoint_every={each}", f"training.keep_every={each}"]
        steps = f"training.steps={max(self.at)}"
        seeds = f"training.seed={seed}"
        return load_recipe(self.recipe, [*self.set, *overrides, steps, seeds, *keeps])


@attrs.frozen(kw_only=True)
class Keeping:
    """Where runs are made, and where what they found is kept."""

    runs: Path
    results: Path

    def found(self, study: Study, overrides: Sequence[str], seed: int) -> dict[int, Any] | None:
        """Return what a run found, by step; None where it has not been made."""
        key = _key(study.recipe_of(overrides, seed))
        lines = self.results.read_text().splitlines() if self.results.exists() else []
        for line in map(json.loads, lines):
            found = {int(step): each for step, each in line["at"].items()}
            if line["key"] == key and found.keys() >= {*study.at}:
                return found
        return None

    def make(self, study: Study, overrides: Sequence[str], seed: int) -> None:
        """Make a run, or go on with it; keep what it found."""
        recipe = study.recipe_of(overrides, seed)
        key, begun = _key(recipe), time.monotonic()
        torch.set_num_threads(recipe.training.threads or torch.get_num_threads())
        if recipe.evaluation.reference is None:
            known = f"evaluation.reference={json.dumps(str(self._reference(recipe)))}"
            recipe = study.recipe_of([*overrides, known], seed)
        last = run(recipe, self.runs / key)
        assert last is not None
        found = {step: self._measured(recipe, key, step) for step in study.at[:-1]}
        found[study.at[-1]] = {
            "distances": {name: each.student for name, each in last.distances.items()},
            "trajectory_error": {d: e.value for d, e in last.trajectory_error.items() if e},
        }
        line = {
            "key": key,
            "recipe": study.recipe,
            "set": [*study.set, *overrides, f"training.seed={seed}"],
            "seconds": round(time.monotonic() - begun),
            "at": found,
        }
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with self.results.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _reference(self, recipe: Recipe) -> Path:
        """Return the teacher's statistics that many runs share, made with the first."""
        parts = [to_toml(recipe).partition("[student]")[0], recipe.guidance, recipe.evaluation]
        name = hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
        path = self.runs / f"reference-{name}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            built = build(recipe)
            built.evaluator.make_reference().write(path)
        return path

    def _measured(self, recipe: Recipe, key: str, step: int) -> dict[str, Any]:
        """Return the distances of the student as a checkpoint has it."""
        built = build(recipe)
        directory = self.runs / key / CHECKPOINTS
        path = directory / f"step-{step:08}"
        if not path.exists():
            raise click.ClickException(f"{path} was not kept: remove {directory.parent}, try again")
        checkpoint = Manifest.read(path)
        Checkpoints(directory).restore(checkpoint, built.distillation)
        assert built.evaluator.reference is not None
        stored = built.evaluator.reference.statistics
        make, teacher = partial(generate, built.student), built.distillation.teacher
        samples = Drawn(make, teacher, built.evaluator.measurement, "student")
        found = feature_statistics(samples, built.evaluator.features)
        distances = {name: frechet_distance(each, stored[name]) for name, each in found.items()}
        return {"distances": distances}


_MEASURED_BY = ("features", "samples", "seed", "solver")


def _key(recipe: Recipe) -> str:
    """Return a name for all that a run and its numbers depend on."""
    tree = tomllib.loads(to_toml(recipe))
    measured = {name: tree["evaluation"][name] for name in _MEASURED_BY}
    depends = [binding_digest(recipe), recipe.training.steps, measured]
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:12]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and half the width of its 95 % interval."""
    if len(values) < 2:
        return values[0], math.nan
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), float(student_t.ppf(0.975, len(values) - 1)) * spread


def _measures(one: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in one["distances"].items():
        yield f"Fréchet distance, {name}", value
    if "trajectory_error" in one:
        yield "trajectory error at δ = 1", one["trajectory_error"]["1.0"]


Found = dict[str, list[dict[int, Any]]]
"""By the name of a case: for each seed that is there, what was found by step."""


def table(study: Study, found: Found) -> str:
    """Return a table in Markdown: the last step, mean and interval over seeds."""
    rows, titles = [], ["run"]
    for name, seeds in found.items():
        measured: dict[str, list[float]] = {}
        for each in seeds:
            for title, value in _measures(each[study.at[-1]]):
                measured.setdefault(title, []).append(value)
        titles = ["run", *measured]
        cells = [_told(*interval(values)) for values in measured.values()]
        rows.append([name, *cells])
    ruled = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)


def _told(mean: float, half: float) -> str:
    return f"{mean:.3f}" if math.isnan(half) else f"{mean:.3f} ± {half:.3f}"


def draw(study: Study, found: Found, path: Path) -> None:
    """Draw the distances over the steps of training, and at the end the error over δ.

    A line for each case, with its interval.
    """
    one = next(iter(found.values()))[0]
    titles = [title for title, _ in _measures(one[study.at[0]])]
    figure = Figure(figsize=(3.4 * (len(titles) + 1), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    *plots, errors = figure.subplots(1, len(titles) + 1, squeeze=False)[0]
    for plot, title in zip(plots, titles, strict=True):
        plot.set(title=title, xlabel="steps", xscale="log", yscale="log")
        plot.set_xticks(study.at, [str(step) for step in study.at])
        plot.xaxis.minorticks_off()
        for number, seeds in enumerate(found.values()):
            points = [
                interval([dict(_measures(each[step]))[title] for each in seeds])
                for step in study.at
            ]
            shift = 1.03 ** (number - (len(found) - 1) / 2)  # so that no bar covers another
            _line(plot, number, [step * shift for step in study.at], points)
    errors.set(title="trajectory error at the end", xlabel="duration δ")
    deltas = list(one[study.at[-1]]["trajectory_error"])
    for number, (name, seeds) in enumerate(found.items()):
        points = [
            interval([each[study.at[-1]]["trajectory_error"][delta] for each in seeds])
            for delta in deltas
        ]
        _line(errors, number, [float(delta) for delta in deltas], points, name)
    errors.set_ylim(bottom=0)
    handles, names = errors.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    figure.suptitle(f"{study.title}: means of seeds, 95 % intervals", fontsize=11)
    figure.savefig(path, dpi=110)


def _line(
    plot: Axes,
    number: int,
    at: Sequence[float],
    points: Sequence[tuple[float, float]],
    name: str | None = None,
) -> None:
    plot.errorbar(
        at,
        [mean for mean, _ in points],
        [half for _, half in points],
        label=name,
        color=COLOURS[number % len(COLOURS)],
        marker="os^Dv<>"[number % 7],
        markersize=4,
        linewidth=1.2,
        capsize=2,
    )
    plot.grid(alpha=0.3)


@click.command()
@click.argument("studies", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--runs", default="runs/studies", type=click.Path(path_type=Path))
@click.option(
    "--results", default=HERE / "studies" / "results.jsonl", type=click.Path(path_type=Path)
)
@click.option("--images", default=IMAGES, type=click.Path(path_type=Path))
@click.option("--only-table", is_flag=True, help="Make no run; show what there is.")
def main(
    studies: tuple[Path, ...], runs: Path, results: Path, images: Path, only_table: bool
) -> None:
    """Make what is missing of each study, then print its table and draw its plot."""
    keeping = Keeping(runs=runs, results=results)
    for path in studies:
        study = Study.read(path)
        cases = study.cases()
        todo = [(name, seed) for seed in study.seeds for name in cases]
        for done, (name, seed) in enumerate(todo):
            if only_table or keeping.found(study, cases[name], seed) is not None:
                continue
            click.echo(f"{path.stem} {done + 1} of {len(todo)}: {name}, seed {seed}", err=True)
            keeping.make(study, cases[name], seed)
        found = {
            name: seeds
            for name, overrides in cases.items()
            if (
                seeds := list(
                    filter(None, (keeping.found(study, overrides, s) for s in study.seeds))
                )
            )
        }
        if found:
            made = "/".join(map(str, sorted({len(each) for each in found.values()})))
            click.echo(f"\n{study.title} ({study.at[-1]} steps, {made} seeds)\n")
            click.echo(table(study, found))
            draw(study, found, images / f"study-{path.stem}.png")


if __name__ == "__main__":
    main()
