import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from ffcore.recipe import RecipeError, packaged_recipes
from ffcore.recipe.source import find_recipe, lines_of_keys, read_source

TEXT = '''\
extends = "base.toml"

[student]          # a comment
type = "mlp"
law.low = 0.1
note = """
[not_a_table]
type = "not a key"
"""

[[evaluation.features]]
type = "raw"

[[evaluation.features]]
type = "deep"
inner = { layer = 3 }
'''

KEYS = st.sampled_from(["a", "b", "c d", "e.f"])
VALUES = st.integers() | st.text("ab=[]\n'\"", max_size=6) | st.lists(st.integers(), max_size=3)
TREES = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=3),
    lambda inner: st.dictionaries(
        KEYS, VALUES | inner | st.lists(inner, min_size=1, max_size=2), max_size=3
    ),
    max_leaves=8,
)


def test_keys_and_tables_are_found_at_their_lines() -> None:
    lines = lines_of_keys(TEXT)
    assert lines["extends",] == 1
    assert lines["student",] == 3
    assert lines["student", "law", "low"] == 5
    assert lines["evaluation", "features", 0, "type"] == 12
    assert lines["evaluation", "features", 1] == 14


def test_a_path_that_is_met_twice_has_no_line() -> None:
    text = 'a = """\nb = 1\n"""\nb = 2\n'
    assert lines_of_keys(text) == {("a",): 1}


@given(TREES)
def test_a_line_that_is_given_starts_with_its_own_key(tree: dict[str, Any]) -> None:
    text = tomli_w.dumps(tree, multiline_strings=False)
    rows = text.split("\n")
    for path, number in lines_of_keys(text).items():
        name = next(step for step in reversed(path) if isinstance(step, str))
        row = rows[number - 1]
        key = row.strip("[]") if row.startswith("[") else row.split(" = ")[0]
        assert tomllib.loads(f"{key} = 0")
        assert name in key


def test_a_key_within_an_inline_table_gets_the_line_of_its_table(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(TEXT)
    source = read_source(tmp_path / "x.toml")
    path = ("evaluation", "features", 1, "inner", "layer")
    assert source.holds(path)
    assert source.line(path) == 16
    assert not source.holds(("evaluation", "features", 2))
    assert not source.holds(("student", "type", "x"))


@pytest.mark.parametrize(
    ("content", "message", "line"),
    [
        (b"a = 1\nb = \n", "is not TOML: Invalid value", 2),
        (b"a = '\xff'", "is not UTF-8 text: invalid start byte at byte 5", None),
        (b"a = 1\na = 2\n\n", "is not TOML: Cannot overwrite a value", 2),
        (b"a = " + b"[" * 100_000, "is not TOML", None),
        (b"a = " + b"9" * 5000, "is not TOML", None),
    ],
)
def test_a_file_that_is_no_toml_is_one_message(
    tmp_path: Path, content: bytes, message: str, line: int | None
) -> None:
    (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        read_source(tmp_path / "x.toml")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.message.startswith(message)
    assert diagnostic.line == line
    assert len(str(diagnostic).splitlines()) == 1


def test_a_folder_cannot_be_read_as_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        read_source(tmp_path)


def test_a_file_is_found_by_its_path_before_any_packaged_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = tmp_path / "packaged"
    packaged.mkdir()
    (packaged / "known.toml").touch()
    monkeypatch.setattr("ffcore.recipe.source.packaged_recipes", lambda: packaged)
    monkeypatch.chdir(tmp_path)
    assert find_recipe("known.toml") == packaged / "known.toml"
    Path("known.toml").touch()
    assert find_recipe("known.toml") == Path("known.toml")
    with pytest.raises(RecipeError, match=r"no such file; did you mean 'known.toml'"):
        find_recipe("knwon.toml")
    with pytest.raises(RecipeError, match="no such file"):
        find_recipe("elsewhere/known.toml")


def test_the_packaged_recipes_have_a_folder() -> None:
    assert packaged_recipes().is_dir()
