"""The JSON Schema of recipes, made from their tables, so that an editor completes and checks them.

Draft 7, which editors of TOML read. It knows the components of every plugin that is active. Two
things it cannot say: rules that relate two keys, and that 3.0 is no integer. `ffd validate` says
both.

Each table has two forms. The whole one has required keys. The partial one has none: it is for a
recipe that extends another, and for a table that completes a key's own default.
"""

import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import attrs

from ffcore.keys import Possible, kind_of, role_of
from ffcore.plugins import AmbiguousComponent, Component, Registry
from ffcore.recipe.plain import NONE, plain
from ffcore.recipe.tables import Recipe

Schema = dict[str, Any]

_SCALARS = {bool: "boolean", int: "integer", float: "number", str: "string"}
_BOUNDS = {
    "at_least": "minimum",
    "above": "exclusiveMinimum",
    "at_most": "maximum",
    "below": "exclusiveMaximum",
}
_ELSEWHERE = r"^[^:]+:[^:]+$"
"""A component of another name: "distribution:name" or "module:Class"."""


def schema(registry: Registry) -> Schema:
    """Return the JSON Schema of recipes whose components `registry` knows."""
    found = _Schemas(registry)
    whole, partial = found.table(Recipe, whole=True), found.table(Recipe, whole=False)
    for each in (whole, partial):
        each["properties"]["extends"] = {
            "description": "Recipe that this one changes: a file beside it, or a packaged recipe.",
            "type": "string",
        }
    whole["required"] = ["teacher"]  # what else is missing is chosen
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Recipe of ffcore",
        "type": "object",
        "if": {"required": ["extends"]},
        "then": partial,
        "else": whole,
        "definitions": found.definitions,
    }


class _Schemas:
    """Schemas of tables and of roles, each defined once and then referred to."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.definitions: dict[str, Schema] = {}

    def table(self, table: type, *, whole: bool, kind: str | None = None) -> Schema:
        """Return the schema of a table's keys; a component's table has the key `type` too."""
        fields = attrs.fields(attrs.resolve_types(table))
        keys = {each.name: self._key(each, whole=whole) for each in fields}
        required = [each.name for each in fields if each.default is attrs.NOTHING]
        if kind is not None:
            keys, required = {"type": {"description": kind}} | keys, ["type", *required]
        found: Schema = {"type": "object", "properties": keys, "additionalProperties": False}
        return found | {"required": required} if whole else found

    def _key(self, field: "attrs.Attribute[Any]", *, whole: bool) -> Schema:
        default: Any = field.default
        possible = field.metadata.get("possible") or Possible()
        completed = isinstance(default, attrs.Factory)  # type: ignore[arg-type]
        found = self._kind(kind_of(field), possible, whole=whole and not completed)
        described = {"description": field.metadata["help"]} | found
        if "$ref" in found:  # beside which draft 7 reads nothing
            described = {"description": field.metadata["help"], "allOf": [found]}
        if default is attrs.NOTHING:
            return described
        return described | {"default": plain(default.factory() if completed else default)}

    def _kind(self, kind: Any, possible: Possible, *, whole: bool) -> Schema:
        if get_origin(kind) is Annotated:
            return self._component(str(role_of(kind)), whole=whole)
        if get_origin(kind) is Literal:
            return {"enum": list(get_args(kind))}
        if get_origin(kind) in (Union, types.UnionType):
            return _any_of([self._kind(each, possible, whole=whole) for each in get_args(kind)])
        if get_origin(kind) is tuple:
            return self._array(get_args(kind), possible, whole=whole)
        if attrs.has(kind):
            name = kind.__name__ if whole else f"{kind.__name__}, in part"
            return self._defined(name, lambda: self.table(kind, whole=whole))
        return _scalar(kind, possible)

    def _array(self, kinds: tuple[Any, ...], possible: Possible, *, whole: bool) -> Schema:
        each = self._kind(kinds[0], possible, whole=whole)
        if kinds[-1] is Ellipsis:
            return {"type": "array", "items": each}
        return {"type": "array", "items": each, "minItems": len(kinds), "maxItems": len(kinds)}

    def _component(self, role: str, *, whole: bool) -> Schema:
        return self._defined(
            role if whole else f"{role}, in part", lambda: self._role(role, whole=whole)
        )

    def _role(self, role: str, *, whole: bool) -> Schema:
        """Return the schema of a component of a role: its keys depend on its key `type`."""
        known = {
            (component.name, f"{plugin.distribution}:{component.name}"): component
            for plugin in self.registry.plugins
            for component in plugin.components
            if component.role == role
        }
        names = {"enum": sorted({name for name, _ in known}), "type": "string"}
        found: Schema = {
            "type": "object",
            "properties": {"type": {"anyOf": [names, {"pattern": _ELSEWHERE, "type": "string"}]}},
        }
        if known:  # draft 7 has no empty allOf
            found["allOf"] = [
                self._of_type(names, each, whole=whole) for names, each in known.items()
            ]
        return found | {"required": ["type"]} if whole else found

    def _of_type(self, names: tuple[str, str], component: Component, *, whole: bool) -> Schema:
        """Return what holds where `type` is one of these names: a short and a qualified one."""
        qualified = names[1]
        own = [name for name in names if self._means(component, name, qualified)]
        table = self.registry.table(component.role, qualified)
        return {
            "if": {"properties": {"type": {"enum": own}}, "required": ["type"]},
            "then": self.table(table, whole=whole, kind=component.summary),
        }

    def _means(self, component: Component, name: str, qualified: str) -> bool:
        """Whether a name leads to this component, and not to several."""
        try:
            return name == qualified or self.registry.find(component.role, name) is component
        except AmbiguousComponent:
            return False

    def _defined(self, name: str, make: Callable[[], Schema]) -> Schema:
        if name not in self.definitions:
            self.definitions[name] = {}  # a table within itself refers to what is being made
            self.definitions[name] = make()
        return {"$ref": f"#/definitions/{name.replace(' ', '%20')}"}


def _any_of(kinds: list[Schema]) -> Schema:
    """Return a union. A table or "none" is told apart first, so that errors are the table's own."""
    tables = [each for each in kinds if "$ref" in each]
    if len(tables) == 1 and len(kinds) == 2:
        (other,) = (each for each in kinds if each not in tables)
        return {"if": {"type": "string"}, "then": other, "else": tables[0]}
    return {"anyOf": kinds}


def _scalar(kind: Any, possible: Possible) -> Schema:
    if kind is types.NoneType:
        return {"const": NONE}
    found: Schema = {"type": _SCALARS[kind]}
    if possible.one_of is not None:
        found["enum"] = list(possible.one_of)
    if kind in (int, float):
        bounds = {word: getattr(possible, name) for name, word in _BOUNDS.items()}
        found |= {word: bound for word, bound in bounds.items() if bound is not None}
    return found
