"""Merging of recipe trees, for `extends` and `--set`."""

import tomllib
from typing import Any

Tree = dict[str, Any]


def merge(below: Tree, above: Tree) -> Tree:
    """Return `below` overridden by `above`: tables merge, anything else (arrays too) is replaced.

    A table with a new `type` belongs to another component and replaces the old one.
    """
    if "type" in below and "type" in above and below["type"] != above["type"]:
        return above
    merged = below | above
    for name in below.keys() & above.keys():
        if isinstance(below[name], dict) and isinstance(above[name], dict):
            merged[name] = merge(below[name], above[name])
    return merged


def parse_override(text: str) -> Tree:
    """Return the tree of one `key.path=value`; a value that is not TOML is a string.

    Raises `ValueError` if there is no key.
    """
    key, equals, value = text.partition("=")
    path = parse_key(key.strip())
    if not (equals and path):
        raise ValueError("expected KEY=VALUE, as in training.steps=100")
    tree: Any = _parse_value(value.strip())
    for name in reversed(path):
        tree = {name: tree}
    return dict(tree)


def parse_key(text: str) -> tuple[str, ...] | None:
    """Return the names in a dotted TOML key; None for anything else."""
    try:
        tree: Any = tomllib.loads(f"{text} = 0")
    except tomllib.TOMLDecodeError:
        return None
    path = []
    while isinstance(tree, dict):
        if len(tree) != 1:
            return None
        ((name, tree),) = tree.items()
        path.append(name)
    return tuple(path)


def _parse_value(text: str) -> object:
    try:
        tree = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return tree["value"] if tree.keys() == {"value"} else text
