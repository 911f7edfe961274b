"""`ffd evaluate`: how far samples are from a reference, beside all that the numbers depend on."""

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
from ffcore.cli.scores import show_evaluation, show_scores
from ffcore.cli.signals import Signals
from ffcore.system.files import require, write_text

if TYPE_CHECKING:
    from ffcore.evaluate import Making, Working
    from ffcore.evaluate.evaluator import Evaluation
    from ffcore.interfaces import Features


@click.command()
@click.argument("source")
@options.reference(
    "Samples as SOURCE has them, a recipe for its teacher, or a file of statistics. "
    "[default: the evaluation of the run is made again]",
)
@options.features(
    """Feature space, or its table as in '{type="inception", weights="PATH"}'. May be """
    "repeated. [default: inception]",
)
@click.option(
    "--metrics",
    "-m",
    metavar="LIST",
    help="Metrics, with commas between: fd (Fréchet distance), is (Inception Score), kid (kernel "
    "distance), pr (precision and recall), classes. [default: fd, and classes where features tell "
    "them]",
)
@options.number("Number of samples. [default: 50000; all of those that are there already]", least=4)
@options.labels
@options.guidance
@options.steps("Number of steps, as ffd sample has them.")
@options.seed(
    "Seed of noise and labels; a reference that is made takes the next one. [default: 0]",
    default=None,
)
@options.teacher("Judge")
@options.solver()
@options.batch
@click.option(
    "--device",
    help="Torch device. [default: auto; the run's own, where its evaluation is made again]",
)
@options.overrides(
    "Without --reference, override a key of the recipe's teacher or evaluation, as in "
    "evaluation.reference=PATH."
)
@options.out("File of the result, as JSON; until then, how far the evaluation is.", folder=False)
@options.overwrite(
    "Replace an earlier result there, and an interrupted evaluation of other conditions."
)
@click.option(
    "--compare",
    "earlier",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Kept result to show beside; refused if it is of other conditions.",
)
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
    as_json: bool,
    **judging: Any,
) -> None:
    """Measure how far the samples of SOURCE are from a reference.

    SOURCE is a run directory, an export, a student's file, with --teacher a recipe; or what ffd
    sample wrote, or others did: an .npz with arr_0, or a folder of pictures.

    Without --reference, a run's own evaluation is made again, from its directory or an export: the
    settings are its recipe's, and the numbers those of its evaluation.json.

    Statistics are a run's reference.safetensors, or an .npz as published for ADM (mu, sigma,
    arr_0), which is in the features inception alone. Nothing is downloaded.

    The same command again, with --out, goes on with an interrupted evaluation. Under `torchrun -m
    ffcore evaluate …` several processes share the work.
    """
    if against is None:
        _refuse_without_reference(ctx)
        found, notes = _again(ctx, source, device, overrides, out, overwrite=overwrite)
        if _leads():
            _show_again(found, notes, out, as_json=as_json)
        return
    if overrides:
        raise click.UsageError("--set goes without --reference: it is for a run's own evaluation")
    result, beside = _judge(ctx, source, against, device, out, overwrite=overwrite, **judging)
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
    tables = feature_tables(spaces or ("inception",))
    from ffcore.evaluate import StoppedEvaluation, Working
    from ffcore.system.distributed import join_processes

    bars = Bars(_news(), time.monotonic())
    with join_processes(asked.device) as processes, Signals() as signals, bars:

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
    "spaces", "metrics", "number", "labels", "guidance", "steps", "seed", "teacher", "batch",
    "earlier",
)  # fmt: skip
"""What is said of samples that are judged against a reference."""


def _refuse_without_reference(ctx: click.Context) -> None:
    """Raise UsageError for options that say how samples are judged against a reference."""
    given = [
        next(iter(each.opts))
        for each in ctx.command.params
        if each.name in _JUDGED
        and ctx.get_parameter_source(each.name) is not ParameterSource.DEFAULT
    ]
    if given:
        raise click.UsageError(
            f"{', '.join(given)}: goes with --reference, which says what samples are judged "
            "against. Without it a run's own evaluation is made again, as its recipe says; --set "
            "changes that, as in --set evaluation.samples=20000"
        )


