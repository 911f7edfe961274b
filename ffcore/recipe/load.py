"""Load a recipe: read, merge and structure its layers, then check that components fit."""

import tomllib
from collections.abc import Iterable, Sequence
from functools import reduce
from os import PathLike, fspath
from pathlib import Path as File
from typing import Any

import attrs
import tomli_w

from ffcore.plugins import AmbiguousComponent, PluginError, Registry, installed
from ffcore.recipe.choices import Choices, incomplete, is_open, kept
from ffcore.recipe.component import component, locate
from ffcore.recipe.diagnostics import Diagnostic, Problems, RecipeError
from ffcore.recipe.merge import merge, parse_override
from ffcore.recipe.needs import contradictions, unmet_needs
from ffcore.recipe.plain import plain
from ffcore.recipe.source import Source, find_recipe, is_class, read_source
from ffcore.recipe.structure import make_converter
from ffcore.recipe.tables import DEFAULTS, Recipe
from ffcore.recipe.trust import registry_of, trusting


def load_recipe(
    recipe: str | PathLike[str],
    overrides: Iterable[str] = (),
    *,
    registry: Registry | None = None,
) -> Recipe:
    """Read a recipe file, or a packaged recipe by name, and resolve it.

    `overrides` apply in order, each `"key.path=<TOML value>"`. As with `extends`, tables merge,
    arrays are replaced, and a changed `type` resets its table. For a recipe that arrived, pass the
    `registry_of` its file. Raises `RecipeError` with every error. Does not import torch, unless the
    recipe leaves something to be chosen; see `ffcore.recipe.choose`.
    """
    return read_recipe(recipe, overrides, registry=registry).recipe


@attrs.frozen(kw_only=True)
class Loaded:
    """A resolved recipe, and what was chosen for it."""

    recipe: Recipe
    written: dict[str, Any]
    """What the recipe and the overrides say, as a plain tree."""
    choices: Choices
    """What they leave out, chosen for the teacher."""


def read_recipe(
    recipe: str | PathLike[str],
    overrides: Iterable[str] = (),
    *,
    registry: Registry | None = None,
    earlier: File | None = None,
) -> Loaded:
    """Do what `load_recipe` does, and also return what was chosen.

    Args:
        recipe: also `"module:Class"`, which stands for a recipe of this teacher alone.
        overrides, registry: see `load_recipe`.
        earlier: resolved recipe of the run that continues; what it chose is kept.
    """
    registry = installed() if registry is None else registry
    own = [*_sources(fspath(recipe)), *[_override(text) for text in overrides]]
    sources = [Source("(default)", _defaults(registry)), *own]
    registry = trusting(registry, [source.tree for source in sources if not source.is_file])
    written: dict[str, Any] = reduce(merge, (source.tree for source in own))
    choices = Choices()
    if incomplete(written):
        from ffcore.recipe.choose import choose

        _structure(sources, registry, may_be_open=True)
        choices = kept(choose(written, registry), earlier)
        sources.insert(1, Source("(chosen)", choices.tree))
    resolved = _structure(sources, registry)
    assert resolved is not None
    if problems := (*unmet_needs(resolved, registry), *contradictions(resolved)):
        raise locate(problems, sources)
    return Loaded(recipe=resolved, written=written, choices=choices)


def _structure(
    sources: Sequence[Source], registry: Registry, *, may_be_open: bool = False
) -> Recipe | None:
    """Return the recipe of these sources; None if only what is open is missing, and that may be.

    Raises RecipeError with every other error.
    """
    tree = reduce(merge, (source.tree for source in sources))
    try:
        found: Recipe = make_converter(registry).structure(tree, Recipe)
        return found
    except Problems as found:
        problems = [each for each in found.problems if not is_open(each)]
        if problems or not may_be_open:
            raise locate(problems if may_be_open else found.problems, sources) from None
        return None


