"""`ffd export`: a finished run's student in a directory that stands by itself."""

import json
from pathlib import Path

import click

from ffcore.cli import options


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@options.out("Directory to write.", required=True)
@options.overwrite("Replace an earlier export there.")
@options.as_json
def export(run: Path, out: Path, overwrite: bool, as_json: bool) -> None:
    """Export the student of the finished run in directory RUN.

    The directory written holds the weights with all that rebuilds the student without its
    teacher, a model card, and the recipe. `ffd sample` takes it as it is.
    """
    from ffcore.export import EXPORT_FILES
    from ffcore.export import export as export_run

    export_run(run, out, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps({"schema": 1, "directory": str(out), "files": list(EXPORT_FILES)}))
    else:
        click.echo(f"{out}: {', '.join(EXPORT_FILES)}")
