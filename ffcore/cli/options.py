"""Options that several commands share.

An option with the same help in every command is a value; the others are functions of their help.
"""

import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from ffcore.flow.solver import Method

Option = Callable[[Callable[..., Any]], Callable[..., Any]]

as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON document."
)
device = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Torch device, as in cpu or cuda:1; auto prefers a GPU.",
)
batch = click.option(
    "--batch",
    default=64,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Number of samples generated at a time; affects them only with dopri5.",
)
labels = click.option(
    "--labels",
    metavar="HOW",
    help="Class labels: 'balanced' (0, 1, 2, …, repeated), 'random', or a list to repeat, as in "
    "0,3,7. The two words also choose conditions of other kinds. [default: balanced, if there are "
    "classes or names]",
)
condition = click.option(
    "--condition",
    metavar="NAME",
    multiple=True,
    help="Name of a condition, such as a prompt. May be repeated; the samples go through all of "
    "them in turn.",
)
trust = click.option(
    "--trust",
    is_flag=True,
    help="Run code that files outside your own runs name and that no installed plugin provides. "
    "Read it first.",
)


class Finite(click.FloatRange):
    """A finite number; click's own ranges accept nan."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Return the number; UsageError for any other value."""
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"must be finite, found {value}", param, ctx)
        return found


guidance = click.option(
    "--guidance", type=Finite(), help="Guidance scale γ. [default: the recipe's]"
)


def number(text: str, *, least: int = 1, default: int | None = None) -> Option:
    """Return --number, of samples."""
    return click.option(
        "--number",
        "-n",
        default=default,
        show_default=default is not None,
        type=click.IntRange(min=least),
        help=text,
    )


def seed(text: str, *, default: int | None = 0) -> Option:
    """Return --seed, of noise and conditions."""
    return click.option(
        "--seed",
        default=default,
        show_default=default is not None,
        type=click.IntRange(0, 2**63 - 1),
        help=text,
    )


def solver(text: str = "Solver of the teacher. [default: the recipe's]", **more: Any) -> Option:
    """Return --solver, of the teacher's ODE."""
    return click.option("--solver", type=click.Choice(get_args(Method)), help=text, **more)


def steps(text: str, *, least: int = 1) -> Option:
    """Return --steps, of a student or of a solver."""
    return click.option("--steps", type=click.IntRange(min=least), help=text)


def teacher(verb: str) -> Option:
    """Return --teacher, which applies the command to the teacher."""
    return click.option(
        "--teacher", is_flag=True, help=f"{verb} the teacher of a recipe or run, not a student."
    )


def features(text: str) -> Option:
    """Return --features, the spaces in which to measure distances."""
    return click.option("--features", "-f", "spaces", multiple=True, metavar="NAME", help=text)


def reference(text: str) -> Option:
    """Return --reference, to measure samples against."""
    return click.option("--reference", "-r", "against", help=text)


def overrides(text: str) -> Option:
    """Return --set, which overrides keys of the recipe."""
    return click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        help=f"{text} May be repeated; the last wins.",
    )


def out(text: str, *, file: bool = True, folder: bool = True, **more: Any) -> Option:
    """Return --out, the path of the result: a `file` or a `folder`."""
    kind = click.Path(path_type=Path, file_okay=file, dir_okay=folder)
    return click.option("--out", "-o", type=kind, help=text, **more)


def overwrite(text: str) -> Option:
    """Return --overwrite, which replaces what is at --out."""
    return click.option("--overwrite", is_flag=True, help=text)


def directory(text: str) -> Option:
    """Return --directory, to write into."""
    return click.option("--directory", "-d", type=click.Path(path_type=Path), help=text)


def role(text: str, *, required: bool = False) -> Option:
    """Return --role, of a component."""
    from ffcore.plugins import ROLES

    return click.option(
        "--role",
        required=required,
        metavar="ROLE",
        type=click.Choice(list(ROLES)),
        help=f"{text} One of {', '.join(ROLES)}.",
    )


def table(role: str, text: str) -> Any:
    """Return the table of a component, which an option gives by name or as an inline TOML table."""
    from ffcore.recipe import component

    try:
        tree = tomllib.loads(f"x = {text}")["x"] if text.startswith("{") else {"type": text}
    except tomllib.TOMLDecodeError as error:
        raise click.UsageError(f"--{role} {text} is not a TOML table: {error}") from None
    return component(role, tree)
