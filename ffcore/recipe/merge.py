"""Merging of recipe trees: what `extends` and `--set` mean."""

import tomllib
from typing import Any

Tree = dict[str, Any]


def merge(below: Tree, above: Tree) -> Tree:
    """`below` overridden by `above`: tables merge, all else (arrays too) is replaced.

    A table whose `type` changes is another component's table, so nothing of the old one stays.
    """
    if "type" in below and "type" in above and below["type"] != above["type"]:
        return above
    merged = below | above
    for name in below.keys() & above.keys():
        if isinstance(below[name], dict) and isinstance(above[name], dict):
            merged[name] = merge(below[name], above[name])
    return merged


def parse_override(text: str) -> Tree:
    """The tree of one `key.path=value`; a value that is no TOML is taken as a string.

    Raises `ValueError` where there is no key.
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
    """The names in a dotted TOML key; None if it is none."""
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
