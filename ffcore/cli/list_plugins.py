"""`ffd list-plugins`: the installed components and plugins, and the state of each plugin."""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import click

from ffcore.cli import options
from ffcore.plugins import Plugin, Registry, installed

COMPONENTS = ("role", "name", "plugin", "summary")
PLUGINS = ("plugin", "distribution", "state", "import")
NOTES = ("plugin", "note")
SLOW = 0.5
"""Seconds of import time above which a plugin gets a note."""

Row = tuple[str, ...]


@click.command()
@options.role("Role of the components to list; all roles by default.")
@options.as_json
def list_plugins(role: str | None, as_json: bool) -> None:
    """List the installed components, then all plugins, then notes on plugins.

    A plugin is active, disabled, incompatible or broken; a note gives the reason. The time is the
    plugin's import time. A dependency shared by several plugins counts towards the first one that
    imports it.
    """
    registry = installed()
    if as_json:
        documents = [_document(plugin, role, registry) for plugin in registry.plugins]
        click.echo(json.dumps({"schema": 1, "plugins": documents}, indent=2))
        return
    plugins = registry.plugins
    tables = (
        [COMPONENTS, *sorted(row for plugin in plugins for row in _components(plugin, role))],
        [PLUGINS, *map(_row, plugins)],
        [NOTES, *((each.name, note) for each in plugins for note in _notes(each, registry))],
    )
    write = _show if sys.stdout.isatty() else _align
    for number, table in enumerate(table for table in tables if len(table) > 1):
        if number:
            click.echo()
        write(table)


def _document(plugin: Plugin, role: str | None, registry: Registry) -> dict[str, Any]:
    document = attrs.asdict(plugin)
    document["components"] = [c for c in document["components"] if role in (None, c["role"])]
    return document | {"notes": list(_notes(plugin, registry))}


def _components(plugin: Plugin, role: str | None) -> Iterator[Row]:
    for each in plugin.components:
        if role in (None, each.role):
            yield each.role, each.name, plugin.name, each.summary


def _row(plugin: Plugin) -> Row:
    seconds = plugin.import_seconds
    took = "-" if seconds is None else f"{1000 * seconds:.1f} ms"
    return plugin.name, plugin.origin, plugin.state, took


def _notes(plugin: Plugin, registry: Registry) -> Iterator[str]:
    """Yield the cause of a plugin's state, and warnings about it."""
    if plugin.cause is not None:
        yield plugin.cause
    if plugin.import_seconds is not None and plugin.import_seconds >= SLOW:
        yield "slow to import: every command that reads recipes waits for it"
    if plugin.state == "active" and not plugin.components:
        yield "registers no component"
    for each in plugin.components:
        for rival in registry.rivals(plugin, each):
            claim = f"{each.role} {each.name!r} is also registered by plugin {rival.name}"
            yield f"{claim} ({rival.origin}): use '{plugin.distribution}:{each.name}' in recipes"


def _align(rows: Sequence[Row]) -> None:
    """Print columns padded with spaces; nothing is cut off, however wide."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(map(str.ljust, row, widths)).rstrip())


def _show(rows: Sequence[Row]) -> None:
    """Print a table as wide as the terminal; its cells wrap, the last column takes the rest."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    *columns, last = rows[0]
    for column in columns:
        table.add_column(column, overflow="fold")
    table.add_column(last, overflow="fold", ratio=1)
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    Console().print(table)
