"""`ffd evaluate`: the distance of samples from a reference, with its conditions."""

from __future__ import annotations

import json
import os
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console

from ffcore.cli import options
from ffcore.cli.bars import Bars
from ffcore.cli.exit_codes import ExitCode
from ffcore.cli.sample import labelling
from ffcore.cli.scores import say_verdict, show_evaluation, show_scores
from ffcore.cli.signals import Signals
from ffcore.system.files import require, write_text

if TYPE_CHECKING:
    from ffcore.evaluate import Making, Reference, Working
    from ffcore.evaluate.evaluator import Evaluation
    from ffcore.interfaces import Features


_EXAMPLES = (
    "\b\nExamples:\n"
    "  ffd evaluate runs/digits\n"
    "  ffd evaluate runs/digits -r digits.toml -f digits -n 10000 -o result.json\n"
)


@click.command(epilog=_EXAMPLES)
@click.argument("source")
@options.reference(
    "Reference to measure against: samples in any form that SOURCE takes, a recipe (its teacher is "
    "sampled), or a file of statistics. [default: repeat the run's own evaluation]",
)
@options.features(
    """Feature space, by name or as a table: '{type="inception", weights="PATH"}'. May be """
    "repeated. [default: those of the reference's statistics or of the run's recipe, else raw for "
    "vectors and inception for images]",
)
@click.option(
    "--metrics",
    "-m",
    metavar="LIST",
    help="Comma-separated metrics: fd (Fréchet distance), is (Inception Score), kid (kernel "
    "distance), pr (precision and recall), classes (counts and accuracy). [default: fd, and "
    "classes if the features classify]",
)
@options.number("Number of samples. [default: 50000; all, if they are stored]", least=4)
@options.labels
@options.condition
@options.guidance
@options.steps(
    "Number of steps of a student with starts_at = 'anywhere' [default: 1], or of the teacher's "
    "solver [default: the recipe's]."
)
@options.seed(
    "Seed of noise and labels; a generated reference uses the next seed. [default: 0]",
    default=None,
)
@options.teacher("Evaluate")
@options.solver()
@options.batch
@click.option(
    "--device",
    help="Torch device, as in cpu or cuda:1. [default: auto; the run's own, when ffd repeats its "
    "evaluation]",
)
@options.overrides(
    "Override a key of the recipe's teacher or evaluation, as in evaluation.reference=PATH; only "
    "without --reference."
)
@options.out(
    "JSON file to write. With --reference, ffd also stores partial results beside it, to resume "
    "from.",
    folder=False,
)
@options.overwrite(
    "Replace an earlier result at --out, and an interrupted evaluation with other conditions."
)
@click.option(
    "--compare",
    "earlier",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Earlier result to show beside the new one. Only the source and its number of steps may "
    "differ.",
)
@options.trust
@options.as_json
@click.pass_context
def evaluate(
    ctx: click.Context,
    /,
    source: str,
    against: str | None,
    device: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    overwrite: bool,
    trust: bool,
    as_json: bool,
    **judging: Any,
) -> None:
    """Measure how far the samples of SOURCE are from a reference.

    SOURCE is a run directory, one of its checkpoints, an export, a student file, or a recipe with
    --teacher. Of an unfinished run, the newest whole checkpoint is measured. It may also be stored
    samples, from ffd sample or another program: an .npz with arr_0, or a folder of images.

    Without --reference, ffd repeats a run's own evaluation, from its directory or an export. It
    uses the settings of the run's recipe, and gives the numbers of its evaluation.json.

    A file of statistics is a run's reference.safetensors, or an .npz as published for ADM (mu,
    sigma, arr_0), which is for the features inception only. Nothing is downloaded.

    To resume an interrupted evaluation with --out, run the same command again. To use several
    processes, run `torchrun -m ffcore evaluate …`.
    """
    if against is None:
        _refuse_without_reference(ctx)
        found, notes = _again(ctx, source, device, overrides, out, overwrite=overwrite, trust=trust)
        if _leads():
            _show_again(found, notes, out, as_json=as_json)
        return
    if overrides:
        raise click.UsageError("--set is for a run's own evaluation: leave out --reference")
    judging |= {"overwrite": overwrite, "trust": trust}
    result, beside = _judge(ctx, source, against, device, out, **judging)
    if _leads() and as_json:
        click.echo(json.dumps(result | {"compared_with": beside}))
    elif _leads():
        show_scores(result, beside)


