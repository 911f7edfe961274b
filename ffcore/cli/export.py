"""`ffd export`: a run's student in a self-contained directory."""

import json
from pathlib import Path

import click

from ffcore.cli import options

_EXAMPLES = "\b\nExample:\n  ffd export runs/digits --out exported\n"


@click.command(epilog=_EXAMPLES)
@click.argument("run", type=click.Path(path_type=Path))
@options.out("Directory to write.", required=True)
@options.overwrite("Replace an earlier export at --out.")
@options.trust
@options.as_json
def export(run: Path, out: Path, overwrite: bool, trust: bool, as_json: bool) -> None:
    """Export the student of RUN, a run directory or one of its checkpoints.

    Of an unfinished run, the EMA of the newest whole checkpoint is exported, without an evaluation.

    The export holds the student's weights and description, a model card and the recipe. The student
    can be rebuilt from it without its teacher, and `ffd sample` reads it.
    """
    from ffcore.export import EXPORT_FILES
    from ffcore.export import export as export_run

    export_run(run, out, overwrite=overwrite, trust=trust)
    if as_json:
        click.echo(json.dumps({"schema": 1, "directory": str(out), "files": list(EXPORT_FILES)}))
    else:
        click.echo(f"{out}: {', '.join(EXPORT_FILES)}")
