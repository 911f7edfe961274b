"""`ffd doctor`: what works on this machine, and how to fix the rest."""

import json
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import attrs
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ffcore.cli import options
from ffcore.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from ffcore.doctor import Finding

STYLES = {"works": "green", "absent": "dim", "fails": "bold red"}


@click.command()
@click.option("--thorough", is_flag=True, help="Also test torch.compile, which takes a minute.")
@options.as_json
@click.pass_context
def doctor(ctx: click.Context, thorough: bool, as_json: bool) -> None:
    """Check what ffcore may need: devices, kernels, plugins, libraries, the disk.

    Each item is reported as working, absent (a problem only if you need it) or failing. The exit
    code is 4 if runs cannot work here.
    """
    from ffcore.doctor import examine

    findings = list(examine(thorough=thorough))
    failures = [each for each in findings if each.fails]
    if as_json:
        document = {"works": not failures, "findings": [attrs.asdict(each) for each in findings]}
        click.echo(json.dumps({"schema": 1, **document}, indent=2))
    else:
        _show(findings)
        names = ", ".join(f"{each.topic} {each.name}" for each in failures)
        click.echo(f"\nffcore does not work here: {names}" if failures else "\nffcore works here")
    if failures:
        ctx.exit(ExitCode.ENVIRONMENT)


def _show(findings: Sequence["Finding"]) -> None:
    """Print one table, each topic in its first row; cells wrap, nothing is cut off."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    table.add_column(overflow="fold", ratio=1)
    for topic, group in groupby(findings, key=lambda each: each.topic):
        for index, each in enumerate(group):
            words = each.found + (f": {each.advice}" if each.advice else "")
            first = Text(topic if index == 0 else "", style="bold")
            table.add_row(first, each.name, Text(each.state, STYLES[each.state]), Text(words))
    Console().print(table)
