"""The JSON Schema of recipes: it passes every recipe of ours, and finds what is wrong in others."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from ffcore.cli import main
from ffcore.plugins import Registry
from ffcore.recipe import RecipeError, load_recipe
from ffcore.recipe.merge import merge, parse_override
from ffcore.recipe.schema import schema

RECIPES = Path(__file__).parents[2] / "recipes"
Check = jsonschema.Draft7Validator


@pytest.fixture(scope="module")
def check() -> Any:
    found = schema(Registry.load())
    Check.check_schema(found)
    return Check(found)


def digits(*changes: str) -> dict[str, Any]:
    """The recipe of the digits, with changes as `--set` makes them."""
    tree = tomllib.loads((RECIPES / "digits.toml").read_text())
    return reduce(merge, map(parse_override, changes), tree)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_of_ours_passes_and_names_it(check: Any, path: Path) -> None:
    assert [each.message for each in check.iter_errors(tomllib.loads(path.read_text()))] == []
    first = path.read_text().splitlines()[0]
    assert first == "#:schema schema.json"


def test_a_resolved_recipe_passes(check: Any) -> None:
    from ffcore.recipe import to_toml

    for name in ("digits.toml", "digits_meanflow.toml", "gaussian.toml"):
        assert check.is_valid(tomllib.loads(to_toml(load_recipe(name))))


def test_the_one_beside_our_recipes_is_what_the_command_prints() -> None:
    found = CliRunner().invoke(main, ["--no-plugins", "schema"])
    written = (RECIPES / "schema.json").read_text()
    assert found.stdout == written, "run: ffd --no-plugins schema > recipes/schema.json"


WRONG = [
    "training.step=10",
    "trainng.steps=10",
    "training.steps=0",
    "training.steps=2.5",
    "training.steps='many'",
    "training.ema_decay=1.0",
    "training.ema_decay=[0.5, -0.1]",
    "training.precision='float16'",
    "training.compile='false'",
    "training.clip='nothing'",
    "teacher=3",
    "teacher.type='sitt'",
    "teacher.modell='S/2'",
    "predictor.type='vsd'",
    "predictor='off'",
    "corrector.online_optimizer={learning_rate=-1.0}",
    "optimizer.learning_rate=0",
    "optimizer.schedule='stairs'",
    "guidance.interval=[0.0, 0.5, 1.0]",
    "guidance.interval=[0.0, 1.5]",
    "evaluation.euler=4",
    "evaluation.features=['raw']",
    "evaluation.solver={method='leapfrog'}",
    "parallel.strategy='zero'",
    "trackers=[{type='mlflow'}]",
]


@pytest.mark.parametrize("change", WRONG)
def test_what_is_wrong_is_found_where_it_stands(check: Any, change: str) -> None:
    assert check.is_valid(digits())
    errors = list(check.iter_errors(digits(change)))
    assert errors
    table = change.partition("=")[0].split(".")[0]
    assert any(table in {*map(str, each.absolute_path)} or table in each.message for each in errors)
    with pytest.raises(RecipeError):
        load_recipe(RECIPES / "digits.toml", [change])


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    table, _, key = name.partition(".")

    def remove(tree: dict[str, Any]) -> dict[str, Any]:
        del (tree[table] if key else tree)[key or table]
        return tree

    return remove


@pytest.mark.parametrize("name", ["teacher", "teacher.type"])
def test_what_is_missing_is_found_unless_the_recipe_extends_another(check: Any, name: str) -> None:
    tree = without(name)(digits())
    (error,) = check.iter_errors(tree)
    assert f"'{name.rpartition('.')[2]}' is a required property" in error.message
    assert check.is_valid(tree | {"extends": "base.toml"})


@pytest.mark.parametrize("name", ["student", "predictor", "training", "training.steps"])
def test_what_is_chosen_may_be_left_out(check: Any, name: str) -> None:
    assert check.is_valid(without(name)(digits()))


def test_a_recipe_that_extends_another_is_checked_too(check: Any) -> None:
    extends = {"extends": "digits.toml"}
    assert check.is_valid(extends | {"training": {"steps": 5}})
    assert not check.is_valid(extends | {"training": {"step": 5}})
    assert not check.is_valid(extends | {"teacher": {"type": "sit", "weight": "x.pt"}})


def test_a_key_has_its_help_its_default_and_its_bounds(check: Any) -> None:
    seed = check.schema["definitions"]["Training"]["properties"]["seed"]
    assert seed["description"].startswith("seed")
    assert (seed["default"], seed["minimum"], seed["type"]) == (0, 0, "integer")


def test_the_components_of_other_distributions_are_in_it(
    distribute: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = """
from ffcore.plugins import Component, hookimpl

@hookimpl
def ffcore_components():
    return [Component("teacher", "moon", "moon_tables:Moon", "A moon.")]
"""
    tables = """
import attrs
from ffcore.keys import key

@attrs.frozen(kw_only=True)
class Moon:
    phase: float = key(help="phase", at_least=0)
"""
    distribute("moon-dist", {"moon": "moon_plugin"}, moon_plugin=plugin, moon_tables=tables)
    check = Check(schema(Registry.load()))
    moon = {"teacher": {"type": "moon", "phase": 0.5}}
    assert check.is_valid(digits() | moon)
    assert check.is_valid(digits() | {"teacher": {"type": "moon-dist:moon", "phase": 0.5}})
    assert not check.is_valid(digits() | {"teacher": {"type": "moon", "phase": -1}})
    assert not check.is_valid(digits() | {"teacher": {"type": "moon-dist:moon", "phse": 1}})


def test_a_class_without_a_plugin_may_have_any_keys(check: Any) -> None:
    assert check.is_valid(digits() | {"teacher": {"type": "mine:Teacher", "anything": 1}})
    assert not check.is_valid(digits() | {"teacher": {"type": "mine"}})


def test_it_is_made_without_torch() -> None:
    code = (
        "import sys\nfrom ffcore.cli import main\n"
        "main(['schema'], standalone_mode=False)\nassert 'torch' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(found.stdout)["$schema"].endswith("draft-07/schema#")
