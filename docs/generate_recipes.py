"""Writes docs/reference/keys.md from the code: `python docs/generate_recipes.py`.

Every table is a frozen attrs class whose fields have help and possible values (ffcore/keys.py). The
registry lists the components; only ffcore's own are on the page.
"""

import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs
import tomli_w

from ffcore.keys import kind_of, role_of
from ffcore.plugins import ROLES, Component, Registry
from ffcore.recipe import Recipe
from ffcore.recipe.tables import DEFAULTS

PATH = Path(__file__).parent / "reference" / "keys.md"

INTRODUCTION = """\
# Recipe keys

Do not edit: `docs/generate_recipes.py` writes this page. A test compares it with the code.

Every table and key of a recipe. The page on [recipes](../recipes.md) says how to write one.
"""

WITHIN = """\
If you set only some keys of such a table, the others keep the default of the key that holds it:
`r = { scale = 2.0 }` stays logit-normal if that is the default of `r`.
"""

_SCALARS = {bool: "`true` or `false`", int: "integer", float: "number", str: "string"}


def document() -> str:
    """Return the page."""
    registry = Registry.load()
    components = [
        component
        for plugin in registry.plugins
        if plugin.distribution == "ffcore"
        for component in plugin.components
    ]
    shared: dict[type, None] = {}  # in order of first use
    own = [
        f"## [{field.name}]\n\n{_table(kind_of(field), shared)}"
        for field in _fields(Recipe)
        if attrs.has(kind_of(field))
    ]
    roles = [
        part
        for role, meaning in ROLES.items()
        for part in _role(role, meaning, components, registry, shared)
    ]
    headings = {kind_of(field) for field in _fields(Recipe)}
    inner = [
        f"### Table {kind.__name__}\n\n{_first_line(kind)}\n\n{_table(kind, {})}"
        for kind in shared
        if kind not in headings
    ]
    parts = [
        INTRODUCTION,
        f"## The top level\n\n{_table(Recipe, {})}",
        *own,
        "## Components",
        *roles,
        f"## Tables within tables\n\n{WITHIN}",
        *inner,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _role(
    role: str,
    meaning: str,
    components: Iterable[Component],
    registry: Registry,
    shared: dict[type, None],
) -> Iterator[str]:
    yield f"### {role}\n\n{meaning[0].upper()}{meaning[1:]}."
    for component in sorted(components, key=lambda each: each.name):
        if component.role == role:
            table = _table(registry.table(role, component.name), shared)
            source = f" {component.citation}." if component.citation else ""
            yield f"#### {role} {component.name}\n\n{component.summary}.{source}\n\n{table}"


def _table(table: type, shared: dict[type, None]) -> str:
    """Return the keys of a table as a Markdown table; tables met inside are added to `shared`."""
    fields = _fields(table)
    if not fields:
        return "No keys except `type`."
    rows = ["| key | type | default | range | meaning |", "|---|---|---|---|---|"]
    for field in fields:
        kind = kind_of(field)
        shared |= dict.fromkeys(_tables_in(kind))
        cells = (
            f"`{field.name}`",
            _words(kind),
            _default(field),
            str(field.metadata.get("possible") or ""),
            field.metadata["help"],
        )
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(rows)


def _fields(table: type) -> "tuple[attrs.Attribute[Any], ...]":
    return tuple(attrs.fields(attrs.resolve_types(table)))


def _tables_in(kind: Any) -> list[type]:
    if role_of(kind):
        return []
    if attrs.has(kind):
        return [kind]
    return [inner for part in get_args(kind) for inner in _tables_in(part)]


def _words(kind: Any) -> str:
    """Return a type in words; a table is a link to its section."""
    if role := role_of(kind):
        one = f"[{role}](#{role})"
        words = f"array of {one}" if get_origin(kind) is tuple else one
        return words + (' or `"none"`' if types.NoneType in get_args(kind) else "")
    if attrs.has(kind):
        top = {kind_of(field): field.name for field in _fields(Recipe)}
        return f"[table](#{top[kind] if kind in top else 'table-' + kind.__name__.lower()})"
    if get_origin(kind) is Literal:
        *words, last = (f'`"{word}"`' for word in get_args(kind))
        return f"{', '.join(words)} or {last}" if words else last
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(_words, get_args(kind)))
    if get_origin(kind) is tuple:
        return _array(get_args(kind))
    return '`"none"`' if kind is types.NoneType else _SCALARS[kind]


def _array(kinds: tuple[Any, ...]) -> str:
    inner = _words(kinds[0])
    plural = inner.replace("array of", "arrays of") if " of " in inner else f"{inner}s"
    return f"array of {plural}" if kinds[-1] is Ellipsis else f"array of {len(kinds)} {plural}"


def _default(field: "attrs.Attribute[Any]") -> str:
    default = field.default
    role = role_of(kind_of(field))
    named = DEFAULTS.get(role) or DEFAULTS["evaluation"].get(role)
    if role and named:
        return f"`{_toml(named)}`"
    if default is attrs.NOTHING:
        return "required"
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return _changed(default.factory())
    return f"`{_toml('none' if default is None else default)}`"


def _changed(table: Any) -> str:
    """Return the keys of a table that differ from the defaults of its class."""
    changed = {
        field.name: getattr(table, field.name)
        for field in _fields(type(table))
        if getattr(table, field.name) != _value(field)
    }
    return f"`{_toml(changed)}`" if changed else "its defaults"


def _value(field: "attrs.Attribute[Any]") -> Any:
    default = field.default
    return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]


def _toml(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {_toml(each)}' for name, each in value.items())} }}"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").splitlines()[0]


if __name__ == "__main__":
    PATH.write_text(document())
