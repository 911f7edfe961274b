"""`ffd init`: a recipe for a teacher, with a comment for each choice."""

import tomllib
from pathlib import Path
from typing import Any

import click
import tomli_w

from ffcore.cli import options
from ffcore.recipe import read_recipe
from ffcore.recipe.choices import Choices
from ffcore.recipe.merge import merge
from ffcore.system.files import write_text

_EXAMPLES = "\b\nExamples:\n  ffd init mine:Mine --out mine.toml\n  ffd init teacher.toml\n"


@click.command(epilog=_EXAMPLES)
@click.argument("recipe")
@options.overrides("State a key, as in training.minutes=5.")
@click.option("--out", type=click.Path(path_type=Path), help="New file. [default: standard output]")
def init(recipe: str, overrides: tuple[str, ...], out: Path | None) -> None:
    """Write a recipe with all that ffcore chooses for a teacher, for you to edit.

    RECIPE is a recipe of [teacher] alone, or of more, or a teacher's table package.module:Class.
    """
    if out is not None and out.exists():
        raise click.UsageError(f"{out} exists: choose another file")
    loaded = read_recipe(recipe, overrides)
    text = annotated(merge(loaded.choices.tree, loaded.written), loaded.choices)
    if out is None:
        click.echo(text, nl=False)
        return
    write_text(out, text)
    click.echo(f"wrote {out}: ffd run {out}")


def annotated(tree: dict[str, Any], choices: Choices) -> str:
    """Return a recipe as TOML, with its reason beside each choice."""
    order = ("teacher", "conditions", "student", "predictor", "corrector")
    tables = sorted(tree, key=lambda name: order.index(name) if name in order else len(order))
    lines = []
    table = ""
    for line in tomli_w.dumps({name: tree[name] for name in tables}).splitlines():
        if line.startswith("["):
            table = line.strip("[]")
        name = line.partition(" = ")[0]
        dotted = table if name == "type" else f"{table}.{name}"
        if " = " in line and (why := choices.reasons.get(dotted)) and _chosen(choices, table, name):
            line = f"{line}  # {why}"
        lines.append(line)
    head = f"# Chosen for {choices.facts}. Edit what you like.\n\n" if choices.tree else ""
    text = head + "\n".join(lines) + "\n"
    tomllib.loads(text)
    return text


def _chosen(choices: Choices, table: str, name: str) -> bool:
    return name in choices.tree.get(table, {})
