"""Options of several commands, which mean the same in each."""

from typing import get_args

import click

from ffcore.solver import Method

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
device = click.option("--device", default="auto", show_default=True, help="Torch device.")
