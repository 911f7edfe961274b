"""`ffd run`: a recipe from start to end. Progress goes to stderr, results to stdout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from ffcore.cli import options
from ffcore.cli.bars import Bars
from ffcore.cli.exit_codes import ExitCode
from ffcore.cli.signals import Signals
from ffcore.recipe import Loaded, needed_files, read_recipe
from ffcore.report.record import RECIPE
from ffcore.system.files import require

if TYPE_CHECKING:
    from ffcore.evaluate.evaluator import Evaluation
    from ffcore.training.loop import Report


_EXAMPLES = (
    "\b\nExamples:\n"
    "  ffd run digits.toml\n"
    "  ffd run digits.toml --set training.steps=100 -d runs/short\n"
    "  ffd run mine:Mine --set training.minutes=5\n"
    "  ffd run digits.toml --dry-run --gpus 2\n"
)


@click.command(epilog=_EXAMPLES)
@click.argument("recipe")
@options.overrides("Override a key of the recipe, as in training.steps=100.")
@options.directory("Directory of the run. [default: runs/<name of the recipe>]")
@click.option("--resume", is_flag=True, help="Resume this run; fail if it has no checkpoint.")
@click.option(
    "--allow-changes",
    is_flag=True,
    help="Resume even if keys that training depends on have changed.",
)
@click.option("--restart", is_flag=True, help="Delete this run's earlier files and start again.")
@click.option(
    "--dry-run", "dry", is_flag=True, help="Print the run's memory and FLOPs without running it."
)
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    help="Number of GPUs that --dry-run assumes. [default: 8]",
)
@options.as_json
@click.pass_context
def run(
    ctx: click.Context,
    recipe: str,
    overrides: tuple[str, ...],
    directory: Path | None,
    resume: bool,
    allow_changes: bool,
    restart: bool,
    dry: bool,
    gpus: int | None,
    as_json: bool,
) -> None:
    """Distil the teacher of RECIPE, then evaluate the student.

    RECIPE is a file, the name of a recipe that comes with ffcore, or a teacher's table
    package.module:Class. What it leaves out is chosen for its teacher; a recipe may consist of
    [teacher] alone.

    Run the same command again to resume an interrupted run, or to show the results of a finished
    one. You may change the number of steps, the device, and what is logged, saved and evaluated. To
    use several processes, run `torchrun -m ffcore run …`.
    """
    if restart and (resume or allow_changes):
        raise click.UsageError("--restart cannot be combined with --resume or --allow-changes")
    directory = directory or Path("runs") / Path(recipe.rpartition(":")[2]).stem
    earlier = None if restart else directory / RECIPE
    loaded = read_recipe(recipe, overrides, earlier=earlier)
    resolved = loaded.recipe
    if os.environ.get("RANK", "0") == "0":
        say_choices(loaded)
    if dry:
        from ffcore.cli.dry_run import dry_run

        dry_run(resolved, gpus or 8, as_json=as_json)
        return
    if gpus is not None:
        raise click.UsageError("--gpus needs --dry-run")
    require(needed_files(resolved))
    leads = os.environ.get("RANK", "0") == "0"
    console = Console(stderr=True, quiet=not leads)
    console.print(f"run directory: {directory}", highlight=False)
    from ffcore.run.stages import run as run_recipe
    from ffcore.training.loop import Stopped

    waits_for = "the current step or batch; training saves a checkpoint"
    with Signals(waits_for) as signals, Bars(console) as bars:
        observer = Observer(bars)
        try:
            evaluation = run_recipe(
                resolved,
                directory,
                restart=restart,
                resume=resume,
                allow_changes=allow_changes,
                observer=observer,
                stop=signals.stop,
            )
        except Stopped as stopped:
            observer.say(str(stopped))
            ctx.exit(signals.code or ExitCode.TERMINATED)  # or another process was asked
    if not leads:
        return
    _show(evaluation, directory, as_json=as_json)


def _show(evaluation: Evaluation | None, directory: Path, *, as_json: bool) -> None:
    """Print the results of a run."""
    from ffcore.cli.scores import say_advice, say_alarms, say_verdict, show_evaluation
    from ffcore.run.directory import ALARMS, RunDirectory

    raised = RunDirectory(directory).history(ALARMS)
    if as_json:
        found = None if evaluation is None else evaluation.document()
        result = {"schema": 1, "directory": str(directory), "evaluation": found, "alarms": raised}
        click.echo(json.dumps(result))
        return
    if evaluation is not None:
        show_evaluation(evaluation)
        click.echo(f"\nfigures: {directory / 'samples.png'}, {directory / 'curves.png'}")
        say_verdict(evaluation)
        say_advice(directory)
    say_alarms(raised)


def say_choices(loaded: Loaded) -> None:
    """Say on stderr what was chosen for a recipe, each with its reason."""
    if loaded.choices.tree:
        click.echo(f"chosen for the teacher ({loaded.choices.facts}):", err=True)
        for line in loaded.choices.lines():
            click.echo(f"  {line}", err=True)


class Observer:
    """Prints the progress of a run; an observer of `run`."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars

    def say(self, text: str) -> None:
        """Print a line."""
        self.bars.say(text)

    def report(self, report: Report) -> None:
        """Show the progress of training."""
        metrics = report.metrics
        gaps = [metrics[name] for name in ("gap_prediction", "gap_correction") if name in metrics]
        news = [
            f"loss {metrics['loss']:.3f}" if "loss" in metrics else "no finite step",
            f"gaps {' '.join(f'{gap:.3f}' for gap in gaps)}" if gaps else "",
            f"skipped {metrics['skipped']:.0f}" if metrics.get("skipped") else "",
            f"{report.steps_per_second:.1f}/s",
            "" if self.bars.console.is_terminal else f"left {report.seconds_left:.0f} s",
        ]
        self.bars.advance("train", report.step, report.steps, " ".join(filter(None, news)))
        if report.step == report.steps:
            self.say(_where_time_went(report))

    def progress(self, what: str, done: int, total: int) -> None:
        """Show the progress of the evaluation."""
        self.bars.advance("measure", done, total, what)


def _where_time_went(report: Report) -> str:
    whole = 1000 / report.steps_per_second
    sections = sorted(report.seconds.items(), key=lambda each: -each[1])
    parts = ", ".join(f"{name} {1000 * seconds:.1f}" for name, seconds in sections)
    return (
        f"time per step {whole:.1f} ms: {parts}\n{report.samples_per_second:.0f} samples per "
        f"second, peak memory {report.memory_peak / 2**30:.2f} GiB"
    )
