"""`ffd check-plugin`: the laws of each role, for every component of a distribution."""

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
"""The columns of the table, each with the statuses that it counts."""


_EXAMPLES = (
    "\b\nExamples:\n"
    "  ffd check-plugin ffcore-kernel\n"
    "  ffd check-plugin module:Class --role predictor\n"
)


@click.command(epilog=_EXAMPLES)
@click.argument("plugin", metavar="DISTRIBUTION|MODULE:CLASS")
@options.role("Role of MODULE:CLASS, if ffcore cannot infer it from what the class builds.")
@click.option(
    "--conditions",
    metavar="TYPE",
    help="Type of a table [conditions] for MODULE:CLASS, if that is a teacher that needs one.",
)
@click.option(
    "--expect",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help='TOML file of known failures: "role/name/law" = "reason". A listed law that holds '
    "counts as a failure.",
)
@options.as_json
@click.pass_context
def check_plugin(
    ctx: click.Context,
    plugin: str,
    role: str | None,
    conditions: str | None,
    expect: Path | None,
    as_json: bool,
) -> None:
    """Check the components of a distribution, or one class, against the laws of their roles.

    Exit codes: 0 if every law holds or fails as expected, 1 if a law is broken, 3 if there is no
    such plugin.
    """
    expected = _read(expect)
    # A component is built again for every law, and would repeat its messages each time.
    if (logger := logging.getLogger("ffcore")).level > logging.DEBUG:
        logger.setLevel(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):  # a plugin may print anything
        results = _check(plugin, role, conditions, expected)
    fails = any(each.fails for each in results)
    if as_json:
        listed = [attrs.asdict(each) | {"name": each.name} for each in results]
        click.echo(json.dumps({"schema": 1, "holds": not fails, "results": listed}, indent=2))
    else:
        width = shutil.get_terminal_size().columns
        for line in _lines(results, width):
            click.echo(line)
    ctx.exit(ExitCode.FAILED if fails else ExitCode.OK)


def _check(
    plugin: str, role: str | None, conditions: str | None, expected: dict[str, str]
) -> list[Result]:
    """Return the results. Raises UsageError for a wrong command line."""
    from ffcore.testing import check_class, check_distribution

    try:
        if ":" in plugin:
            return check_class(plugin, role, conditions=conditions, expected=expected)
        if role is not None or conditions is not None:
            raise click.UsageError(
                "--role and --conditions are for MODULE:CLASS; a distribution declares the roles "
                "of its components, and ffcore finds the conditions that its teachers need"
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
        raise click.UsageError(f'{expect} may hold only lines "role/name/law" = "reason"')
    return found


def _lines(results: list[Result], width: int) -> Iterator[str]:
    """Yield the counts of each component, then the failures with their reasons, then the total."""
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
    """Wrap between words only, so that names and paths can be copied."""
    return textwrap.fill(
        text,
        width,
        initial_indent=f"  {label:<8}",
        subsequent_indent=" " * 10,
        break_long_words=False,
        break_on_hyphens=False,
    )
