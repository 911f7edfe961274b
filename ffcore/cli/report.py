"""`ffd report`: one HTML page about a run, or about several side by side."""

import json
from pathlib import Path

import click

from ffcore.cli import options
from ffcore.system.files import write_text

_EXAMPLES = (
    "\b\nExamples:\n  ffd report runs/digits\n  ffd report runs/one runs/two --out both.html\n"
)


@click.command(epilog=_EXAMPLES)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.out(
    "HTML file to write. [default: report.html in the directory of a single run]", folder=False
)
@options.overwrite("Replace the file at --out.")
@options.as_json
def report(runs: tuple[Path, ...], out: Path | None, overwrite: bool, as_json: bool) -> None:
    """Write a report about the runs in the directories RUNS, finished or not.

    The report is one HTML file without scripts that loads nothing from the network. It shows the
    teacher and the student, distances with their conditions, samples, curves, cost, the recipe and
    provenance. Numbers of several runs measured under different conditions are marked as not
    comparable.
    """
    from ffcore.report import page, read_records, summary

    place = _place(runs, out, overwrite=overwrite)
    records = read_records(runs)
    write_text(place, page(records))
    if as_json:
        click.echo(json.dumps({"schema": 1, "report": str(place)} | summary(records)))
    else:
        click.echo(place)


def _place(runs: tuple[Path, ...], out: Path | None, *, overwrite: bool) -> Path:
    """Return where to write; raise UsageError if ffd cannot write there."""
    from ffcore.report.record import RECIPE, REPORT

    if out is None:
        if len(runs) > 1:
            raise click.UsageError("a report about several runs needs --out")
        return runs[0] / REPORT
    if not out.absolute().parent.is_dir():
        raise click.UsageError(
            f"the folder {out.absolute().parent} does not exist: create it for the report"
        )
    if (out.parent / RECIPE).is_file() and out.name != REPORT:
        raise click.UsageError(
            f"{out.parent} is the directory of a run or an export: choose another path"
        )
    if out.exists() and not overwrite:
        raise click.UsageError(f"{out} exists: choose another path, or use --overwrite")
    return out
