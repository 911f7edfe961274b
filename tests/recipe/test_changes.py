"""What of a recipe may change within a run."""

import re
import tomllib
from pathlib import Path

import pytest

from ffcore.recipe import binding_digest, changes, load_recipe, to_toml
from ffcore.recipe.changes import FREE

BEFORE = load_recipe("gaussian.toml")


def test_a_recipe_has_not_changed_from_itself():
    assert not changes(to_toml(BEFORE), BEFORE)


@pytest.mark.parametrize(
    ("override", "free", "line"),
    [
        ("training.steps=7", True, "training.steps: 500 before, 7 now"),
        ("evaluation.solver.steps=7", True, "evaluation.solver.steps: 64 before, 7 now"),
        ("evaluation.euler=[1]", True, "evaluation.euler: [1, 2, 4, 8, 16] before, [1] now"),
        ("training.keep_every=5", True, "training.keep_every: 'none' before, 5 now"),
        ("training.batch=7", False, "training.batch: 256 before, 7 now"),
        ("student.width=7", False, "student.width: 128 before, 7 now"),
        ("optimizer.schedule='linear'", False, "schedule: 'cosine' before, 'linear' now"),
    ],
)
def test_a_key_that_has_changed_is_told_and_binds_or_not(override, free, line):
    after = load_recipe("gaussian.toml", [override])
    found = changes(to_toml(BEFORE), after)
    assert found
    assert (found.free if free else found.binding) == found.lines
    assert line in found.lines[0]
    assert found.has(override.partition("=")[0])
    assert not found.has("training.step")
    assert (binding_digest(after) == binding_digest(BEFORE)) == free


def test_another_component_is_a_change_of_its_keys():
    after = load_recipe("gaussian.toml", ["balancer={type='adaptive', correction=0.5}"])
    assert changes(to_toml(BEFORE), after).binding == ("balancer.correction: 0.25 before, 0.5 now",)


def test_the_free_keys_are_those_that_the_document_names():
    text = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    sentence = text.partition("You may change ")[2].partition(". A schedule")[0]
    tables, _, keys = " ".join(sentence.split()).partition("and the `training` keys")
    named = re.findall(r"`(\w+)`", tables) + [
        f"training.{key}" for key in re.findall(r"`(\w+)`", keys)
    ]
    assert sorted(named) == sorted(FREE)


def test_every_free_key_is_there():
    tree = tomllib.loads(to_toml(BEFORE))
    for name in FREE:
        table, _, key = name.partition(".")
        assert table in tree
        assert not key or key in tree[table]