def load_stored(recipe: File, overrides: Iterable[str] = (), *, trust: bool = False) -> Recipe:
    """Read the recipe of a run directory or an export, whose names are data; see `registry_of`."""
    return load_recipe(recipe, overrides, registry=registry_of(recipe, recipe, trust=trust))


def check_recorded(role: str, table: Any, *, registry: Registry | None = None) -> None:
    """Check that a table can be built again from what a run records of it: type and keys.

    Raises ValueError for a class that no other program can import by its name, or that this name no
    longer stands for, and for keys that TOML cannot hold.
    """
    registry = registry or installed()
    kind, name = type(table), registry.type_name(role, table)
    again = "so that nothing could build it again from the run's files"
    if kind.__module__ == "__main__":
        raise ValueError(
            f"type {name!r} is defined in the program that runs, {again}: move the class into a "
            "module, and import it from there"
        )
    if "<locals>" in kind.__qualname__:
        raise ValueError(
            f"type {name!r} is defined within a function, {again}: move the class to the top level "
            "of its module"
        )
    try:
        tree = tomllib.loads(tomli_w.dumps(plain(table, role, registry=registry)))
        found = component(role, tree, registry=registry)
    except (RecipeError, TypeError, ValueError) as error:
        raise ValueError(f"type {name!r} cannot be recorded, {again}: {error}") from None
    if type(found) is not kind:
        raise ValueError(
            f"type {name!r} now stands for another class, {again}: give each class its own name in "
            "the module that its __module__ names"
        )
    if plain(found, role, registry=registry) != plain(table, role, registry=registry):
        raise ValueError(f"type {name!r} changes keys that it reads from a file, {again}")


def _defaults(registry: Registry) -> dict[str, Any]:
    """Return DEFAULTS: ffcore's own components, even if other plugins use the same names."""

    def own(role: str, table: dict[str, str]) -> dict[str, str]:
        try:
            registry.find(role, table["type"])
        except AmbiguousComponent:
            return {"type": f"ffcore:{table['type']}"}
        except PluginError:
            pass  # reported with the recipe's other problems
        return table

    features = [own("features", each) for each in DEFAULTS["evaluation"]["features"]]
    return {
        "balancer": own("balancer", DEFAULTS["balancer"]),
        "decoder": own("decoder", DEFAULTS["decoder"]),
        "evaluation": {"features": features},
    }


def _sources(recipe: str) -> list[Source]:
    """Return the sources of a recipe: a file's lineage, or a teacher's class alone."""
    if is_class(recipe) and not File(recipe).exists():
        return [Source(recipe, {"teacher": {"type": recipe}})]
    return _lineage(find_recipe(recipe), ())


def _lineage(file: File, heirs: Sequence[File]) -> list[Source]:
    """Return the file's sources, the oldest ancestor first; `heirs` are the files that led here."""
    source = read_source(file)
    here = file.resolve()
    if here in heirs:
        circle = " extends ".join(str(f) for f in [*heirs[heirs.index(here) :], here])
        raise RecipeError([Diagnostic(str(file), "extends", f"extends itself: {circle}")])
    if "extends" not in source.tree:
        return [source]
    base = source.tree.pop("extends")
    line = source.line(("extends",))
    if not isinstance(base, str):
        message = f"extends: must be a string, found {base!r}"
        raise RecipeError([Diagnostic(source.name, "extends", message, line)])
    try:
        ancestor = find_recipe(base, near=file.parent)
    except RecipeError as error:
        message = f"extends {base!r}: {error.diagnostics[0].message}"
        raise RecipeError([Diagnostic(source.name, "extends", message, line)]) from None
    return [*_lineage(ancestor, [*heirs, here]), source]


def _override(text: str) -> Source:
    name = f"--set {text}"
    try:
        return Source(name, parse_override(text))
    except ValueError as error:
        raise RecipeError([Diagnostic(name, "", str(error))]) from None
