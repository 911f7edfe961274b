import copy
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffcore.recipe.merge import merge, parse_key, parse_override

NAMES = st.sampled_from(["type", "a", "b", "c"])
SCALARS = st.integers(0, 3) | st.sampled_from(["x", "y"])
TREES = st.recursive(
    st.dictionaries(NAMES, SCALARS, max_size=3),
    lambda inner: st.dictionaries(NAMES, SCALARS | inner | st.lists(inner, max_size=2), max_size=3),
    max_leaves=8,
)


@given(TREES)
def test_merging_a_tree_with_itself_changes_nothing(tree: dict[str, Any]) -> None:
    assert merge(tree, tree) == tree


@given(TREES)
def test_the_empty_tree_is_neutral_on_both_sides(tree: dict[str, Any]) -> None:
    assert merge({}, tree) == tree == merge(tree, {})


@given(TREES, TREES)
def test_merging_again_what_is_on_top_changes_nothing(
    below: dict[str, Any], above: dict[str, Any]
) -> None:
    once = merge(below, above)
    assert merge(once, above) == once


@given(TREES, TREES)
def test_merging_leaves_its_arguments_as_they_were(
    below: dict[str, Any], above: dict[str, Any]
) -> None:
    before = copy.deepcopy((below, above))
    merge(below, above)
    assert (below, above) == before


def test_tables_merge_and_arrays_are_replaced() -> None:
    below = {"a": {"x": 1, "y": 2}, "b": [1, 2, 3]}
    assert merge(below, {"a": {"y": 3}, "b": [4]}) == {"a": {"x": 1, "y": 3}, "b": [4]}


def test_a_changed_type_resets_its_table_and_an_equal_one_does_not() -> None:
    below = {"student": {"type": "sit", "depth": 4}}
    assert merge(below, {"student": {"type": "mlp"}}) == {"student": {"type": "mlp"}}
    assert merge(below, {"student": {"type": "sit"}}) == below


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("training.steps=3", {"training": {"steps": 3}}),
        ("a = 1.5 ", {"a": 1.5}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a={b=true}", {"a": {"b": True}}),
        ("a='3'", {"a": "3"}),
        ("a=mlp", {"a": "mlp"}),
        ("a=x=y", {"a": "x=y"}),
        ("a=", {"a": ""}),
        ("a=1\nb=2", {"a": "1\nb=2"}),
        ('"a.b".c=1', {"a.b": {"c": 1}}),
    ],
)
def test_an_override_is_a_toml_value_or_else_a_string(text: str, tree: dict[str, Any]) -> None:
    assert parse_override(text) == tree


@pytest.mark.parametrize("text", ["", "steps", "=3", "a..b=3", "a b=3", "{a=1}.b=3"])
def test_an_override_without_a_key_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="KEY=VALUE"):
        parse_override(text)


@given(st.lists(st.text("ab-_1", min_size=1), min_size=1, max_size=4))
def test_bare_dotted_keys_are_split_at_their_dots(names: list[str]) -> None:
    assert parse_key(".".join(names)) == tuple(names)


@given(st.lists(st.tuples(NAMES, st.integers(0, 9)), min_size=1))
def test_the_last_override_of_a_key_wins(settings: list[tuple[str, int]]) -> None:
    trees = (parse_override(f"t.{name}={value}") for name, value in settings if name != "type")
    empty: dict[str, Any] = {}
    assert reduce(merge, trees, empty).get("t", {}) == {k: v for k, v in settings if k != "type"}
