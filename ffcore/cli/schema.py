"""`ffd schema`: the JSON Schema by which editors complete and check recipes."""

import json

import click

from ffcore.plugins import installed
from ffcore.recipe.schema import schema as schema_of


@click.command()
def schema() -> None:
    """Print the JSON Schema of recipes, with the components of every installed plugin.

    Editors of TOML complete and check a recipe that names it in its first line:

    \b
        ffd schema > schema.json
        #:schema schema.json

    The schema checks each key. Only `ffd validate` checks rules that relate two keys.
    """
    click.echo(json.dumps(schema_of(installed()), indent=1, ensure_ascii=False))
