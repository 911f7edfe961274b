"""Options of several commands, which mean the same in each."""

import tomllib
from typing import Any, get_args

import click

from ffcore.flow.solver import Method

solver = click.option(
    "--solver", type=click.Choice(get_args(Method)), help="The teacher's. [default: the recipe's]"
)
batch = click.option(
    "--batch",
    default=64,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Samples made at a time; without influence on them.",
)
labels = click.option(
    "--labels",
    metavar="HOW",
    help="'balanced', 'random', or classes as in 0,3,7. [default: balanced, where there are "
    "classes]",
)
guidance = click.option("--guidance", type=float, help="Guidance scale γ. [default: the recipe's]")
result_as_json = click.option(
    "--json", "as_json", is_flag=True, help="Write the result as one JSON document."
)
device = click.option("--device", default="auto", show_default=True, help="Torch device.")


def table(role: str, text: str) -> Any:
    """Return the table of a component that an option names, or gives as an inline table of TOML."""
    from ffcore.recipe import component

    try:
        tree = tomllib.loads(f"x = {text}")["x"] if text.startswith("{") else {"type": text}
    except tomllib.TOMLDecodeError as error:
        raise click.UsageError(f"--{role} {text} is no table: {error}") from None
    return component(role, tree)
