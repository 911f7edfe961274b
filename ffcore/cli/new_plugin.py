"""`ffd new-plugin`: a starter distribution that installs, passes its tests and runs."""

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import click

from ffcore.cli import options

_EXAMPLES = "\b\nExample:\n  ffd new-plugin ffcore-kernel --role predictor\n"


@click.command(epilog=_EXAMPLES)
@click.argument("name")
@options.role("Role of the plugin's component.", required=True)
@options.directory("Directory to write; must be empty or not exist. [default: NAME]")
def new_plugin(name: str, role: str, directory: Path | None) -> None:
    """Write a starter plugin: a distribution NAME with one small, working component.

    The last part of NAME is the component's name in recipes: "kernel" for "ffcore-kernel".
    """
    from ffcore.plugins.scaffold import NewPlugin

    directory = directory or Path(name)
    try:
        plugin = NewPlugin(name, role)
        plugin.require_free()
        plugin.write(directory)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"{directory}/")
    for line in _tree(plugin.files()):
        click.echo(f"  {line}")
    click.echo("\nThe plugin works as it is. Next, in the environment where ffcore is installed:")
    click.echo(f"  cd {shlex.quote(str(directory))} && pip install -e '.[testing]'")
    click.echo("  pytest")
    click.echo(f"  ffd run {name}.toml")


def _tree(paths: Iterable[str]) -> Iterator[str]:
    """Yield the paths, each folder once with its files indented beneath; folders come last."""
    by_folder = sorted(map(PurePosixPath, paths), key=lambda path: (len(path.parts), path))
    told = PurePosixPath()
    for path in by_folder:
        if path.parent != told:
            told = path.parent
            yield f"{told}/"
        yield f"  {path.name}" if len(path.parts) > 1 else path.name
