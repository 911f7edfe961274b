"""Is a search worth its evaluations? Best-of-N against the teacher alone, over several seeds.

    python benchmarks/science/best_of_n.py runs/digits-0 runs/digits-1 runs/digits-2 --out best_of_n

Takes finished runs, each with noise of its own. Compares, at the same NFE, the teacher from the
noise of the student's best with the teacher alone (see `ffcore/search`), prints means over the runs
with their 95 % intervals (Student's t), and draws them. The student's best costs N. The gain is
that of the rendered best over the teacher alone, run by run.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import click
import torch
from scipy.stats import t as student_t

from ffcore.evaluate import Reference
from ffcore.export import RECIPE
from ffcore.interfaces import Context, Features
from ffcore.recipe import component, load_recipe
from ffcore.recipe.components import build_component
from ffcore.report.plots import Points, draw_against_nfe
from ffcore.sample.load import load_sampler, load_teacher_sampler
from ffcore.search import Arm, Comparison, Verifier, compare

ARMS = {
    "searched": "teacher from the best of N",
    "teacher": "teacher alone",
    "student": "student's best of N",
}


@attrs.frozen
class Interval:
    """A mean over runs and half the width of its 95 % interval; None for a single run."""

    mean: float
    half: float | None

    @staticmethod
    def of(values: Sequence[float]) -> Interval:
        """Return the interval of values, one for each run."""
        mean, count = statistics.fmean(values), len(values)
        if count < 2:
            return Interval(mean, None)
        half = float(student_t.ppf(0.975, count - 1)) * statistics.stdev(values) / count**0.5
        return Interval(mean, half)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.half is None else f" ± {self.half:.4f}")


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--verifier", default="ffcore_digits.verifiers:confidence", show_default=True)
@click.option(
    "--judge",
    "judges",
    multiple=True,
    default=("ffcore_digits.verifiers:nearness", "ffcore_digits.verifiers:agreement"),
    show_default=True,
)
@click.option("--features", "spaces", multiple=True, default=("raw",), show_default=True)
@click.option("--number", default=1000, show_default=True)
@click.option("--candidates", default="4,16,64", show_default=True)
@click.option("--teacher-steps", default=8, show_default=True)
@click.option("--batch", default=250, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="NAME.json and NAME.png.")
def main(
    runs: tuple[Path, ...],
    verifier: str,
    judges: tuple[str, ...],
    spaces: tuple[str, ...],
    number: int,
    candidates: str,
    teacher_steps: int,
    batch: int,
    out: Path | None,
) -> None:
    """Compare in each of the finished RUNS; print and draw the means over them."""
    torch.set_num_threads(1)
    verifiers = [Verifier.load(each) for each in (verifier, *judges)]
    features = [
        build_component("features", component("features", {"type": each}), Context(), Features)
        for each in spaces
    ]
    found = []
    for seed, run in enumerate(runs):
        student, teacher = load_sampler(run), load_teacher_sampler(run, steps=teacher_steps)
        found.append(
            compare(
                student,
                teacher,
                verifiers[0],
                student.request(number, seed=seed),
                [int(each) for each in candidates.split(",")],
                judges=verifiers[1:],
                features=[each.to(teacher.device) for each in features],
                reference=_reference(run),
                batch=batch,
            )
        )
        click.echo(f"{run}: compared, seed {seed}", err=True)
    measures = dict(_measures(found[0]))
    for title, value in measures.items():
        _print(title, found, value)
    if out is not None:
        document = [[attrs.asdict(row) for row in each.rows] for each in found]
        out.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n")
        panels = {title: _lines(found, value) for title, value in measures.items()}
        draw_against_nfe(out.with_suffix(".png"), panels)


def _reference(run: Path) -> Reference:
    """Return the statistics that a run was evaluated against."""
    own = run / "reference.safetensors"
    source = str(own) if own.exists() else load_recipe(run / RECIPE).evaluation.reference
    assert source is not None, f"{run} was not evaluated"
    return Reference(record={"source": source}, statistics=Reference.read(source).statistics)


def _measures(found: Comparison) -> Iterator[tuple[str, Callable[[Arm], float]]]:
    """Yield what is measured of an arm, by its title."""
    arm = found.rows[0].searched
    for index, name in enumerate(arm.scores):
        does = "judges" if index else "chooses"
        yield f"{name.rpartition(':')[2]} ({does})", partial(_mean, name)
    for name, each in arm.features.items():
        yield f"Fréchet distance ({name})", partial(_distance, name)
        if each.classes is not None:
            yield f"class accuracy ({name})", partial(_as_asked, name)


def _mean(name: str, arm: Arm) -> float:
    return arm.scores[name].mean


def _distance(name: str, arm: Arm) -> float:
    found = arm.features[name].fd
    assert found is not None
    return found


def _as_asked(name: str, arm: Arm) -> float:
    classes = arm.features[name].classes
    assert classes is not None
    assert classes.as_asked is not None
    return classes.as_asked


def _print(title: str, found: Sequence[Comparison], value: Callable[[Arm], float]) -> None:
    click.echo(f"\n{title}")
    titles = ("best, rendered", "teacher alone", "student's best", "gain, same NFE")
    click.echo(f"{'N':>4} {'NFE':>4}" + "".join(f"{each:>17}" for each in titles))
    for rows in zip(*(each.rows for each in found), strict=True):
        means = (Interval.of([value(getattr(row, arm)) for row in rows]) for arm in ARMS)
        gain = Interval.of([value(row.searched) - value(row.teacher) for row in rows])
        line = f"{rows[0].candidates:4} {rows[0].searched.nfe:4}"
        click.echo(line + "".join(f"{each!s:>17}" for each in (*means, gain)))


def _lines(found: Sequence[Comparison], value: Callable[[Arm], float]) -> Mapping[str, Points]:
    lines: dict[str, Any] = {}
    for arm, name in ARMS.items():
        arms = list(zip(*([getattr(row, arm) for row in each.rows] for each in found), strict=True))
        intervals = [Interval.of([value(each) for each in of_runs]) for of_runs in arms]
        halves = [each.half for each in intervals if each.half is not None]
        lines[name] = Points(
            nfe=[of_runs[0].nfe for of_runs in arms],
            values=[each.mean for each in intervals],
            errors=halves or None,
            end=f"N = {found[0].rows[-1].candidates}" if arm == "searched" else "",
        )
    return lines


if __name__ == "__main__":
    main()