def _judge(
    ctx: click.Context,
    /,
    source: str,
    against: str,
    device: str | None,
    out: Path | None,
    *,
    overwrite: bool,
    spaces: tuple[str, ...],
    metrics: str | None,
    earlier: Path | None,
    **making: Any,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Measure samples against a reference; return the result, and an earlier one beside it."""
    asked = _asked(device, **making)
    tables = feature_tables(spaces)
    from ffcore.evaluate import StoppedEvaluation, Working
    from ffcore.system.distributed import join_processes

    bars = Bars(_news(), time.monotonic())
    with join_processes(asked.device) as processes, Signals("the current batch") as signals, bars:

        def opened() -> _Work:
            if out is not None:
                _check_place(out, overwrite)
            return _Work(source, against, asked, tables, metrics, earlier)

        work = processes.together(opened)
        reporter = Reporter(bars, ", ".join(each.name for each in work.features))
        working = Working(
            device=asked.device, processes=processes, progress=reporter.progress, stop=signals.stop
        )
        try:
            return work.done(working, out, overwrite=overwrite), work.beside
        except StoppedEvaluation as stopped:
            bars.say(str(stopped))
            ctx.exit(signals.code or ExitCode.TERMINATED)  # or another process was asked


_JUDGED = (
    "spaces", "metrics", "number", "labels", "condition", "guidance", "steps", "seed", "teacher",
    "batch", "earlier",
)  # fmt: skip
"""Options that only make sense with --reference."""


def _refuse_without_reference(ctx: click.Context) -> None:
    """Raise UsageError for options that only make sense with --reference."""
    given = [
        next(iter(each.opts))
        for each in ctx.command.params
        if each.name in _JUDGED
        and ctx.get_parameter_source(each.name) is not ParameterSource.DEFAULT
    ]
    if given:
        raise click.UsageError(
            f"{', '.join(given)}: needs --reference. Without --reference, ffd repeats a run's own "
            "evaluation with the settings of its recipe; change them by --set, as in --set "
            "evaluation.samples=20000"
        )


def _asked(
    device: str | None, *, labels: str | None, condition: tuple[str, ...], **making: Any
) -> Making:
    """Return the settings for samples that have yet to be generated."""
    if making["solver"] is not None and not making["teacher"]:
        raise click.UsageError("--solver needs --teacher: a student has no solver")
    from ffcore.evaluate import Making
    from ffcore.recipe.components import errors_of, usable_device
    from ffcore.system.distributed import own_device

    with errors_of("--device"):
        place = own_device(usable_device(device or "auto"))
    return Making(labels=labelling(labels), conditions=condition or None, device=place, **making)


def _again(
    ctx: click.Context,
    source: str,
    device: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    *,
    overwrite: bool,
    trust: bool,
) -> tuple[Evaluation, tuple[str, ...]]:
    """Repeat the evaluation of a run; return it, with notes."""
    from ffcore.evaluate import Making, StoppedEvaluation, is_kept, open_samples
    from ffcore.evaluate.evaluator import evaluate_again

    if is_kept(source):
        open_samples(source, Making())  # or there are none
        raise click.UsageError(
            f"{source} holds stored samples: name a --reference; only a run or an export has its "
            "own"
        )
    if out is not None:
        _check_place(out, overwrite)
    with Signals("the current batch") as signals, Bars(_news()) as bars:

        def progress(what: str, done: int, total: int) -> None:
            if signals.stop():
                raise StoppedEvaluation("stopped; nothing is saved")
            bars.advance("measure", done, total, what)

        try:
            return evaluate_again(
                source, device=device, overrides=overrides, trust=trust, progress=progress
            )
        except StoppedEvaluation as stopped:
            bars.say(str(stopped))
            ctx.exit(signals.code)


def _show_again(
    found: Evaluation, notes: Sequence[str], out: Path | None, *, as_json: bool
) -> None:
    document = {"schema": 1, "evaluation": found.document(), "notes": list(notes)}
    if out is not None:
        write_text(out, json.dumps(document, indent=2) + "\n")
    if as_json:
        click.echo(json.dumps(document))
        return
    show_evaluation(found)
    say_verdict(found)
    for note in notes:
        click.echo(textwrap.fill(f"note: {note}", 80, subsequent_indent="  "), err=True)


def _leads() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _news() -> Console:
    """Return the console for progress; only that of the first process prints."""
    return Console(stderr=True, quiet=not _leads())


class _Work:
    """A measurement to make. Raises EvaluationError, and the errors of opening sources."""

    def __init__(
        self,
        source: str,
        against: str,
        asked: Making,
        tables: Sequence[Any],
        metrics: str | None,
        earlier: Path | None,
    ) -> None:
        from ffcore import evaluate as judge

        _require_files(tables)
        old = None if earlier is None else judge.read_result(earlier)
        self.samples = judge.open_samples(source, asked)
        self.reference = judge.open_reference(against, self.samples, asked)
        if not tables:
            tables = _usual_features(source, self.samples.shape, self.reference, trust=asked.trust)
            _require_files(tables)
        kept = (self.samples, self.reference.samples)
        if not any(isinstance(each, judge.Made) for each in kept):
            asked.refuse("seed", "labels", "conditions", "guidance")
        self.features = [built_features(table, asked.device) for table in tables]
        self.metrics = _metrics(metrics, self.features)
        judge.check_metrics(self.metrics, self.features, self.reference)
        self.conditions = judge.conditions(self.samples, self.reference, self.features)
        self.beside: dict[str, Any] | None = None
        """The earlier result to show beside the new one."""
        if old is not None and earlier is not None:
            judge.check_comparable(old["conditions"], self.conditions, earlier)
            self.beside = {"file": str(earlier), "metrics": old["metrics"]}

    def done(self, working: Working, out: Path | None, *, overwrite: bool) -> dict[str, Any]:
        """Return the result, saved at `out` if given; raises the errors of `measure`."""
        if out is None:
            return self._measured(working)
        bound = {**self.conditions, "metrics": {"asked": self.metrics}}
        import attrs

        from ffcore import evaluate as judge

        with judge.hold_partial(out, bound, working.processes, overwrite=overwrite) as partial:
            result = self._measured(attrs.evolve(working, partial=partial))

            def keep() -> None:
                whole = partial.directory / out.name
                write_text(whole, json.dumps(result, indent=2) + "\n")
                whole.replace(out)
                partial.remove()

            working.processes.first(keep)
        return result

    def _measured(self, working: Working) -> dict[str, Any]:
        import attrs

        from ffcore import evaluate as judge

        found = judge.measure(self.samples, self.reference, self.features, self.metrics, working)
        return {
            "schema": 1,
            "metrics": {name: attrs.asdict(each) for name, each in found.features.items()},
            "conditions": self.conditions,
            "notes": list(found.notes),
            "seconds": found.seconds,
        }


class Reporter:
    """Shows the progress of an evaluation in the features of these names."""

    def __init__(self, bars: Bars, names: str) -> None:
        self.bars = bars
        self.names = names
        self.begun: set[str] = set()

    def progress(self, what: str, done: int, total: int) -> None:
        """Take the progress of one phase: `done` of `total`."""
        if what not in self.begun and 0 < done < total and what != "distances":
            self.bars.say(f"resuming after {done} of {total} {what}")
        self.begun.add(what)
        self.bars.advance(what, done, total, self.names)


def _check_place(out: Path, overwrite: bool) -> None:
    """Raise UsageError if the result cannot be saved, before measuring it."""
    from ffcore.export import is_export, is_run

    folder = out.absolute().parent
    if out.exists() and not overwrite:
        raise click.UsageError(f"{out} exists: choose another path, or use --overwrite")
    if not folder.is_dir():
        raise click.UsageError(f"the folder {folder} does not exist: create it for the result")
    if is_run(folder) or is_export(folder):
        raise click.UsageError(
            f"{folder} is the directory of a run or an export: choose another path"
        )


def feature_tables(spaces: tuple[str, ...]) -> list[Any]:
    """Return the tables of feature spaces, each given by name or as an inline TOML table."""
    return [options.table("features", text) for text in spaces]


def _require_files(tables: Sequence[Any]) -> None:
    require(file for table in tables for file in getattr(table, "files", ()))


def _usual_features(
    source: str, shape: tuple[int, ...], reference: Reference, *, trust: bool
) -> list[Any]:
    """Return the features of a run's or an export's recipe, else those that suit the samples.

    A reference of statistics alone has its own features.
    """
    from ffcore.evaluate.reference import PUBLISHED
    from ffcore.export import RECIPE, is_export, is_run
    from ffcore.interfaces import is_image
    from ffcore.recipe import load_stored

    if reference.samples is None or PUBLISHED in reference.statistics:
        return feature_tables(tuple(reference.statistics))
    folder = Path(source)
    recipe = folder / RECIPE
    if (is_run(folder) or is_export(folder)) and recipe.is_file():
        found = load_stored(recipe, trust=trust).evaluation.features
        if found:
            return list(found)
    return feature_tables(("inception" if is_image(shape) else "raw",))


def built_features(table: Any, device: str) -> Features:
    """Return the features of a table, on a device."""
    from ffcore.interfaces import Context, Features
    from ffcore.recipe.components import build_component

    found: Features = build_component("features", table, Context(), Features)
    return found.to(device).eval()


def _metrics(text: str | None, features: list[Features]) -> tuple[str, ...]:
    from ffcore.evaluate import knows_classes

    if text is not None:
        return tuple(dict.fromkeys(each.strip() for each in text.split(",")))
    return ("fd", "classes") if any(map(knows_classes, features)) else ("fd",)
