"""`ffd verify`: whether, and where, a student is a flow map of its teacher."""

from __future__ import annotations

import json
import os
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ffcore.cli import options
from ffcore.cli.bars import Bars
from ffcore.flow.solver import Method

_COLUMNS = 80
_MOST_CLASSES = 10
"""Number of classes that a table shows."""


_EXAMPLES = "\b\nExamples:\n  ffd verify runs/digits\n  ffd verify exported --out verified\n"


@click.command(epilog=_EXAMPLES)
@click.argument("source")
@options.number("Number of samples. [default: 256 images or 2048 vectors]", least=2)
@options.seed("Seed of noise and labels; independent of the training seed.")
@options.guidance
@options.solver("Solver of the teacher.", default="dopri5", show_default=True)
@click.option(
    "--tolerance",
    type=options.Finite(min=0, min_open=True),
    help="Relative and absolute tolerance of dopri5. [default: 1e-05]",
)
@options.steps("Number of steps of any solver but dopri5. [default: 256]", least=8)
@click.option(
    "--fit-steps",
    type=click.IntRange(min=0),
    help="Number of optimizer steps of each of the two fits of a noising velocity; 0 skips the "
    "noising gap. [default: 300 for images, 1000 for vectors]",
)
@click.option(
    "--fit-samples",
    type=click.IntRange(min=1),
    help="Number of samples to fit a noising velocity on. [default: 512 images or 4096 vectors]",
)
@click.option(
    "--network",
    metavar="NAME",
    help="""Network to fit, by name or as a table: '{type="mlp", width=64}'. [default: a copy of """
    "the teacher, or the recipe's]",
)
@options.overrides("Override a key of the teacher, as in teacher.weights=PATH.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="Number of samples per network call. [default: 64 images or 1024 vectors]",
)
@options.device
@options.out(
    "Directory for verify.json and verify.png. [default: SOURCE, if it is a run]", file=False
)
@options.trust
@options.as_json
def verify(
    source: str,
    number: int | None,
    seed: int,
    guidance: float | None,
    solver: Method,
    tolerance: float | None,
    steps: int | None,
    fit_steps: int | None,
    fit_samples: int | None,
    network: str | None,
    overrides: tuple[str, ...],
    batch: int | None,
    device: str,
    out: Path | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Measure how far the student of SOURCE is from its teacher's flow map, and where.

    SOURCE is a run directory, or an export with --out.

    For each duration δ, ffd reports the error of the student's trajectories against the teacher's
    ODE, and the residual of the flow-map identity. For each noise level r, it fits the velocity of
    the student's samples and reports its gap to the teacher's, next to the same number for the
    teacher's own samples. If the recipe's features classify, ffd reports class accuracy too.

    Running the command again replaces the earlier result.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise click.UsageError("ffd verify runs in one process: start it without torchrun")
    if solver == "dopri5" and steps is not None:
        raise click.UsageError("--steps: dopri5 chooses its own steps; set --tolerance instead")
    if solver != "dopri5" and tolerance is not None:
        raise click.UsageError(f"--tolerance is for dopri5; set --steps for {solver} instead")
    table = None if network is None else options.table("network", network)
    import attrs

    from ffcore.recipe.components import computing
    from ffcore.verify import Settings, open_subject
    from ffcore.verify import verify as verified

    with _place(Path(source), out) as directory:
        subject = open_subject(
            source,
            guidance=guidance,
            network=table,
            device=device,
            overrides=overrides,
            trust=trust,
        )
        directory.mkdir(parents=True, exist_ok=True)
        usual = Settings.usual(subject.teacher.sample_shape)
        given = _given(steps=steps, tolerance=tolerance)
        settings = attrs.evolve(
            usual,
            seed=seed,
            solver=attrs.evolve(usual.solver, method=solver, **given),
            **_given(samples=number, fit_steps=fit_steps, fit_samples=fit_samples, batch=batch),
        )
        bars = Bars(Console(stderr=True), told=time.monotonic())
        with computing(subject.training, subject.record["device"]), bars:
            found = verified(subject, settings, bars.advance).document()
        _keep(directory, found)
    for note in found["notes"]:
        click.echo(textwrap.fill(f"note: {note}", _COLUMNS, subsequent_indent="  "), err=True)
    if as_json:
        click.echo(json.dumps(found))
    else:
        _show(found)
        click.echo(f"{'saved':<12}{directory / 'verify.json'}, {directory / 'verify.png'}")


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


@contextmanager
def _place(source: Path, out: Path | None) -> Iterator[Path]:
    """Yield the directory for the results; lock it meanwhile if it is a run's own."""
    from ffcore.export import is_export, is_run, student_path
    from ffcore.run.directory import RunDirectory

    student_path(source)  # raises if there is no student
    run = source.is_dir() and is_run(source)
    if out is None and not run:
        raise click.UsageError(
            f"{source} is not a run directory: name a directory for the results by --out DIR"
        )
    own = out is None or (run and out.exists() and out.samefile(source))
    if not own:
        assert out is not None
        if is_run(out) or is_export(out):
            raise click.UsageError(
                f"{out} is the directory of another run or an export: choose another path"
            )
        yield out
        return
    with RunDirectory(source).alone():  # so that no training changes the student meanwhile
        yield source


def _keep(directory: Path, found: Mapping[str, Any]) -> None:
    """Replace an earlier result; first delete its figure, so that none is beside other numbers."""
    from ffcore.report import plots
    from ffcore.run.directory import VERIFICATION, VERIFICATION_PICTURE
    from ffcore.system.faults import writable
    from ffcore.system.files import write_text

    with writable(directory, VERIFICATION):
        (directory / VERIFICATION_PICTURE).unlink(missing_ok=True)
        write_text(directory / VERIFICATION, json.dumps(found, indent=2) + "\n")
        plots.draw_verification(directory / VERIFICATION_PICTURE, found)


def _show(found: Mapping[str, Any]) -> None:
    out = Console(width=_COLUMNS)
    click.echo("Relative error by duration: median, and 10 to 90 % of the samples")
    out.print(_flow(found))
    if found["noising"] is not None:
        click.echo("Noising gap ‖v_N − u‖ / √d by noise level, root mean square")
        out.print(_noising(found["noising"]))
    for name, each in found["classes"].items():
        click.echo(f"Class accuracy in %, by the features {name}")
        out.print(_classes(each))
    for title, text in _conditions(found):
        wrapped = textwrap.fill(
            text,
            _COLUMNS,
            initial_indent=f"{title:<12}",
            subsequent_indent=" " * 12,
            break_long_words=False,
            break_on_hyphens=False,
        )
        click.echo(wrapped)


def _flow(found: Mapping[str, Any]) -> Table:
    table = _table("δ")
    known = found["closed_form"]
    columns = {"trajectory": found["trajectory"], "identity": found["identity"]}
    for name in columns:
        table.add_column(name, justify="right", style="bold")
        table.add_column("10–90 %", justify="right")
    if known is not None:
        table.add_column("closed form", justify="right")
    for delta in found["trajectory"]:
        row = [delta]
        for errors in columns.values():
            relative = errors[delta]["relative"]
            row += [_median(relative), "" if relative is None else _band(relative)]
        table.add_row(*row, *([] if known is None else [_median(known[delta]["relative"])]))
    return table


def _median(spread: Mapping[str, float] | None) -> str:
    return "–" if spread is None else _digits(spread["median"])


def _noising(noising: Mapping[str, Any]) -> Table:
    table = _table("r")
    for name in ("student's samples", "teacher's own"):
        table.add_column(name, justify="right", style="bold")
        table.add_column("at least", justify="right")
    for r in noising["student"]:
        row = [r]
        for whose in ("student", "control"):
            gap = noising[whose][r]
            row.append(_digits(gap["errors"]["absolute"]["rms"]))
            row.append(f"{gap['at_least']:.3f} ± {gap['at_least_error']:.3f}")
        table.add_row(*row)
    return table


def _classes(found: Mapping[str, Any]) -> Table:
    """Show all classes, or those in which the student has the lowest accuracy."""
    asked, mine, its = found["asked"], found["student_by_class"], found["teacher_by_class"]
    there = [each for each, count in enumerate(asked) if count]
    shown = sorted(sorted(there, key=lambda each: mine[each])[:_MOST_CLASSES])
    table = _table("" if len(shown) == len(asked) else "worst classes")
    for title in ("all", *map(str, shown)):
        table.add_column(title, justify="right")
    for title, share, shares in (
        ("student", found["student"], mine),
        ("teacher", found["teacher"], its),
    ):
        table.add_row(
            title, *(f"{100 * each:.0f}" for each in (share, *(shares[c] for c in shown)))
        )
    return table


def _table(first: str) -> Table:
    table = Table(box=None)
    table.add_column(first)
    return table


def _digits(number: float) -> str:
    return f"{number:.3f}" if number >= 0.001 else f"{number:.0e}"


def _band(spread: Mapping[str, float]) -> str:
    return f"{_digits(spread['low'])}–{_digits(spread['high'])}"


def _conditions(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the conditions of the numbers, each with its title."""
    conditions = found["conditions"]
    solver, derivative, fit = (conditions[name] for name in ("solver", "derivative", "fit"))
    method = solver["method"]
    how = f"tolerance {solver['tolerance']:g}" if method == "dopri5" else f"{solver['steps']} steps"
    yield (
        "trajectory",
        f"f(z, δ) against the teacher's solution Φ, by ‖Φ − z‖. Φ by {method}, {how}; "
        f"its own error {_error(found)}",
    )
    by = "forward mode"
    if derivative["backend"] == "finite-difference":
        step, error = derivative["step"], derivative["error"]
        by = f"finite differences of step {step:g}, which add an error of {error:.1g} of u to v_G"
    yield "identity", f"v_G = F + δ ∂F/∂δ against u at (f, 1 − δ), by ‖u‖; ∂F/∂δ by {by}"
    if found["closed_form"] is not None:
        yield "closed form", "f(z, δ) against the exact flow map"
    if fit is not None:
        yield (
            "noising",
            f"v_N fitted to {fit['samples']} samples of each, in {fit['steps']} steps of batch "
            f"{fit['batch']}, learning rate {fit['optimizer']['learning_rate']:g}. The error of "
            'the fit adds to the gap, as the teacher\'s own samples show; "at least" is a lower '
            "bound for any fit",
        )
        yield "held out", _held_out(found["noising"])
    guidance = conditions["guidance"]
    where = (
        "" if guidance["scale"] == 1 else " at t from {:g} to {:g}".format(*guidance["interval"])
    )
    yield (
        "samples",
        f"{conditions['samples']}, seed {conditions['seed']}, γ {guidance['scale']:g}{where}, on "
        f"{conditions['device']}",
    )
    student, teacher = conditions["student"], conditions["teacher"]
    yield "student", f"after step {student['step']}, {student['fingerprint'][:12]}"
    yield "teacher", f"{teacher['type']}, {teacher['fingerprint'][:12]}"


def _error(found: Mapping[str, Any]) -> str:
    error = found["conditions"]["solver"]["error"]
    return f"{error:.1g}" if found["closed_form"] is not None else f"about {error:.1g}"


def _held_out(noising: Mapping[str, Any]) -> str:
    """Return the flow-matching losses on held-out samples, as means over r."""

    def mean(whose: str, key: str) -> float:
        found = [each[key] for each in noising[whose].values()]
        return float(sum(found) / len(found))

    told = (
        f"{mean(whose, 'loss'):.4f} on {name} (teacher's velocity: "
        f"{mean(whose, 'loss_of_teacher'):.4f})"
        for whose, name in (("student", "the student's"), ("control", "the teacher's samples"))
    )
    return f"flow-matching loss of the fit {'; '.join(told)}"