def _asked(device: str | None, *, labels: str | None, **making: Any) -> Making:
    """Return how samples are to be made that are not there yet."""
    if making["solver"] is not None and not making["teacher"]:
        raise click.UsageError("--solver is the teacher's (--teacher): a student has none")
    from ffcore.evaluate import Making
    from ffcore.recipe.components import errors_of, usable_device
    from ffcore.system.distributed import own_device

    with errors_of("--device"):
        place = own_device(usable_device(device or "auto"))
    return Making(labels=labelling(labels), device=place, **making)


def _again(
    ctx: click.Context,
    source: str,
    device: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    *,
    overwrite: bool,
) -> tuple[Evaluation, tuple[str, ...]]:
    """Make the evaluation of a run once more; return it, and what is to be said of it."""
    from ffcore.evaluate import StoppedEvaluation, is_kept
    from ffcore.evaluate.evaluator import evaluate_again

    if is_kept(source):
        raise click.UsageError(
            f"{source}: --reference says what these samples are judged against; only a run and an "
            "export know it by themselves"
        )
    if out is not None:
        _check_place(out, overwrite)
    with Signals() as signals, Bars(_news()) as bars:

        def progress(what: str, done: int, total: int) -> None:
            if signals.stop():
                raise StoppedEvaluation("stopped; nothing of it is stored")
            bars.advance("measure", done, total, what)

        try:
            return evaluate_again(source, device=device, overrides=overrides, progress=progress)
        except StoppedEvaluation as stopped:
            bars.say(str(stopped))
            ctx.exit(signals.code)


def _show_again(
    found: Evaluation, notes: Sequence[str], out: Path | None, *, as_json: bool
) -> None:
    import attrs

    document = {"schema": 1, "evaluation": attrs.asdict(found), "notes": list(notes)}
    if out is not None:
        write_text(out, json.dumps(document, indent=2) + "\n")
    if as_json:
        click.echo(json.dumps(document))
        return
    show_evaluation(found)
    for note in notes:
        click.echo(textwrap.fill(f"note: {note}", 80, subsequent_indent="  "), err=True)


def _leads() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _news() -> Console:
    """Return where news go: of several processes, the first one's alone."""
    return Console(stderr=True, quiet=not _leads())


class _Work:
    """What is to be measured. Raises EvaluationError, and what opening sources does."""

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

        require(file for table in tables for file in getattr(table, "files", ()))
        old = None if earlier is None else judge.read_result(earlier)
        self.samples = judge.open_samples(source, asked)
        self.reference = judge.open_reference(against, self.samples, asked)
        kept = (self.samples, self.reference.samples)
        if not any(isinstance(each, judge.Made) for each in kept):
            asked.refuse("seed", "labels", "guidance")
        self.features = [built_features(table, asked.device) for table in tables]
        self.metrics = _metrics(metrics, self.features)
        judge.check_metrics(self.metrics, self.features, self.reference)
        self.conditions = judge.conditions(self.samples, self.reference, self.features)
        self.beside: dict[str, Any] | None = None
        """The earlier result to show beside."""
        if old is not None and earlier is not None:
            judge.check_comparable(old["conditions"], self.conditions, earlier)
            self.beside = {"file": str(earlier), "metrics": old["metrics"]}

    def done(self, working: Working, out: Path | None, *, overwrite: bool) -> dict[str, Any]:
        """Return the result, kept at `out` if it is given; raises what `measure` does."""
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
    """Tells how far an evaluation is, in the features of these names."""

    def __init__(self, bars: Bars, names: str) -> None:
        self.bars = bars
        self.names = names
        self.begun: set[str] = set()

    def progress(self, what: str, done: int, total: int) -> None:
        """Take how many of what there are, of how many."""
        if what not in self.begun and 0 < done < total and what != "distances":
            self.bars.say(f"going on after {done} of {total} {what}")
        self.begun.add(what)
        self.bars.advance(what, done, total, self.names)


def _check_place(out: Path, overwrite: bool) -> None:
    """Raise UsageError where a result cannot be kept, before it is measured."""
    from ffcore.export import is_export, is_run

    folder = out.absolute().parent
    if out.exists() and not overwrite:
        raise click.UsageError(f"{out} exists: choose another place, or use --overwrite")
    if not folder.is_dir():
        raise click.UsageError(f"there is no folder {folder} to keep a result in")
    if is_run(folder) or is_export(folder):
        raise click.UsageError(f"{folder} is a run's or an export's own: choose another place")


def feature_tables(spaces: tuple[str, ...]) -> list[Any]:
    """Return the tables of feature spaces, each by its name or as an inline table of TOML."""
    return [options.table("features", text) for text in spaces]


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
