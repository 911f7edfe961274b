"""`ffd list-plugins`: what is installed, in which state, and why not where it is not."""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import click

from ffcore.plugins import ROLES, Plugin, installed

COLUMNS = ("role", "name", "plugin", "distribution", "state", "summary")
Row = tuple[str, ...]


@click.command()
@click.option("--role", type=click.Choice(list(ROLES)), help="Only components of this role.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document to stdout.")
def list_plugins(role: str | None, as_json: bool) -> None:
    """List the installed components, and the plugins that bring none, with the cause.

    Plugins that are disabled, incompatible or broken are listed under every role: what they
    would bring is unknown.
    """
    plugins = installed().plugins
    if as_json:
        document = {"schema": 1, "plugins": [_document(plugin, role) for plugin in plugins]}
        click.echo(json.dumps(document, indent=2))
        return
    rows = sorted(row for plugin in plugins for row in _rows(plugin, role))
    if sys.stdout.isatty():
        _show(rows)
    else:
        click.echo(_aligned([COLUMNS, *rows]))


def _document(plugin: Plugin, role: str | None) -> dict[str, Any]:
    document = attrs.asdict(plugin)
    document["components"] = [c for c in document["components"] if role in (None, c["role"])]
    return document


def _rows(plugin: Plugin, role: str | None) -> Iterator[Row]:
    if plugin.state != "active":
        yield ("-", "-", plugin.name, plugin.origin, plugin.state, plugin.cause or "")
    for component in plugin.components:
        if role in (None, component.role):
            own = (component.role, component.name)
            yield (*own, plugin.name, plugin.origin, plugin.state, component.summary)


def _aligned(rows: Sequence[Row]) -> str:
    """Columns padded with spaces; nothing is cut off, however wide."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(padded)


def _show(rows: Sequence[Row]) -> None:
    """A table as wide as the terminal, whose cells wrap."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in COLUMNS:
        table.add_column(column, overflow="fold", ratio=1 if column == "summary" else None)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
