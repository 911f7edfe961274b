"""`ffd validate`: every error in the tables of recipes, without importing torch.

`ffd run` checks weights, files and the machine before it trains.
"""

import json
from typing import Any

import attrs
import click

from ffcore.cli import options
from ffcore.cli.errors import verdict
from ffcore.cli.exit_codes import ExitCode
from ffcore.plugins import installed
from ffcore.recipe import Recipe, RecipeError, digest, load_recipe

ROLES_SHOWN = ("teacher", "student", "predictor", "corrector", "data")


_EXAMPLES = "\b\nExample:\n  ffd validate digits.toml mine.toml --set training.steps=100\n"


@click.command(epilog=_EXAMPLES)
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True)
@options.overrides("Override a key of the recipe, as in training.steps=100.")
@options.as_json
@click.pass_context
def validate(
    ctx: click.Context, recipes: tuple[str, ...], overrides: tuple[str, ...], as_json: bool
) -> None:
    """Check recipes without running them: print every error, or one line for a valid recipe.

    Files that a recipe names are not read: `ffd run` checks them before it trains.
    """
    results = {name: _attempt(name, overrides) for name in recipes}
    if as_json:
        documents = [_document(name, result) for name, result in results.items()]
        click.echo(json.dumps({"schema": 1, "recipes": documents}, indent=2))
    for name, result in results.items():
        if isinstance(result, RecipeError):
            click.echo(str(result), err=True)
        elif not as_json:
            types = ", ".join(f"{role} {kind}" for role, kind in _types(result).items())
            click.echo(f"{name}: ok ({types})")
    errors = [result for result in results.values() if isinstance(result, RecipeError)]
    if errors:
        found = (diagnostic for error in errors for diagnostic in error.diagnostics)
        ctx.exit(verdict(RecipeError(found)) or ExitCode.USAGE)


def _attempt(name: str, overrides: tuple[str, ...]) -> Recipe | RecipeError:
    try:
        return load_recipe(name, overrides)
    except RecipeError as error:
        return error


def _types(recipe: Recipe) -> dict[str, str]:
    tables = {role: getattr(recipe, role) for role in ROLES_SHOWN}
    return {
        role: installed().type_name(role, table)
        for role, table in tables.items()
        if table is not None
    }


def _document(name: str, result: Recipe | RecipeError) -> dict[str, Any]:
    if isinstance(result, RecipeError):
        diagnostics = [attrs.asdict(diagnostic) for diagnostic in result.diagnostics]
        return {"recipe": name, "ok": False, "diagnostics": diagnostics}
    return {"recipe": name, "ok": True, "types": _types(result), "digest": digest(result)}
