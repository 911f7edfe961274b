"""A registry of the fake plugin, and a way to write and load a recipe."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_plugin.plugin import ffcore_components

from ffcore.plugins import Plugin, Registry
from ffcore.recipe import Recipe, RecipeError, load_recipe

Load = Callable[..., Recipe]
Errors = Callable[..., list[str]]

RECIPE = """\
[teacher]
type = "point"

[student]
type = "line"
depth = 2

[predictor]
type = "identity"

[training]
steps = 10
"""


@pytest.fixture(scope="session")
def registry() -> Registry:
    plugin = Plugin(
        name="fake",
        distribution="fake-dist",
        version="1.2",
        value="fake_plugin.plugin",
        state="active",
        components=tuple(ffcore_components()),
    )
    return Registry((plugin,))


@pytest.fixture
def load(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a recipe from its text: `load(text, "key=value", …)`, as the file `x.toml`."""
    monkeypatch.chdir(tmp_path)

    def load_text(text: str = RECIPE, *overrides: str) -> Recipe:
        Path("x.toml").write_text(text)
        return load_recipe("x.toml", overrides, registry=registry)

    return load_text


@pytest.fixture
def errors(load: Load) -> Errors:
    """The lines of the `RecipeError` that loading raises."""

    def lines(text: str = RECIPE, *overrides: str) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            load(text, *overrides)
        return str(caught.value).splitlines()

    return lines


@pytest.fixture
def text() -> str:
    return RECIPE
