"""`ffd check-plugin`: the laws of every role, over what a distribution registers."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from ffcore.cli import options
from ffcore.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from ffcore.testing import Result

COLUMNS = {
    "hold": ("holds",),
    "to fix": ("broken", "holds unexpectedly"),
    "expected": ("broken as expected",),
    "not checked": ("not checked",),
}
"""What is counted, and the statuses that each counts."""


@click.command()
@click.argument("plugin", metavar="DISTRIBUTION|MODULE:CLASS")
@options.role("Role of MODULE:CLASS, where what it builds leaves that open.")
@click.option(
    "--expect",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help='TOML file of known failures, "role/name/law" = "reason"; a law that holds in spite '
    "of it fails.",
)
@options.as_json
@click.pass_context
def check_plugin(
    ctx: click.Context, plugin: str, role: str | None, expect: Path | None, as_json: bool
) -> None:
    """Check the components of a distribution, or one class, by the laws of their roles.

    Exit code 0: all laws hold, or fail as expected; 1: some are broken; 3: no such plugin.
    """
    expected = _read(expect)
    # A component is built again for every law; what it has to say each time is not news.
    if (logger := logging.getLogger("ffcore")).level > logging.DEBUG:
        logger.setLevel(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):  # for what a stranger's code prints
        results = _check(plugin, role, expected)
    fails = any(each.fails for each in results)
    if as_json:
        listed = [attrs.asdict(each) | {"name": each.name} for each in results]
        click.echo(json.dumps({"schema": 1, "holds": not fails, "results": listed}, indent=2))
    else:
        width = shutil.get_terminal_size().columns
        for line in _lines(results, width):
            click.echo(line)
    ctx.exit(ExitCode.FAILED if fails else ExitCode.OK)


def _check(plugin: str, role: str | None, expected: dict[str, str]) -> list[Result]:
    """Return the results. Raises UsageError for what the command line asks amiss."""
    from ffcore.testing import check_class, check_distribution

    try:
        if ":" in plugin:
            return check_class(plugin, role, expected=expected)
        if role is not None:
            raise click.UsageError(
                "--role is for MODULE:CLASS; a distribution says what its components are"
            )
        return check_distribution(
            plugin,
            expected=expected,
            progress=lambda what: click.echo(f"checking {what}", err=True),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _read(expect: Path | None) -> dict[str, str]:
    if expect is None:
        return {}
    try:
        found: dict[str, Any] = tomllib.loads(expect.read_text(encoding="utf-8"))
    except ValueError as error:
        raise click.UsageError(f"{expect} is not TOML: {error}") from error
    if not all(isinstance(each, str) for each in found.values()):
        raise click.UsageError(f'{expect} must hold lines "role/name/law" = "reason" alone')
    return found


def _lines(results: list[Result], width: int) -> Iterator[str]:
    """A count for each component, what there is to fix or to know, and a sum."""
    components = list(dict.fromkeys(each.component for each in results))
    name_width = max(map(len, ("component", *components)))
    yield f"{'component':<{name_width}}" + "".join(f"  {name:>9}" for name in COLUMNS)
    for component in components:
        counts = _counts([each for each in results if each.component == component])
        yield f"{component:<{name_width}}" + "".join(f"  {n or '-':>9}" for n in counts.values())
    for each in results:
        if each.fails:
            yield f"\n{each.name} ({each.number}): {each.status}"
            yield _wrapped(each.text, "law", width)
            yield _wrapped(each.found, "found", width)
        elif each.status == "broken as expected":
            yield f"\n{each.name} ({each.number}): {each.status}"
            yield _wrapped(each.found, "reason", width)
        elif each.law == "is-buildable" and each.status == "not checked":
            yield f"\n{each.component}: not checked"
            yield _wrapped(each.found, "reason", width)
    sums = ", ".join(f"{count} {name}" for name, count in _counts(results).items() if count)
    yield f"\n{len(components)} checked, {len(results)} laws: {sums}"


def _counts(results: list[Result]) -> dict[str, int]:
    return {
        name: sum(each.status in statuses for each in results) for name, statuses in COLUMNS.items()
    }


def _wrapped(text: str, label: str, width: int) -> str:
    """Wrap between words only: names and paths stay whole, to be copied."""
    return textwrap.fill(
        text,
        width,
        initial_indent=f"  {label:<8}",
        subsequent_indent=" " * 10,
        break_long_words=False,
        break_on_hyphens=False,
    )
