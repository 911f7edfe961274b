"""Which code the names in a file may import.

A user's own words are trusted, as a Makefile is: a recipe, a `module:Class` in `--set`. A file that
arrived is data: its names stand for components of installed plugins. The run directories that this
user made are known by a record outside them, under $XDG_STATE_HOME/ffcore: by the content of their
recipe, so that a directory may be moved, and with the path of each class's code, so that the same
name in another folder stays data.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from ffcore.plugins import Registry, installed, path_of_code
from ffcore.system.files import parse_json, write_text

_LOG = logging.getLogger(__name__)


def registry_of(file: Path, recipe: Path, *, trust: bool = False) -> Registry:
    """Return the registry for the names in a file.

    Args:
        file: as a message calls it.
        recipe: of its run directory, by which this user's own runs are known; it may be missing.
        trust: let the file name any class.
    """
    if trust:
        return installed()
    return attrs.evolve(installed(), file=str(file), known=partial(_recorded, recipe))


def trusting(registry: Registry, tree: object) -> Registry:
    """Return a registry that also takes the code and addresses that the user names in `tree`."""
    if not registry.file:
        return registry
    named = dict.fromkeys(_texts(tree))
    return attrs.evolve(registry, known=lambda: {**registry.known(), **named})


def remember(recipe: str, tree: Mapping[str, Any], tables: object = None) -> None:
    """Record the code and the downloads that a run of this user names in its files.

    Args:
        recipe: the text of the recipe in its directory.
        tree: with the types of components and the addresses.
        tables: with the functions that keys name.

    If the record cannot be written, the log says so; the run goes on.
    """
    names = [*_outside(tree, installed()), *_functions(tables)]
    code = {name: found for name in names if (found := path_of_code(name.rpartition(":")[0]))}
    downloads = {text: "" for text in _texts(tree) if text.startswith("hf://")}
    if not (code or downloads):
        return
    try:
        path = _record(recipe)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_text(
            path, json.dumps({"code": {**_read(path), **code, **downloads}}, indent=2) + "\n"
        )
    except (OSError, RuntimeError) as error:
        _LOG.warning(
            "the record of this user's runs cannot be written, so that commands on this run's "
            "directory will need --trust: %s",
            error,
        )


def _recorded(recipe: Path) -> dict[str, str | None]:
    try:
        return {**_read(_record(recipe.read_text(encoding="utf-8")))}
    except (OSError, ValueError, RuntimeError):
        return {}


def _read(path: Path) -> dict[str, str]:
    try:
        code = parse_json(path.read_text(encoding="utf-8"))["code"]
        return {str(name): str(place) for name, place in code.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _record(recipe: str) -> Path:
    """Return the path of a record; RuntimeError if this user has no home."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # the standard says to ignore a relative one
        state = Path.home() / ".local" / "state"
    return state / "ffcore" / "runs" / f"{hashlib.sha256(recipe.encode()).hexdigest()}.json"


def _outside(tree: object, registry: Registry) -> Iterator[str]:
    """Yield each `type` in a tree that names a class by its module."""
    if isinstance(tree, Mapping):
        kind = tree.get("type")
        if isinstance(kind, str) and registry.is_outside(kind):
            yield kind
    if isinstance(tree, Mapping | list | tuple):
        for each in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _outside(each, registry)


def _functions(table: Any) -> Iterator[str]:
    """Yield each function that a key of a table names by its module."""
    if isinstance(table, tuple):
        for each in table:
            yield from _functions(each)
    elif attrs.has(type(table)):
        for field in attrs.fields(type(table)):
            value = getattr(table, field.name)
            if field.metadata.get("imports") and isinstance(value, str) and ":" in value:
                yield value
            yield from _functions(value)


def _texts(tree: object) -> Iterator[str]:
    """Yield each text in a tree."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping | list | tuple):
        for each in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _texts(each)
