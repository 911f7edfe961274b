"""Structuring: from a TOML tree to tables, strictly, with every error at once.

cattrs dispatches on types. Every hook is ours: cattrs' own read `3.7` as 3 and `"false"` as True.
Hooks raise `Problems`. TOML has no null, so a recipe writes None as the word "none".
"""

import math
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import attrs
import cattrs

from ffcore.keys import ImpossibleValue, did_you_mean, kind_of, nearest, role_of
from ffcore.plugins import PluginError, Registry
from ffcore.recipe.diagnostics import Problem, Problems
from ffcore.recipe.plain import NONE, plain

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "a string",
    types.NoneType: repr(NONE),
}


def make_converter(registry: Registry) -> cattrs.Converter:
    """Return a converter for the tables of recipes, with the component tables of `registry`."""
    converter = cattrs.Converter()

    def rule(applies: Callable[[Any], bool], hook: Callable[..., Any], *context: Any) -> None:
        converter.register_structure_hook_func(applies, lambda v, kind: hook(v, kind, *context))

    rule(lambda kind: True, _refuse)
    for scalar in (bool, int, str):
        converter.register_structure_hook(scalar, _structure_exactly)
    converter.register_structure_hook(float, _structure_number)
    rule(lambda kind: get_origin(kind) is Literal, _structure_literal)
    rule(lambda kind: get_origin(kind) is tuple, _structure_array, converter)
    rule(lambda kind: get_origin(kind) in (Union, types.UnionType), _structure_union, converter)
    rule(attrs.has, _structure_table, converter, registry)
    rule(_is_component, _structure_component, converter, registry)
    return converter


def _is_component(kind: Any) -> bool:
    return get_origin(kind) is Annotated and role_of(kind) is not None


def _refuse(value: object, kind: Any) -> Any:
    raise Problems([Problem(f"has a type that recipes cannot hold: {kind}", about="plugin")])


def _structure_exactly(value: object, kind: type) -> object:
    if type(value) is not kind:
        raise _mismatch(_WORDS[kind], value)
    return value


def _structure_number(value: object, kind: type) -> float:
    if type(value) not in (int, float):
        raise _mismatch(_WORDS[float], value)
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:  # TOML's integers have no end here
        number = math.inf
    if not math.isfinite(number):
        raise _mismatch(_WORDS[float], value)
    return number


def _structure_literal(value: object, kind: Any) -> object:
    words = get_args(kind)
    if not any(value == word and type(value) is type(word) for word in words):
        hint = did_you_mean(value, map(str, words)) if isinstance(value, str) else ""
        raise _mismatch(_describe(kind), value, hint)
    return value


def _structure_array(value: object, kind: Any, converter: cattrs.Converter) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _mismatch("an array", value)
    kinds = get_args(kind)
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise _mismatch(f"an array of {len(kinds)}", value)
    items: list[Any] = []
    problems: list[Problem] = []
    for index, (item, item_kind) in enumerate(zip(value, kinds, strict=True)):
        try:
            items.append(converter.structure(item, item_kind))
        except Problems as found:
            problems += (problem.under(index) for problem in found.problems)
    if problems:
        raise Problems(problems)
    return tuple(items)


def _structure_union(value: object, kind: Any, converter: cattrs.Converter) -> Any:
    members = get_args(kind)
    if value == NONE and types.NoneType in members:
        return None
    members = tuple(member for member in members if member is not types.NoneType)
    if len(members) == 1 and isinstance(value, dict | list):
        return converter.structure(value, members[0])
    for member in members:
        try:
            return converter.structure(value, member)
        except Problems:
            continue
    raise _mismatch(_describe(kind), value)


def _structure_table(
    value: object, table: type, converter: cattrs.Converter, registry: Registry
) -> Any:
    if not isinstance(value, dict):
        raise _mismatch("a table", value)
    fields = attrs.fields_dict(attrs.resolve_types(table))
    problems = list(_unfit_keys(value, fields))
    given: dict[str, Any] = {}
    for name in (name for name in fields if name in value):
        try:
            written = _complete(value[name], fields[name])
            given[name] = converter.structure(written, kind_of(fields[name]))
            _validate(fields[name], given[name])
            _check_reach(fields[name], given[name], registry)
        except Problems as found:
            problems += (problem.under(name) for problem in found.problems)
    if problems:
        raise Problems(problems)
    try:
        return table(**given)
    except ImpossibleValue as error:
        raise Problems([Problem(str(error), (error.name,))]) from error
    except (TypeError, ValueError) as error:
        raise Problems([Problem(str(error))]) from error


def _complete(value: object, field: "attrs.Attribute[Any]") -> object:
    """Merge a partly written table into the key's default, if that is a table."""
    default: Any = field.default
    if not isinstance(value, dict) or not isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return value
    table = default.factory()
    return _laid_over(table, value) if attrs.has(type(table)) else value


def _laid_over(table: Any, value: Mapping[str, Any]) -> dict[str, Any]:
    laid = dict(value)
    for name in attrs.fields_dict(type(table)):
        below = getattr(table, name)
        if name not in value:
            laid[name] = plain(below)
        elif attrs.has(type(below)) and isinstance(value[name], dict):
            laid[name] = _laid_over(below, value[name])
    return laid


def _structure_component(
    value: object, kind: Any, converter: cattrs.Converter, registry: Registry
) -> Any:
    role = role_of(kind)
    assert role is not None
    if not isinstance(value, dict):
        raise _mismatch("a table", value)
    if "type" not in value:
        known = sorted({c.name for c in registry.components if c.role == role})
        raise Problems([Problem(f"missing key 'type' (possible: {', '.join(known)})", ("type",))])
    if not isinstance(value["type"], str):
        raise Problems(p.under("type") for p in _mismatch("a string", value["type"]).problems)
    try:
        table = registry.table(role, value["type"])
    except PluginError as error:
        raise Problems([Problem(str(error), ("type",), about="plugin")]) from error
    keys = {name: item for name, item in value.items() if name != "type"}
    return converter.structure(keys, table)


def _validate(field: "attrs.Attribute[Any]", value: object) -> None:
    """Run the key's own check before there is an instance, to report all violations."""
    try:
        if field.validator is not None:
            field.validator(None, field, value)
    except ImpossibleValue as error:
        raise Problems([Problem(str(error).removeprefix(f"{field.name}: "))]) from error
    except (TypeError, ValueError) as error:
        raise Problems([Problem(str(error))]) from error


def _check_reach(field: "attrs.Attribute[Any]", value: object, registry: Registry) -> None:
    """Refuse code and downloads that a file names without being trusted."""
    if not isinstance(value, str):
        return
    try:
        if field.metadata.get("imports") and ":" in value:
            registry.check_trusted(field.name, value)
        elif value.startswith("hf://"):
            registry.check_download(field.name, value)
    except PluginError as error:
        raise Problems([Problem(str(error), about="plugin")]) from error


def _unfit_keys(
    value: Mapping[str, Any], fields: Mapping[str, "attrs.Attribute[Any]"]
) -> Iterable[Problem]:
    """Yield unknown and missing keys; a misspelt required key is reported once."""
    unknown = sorted(value.keys() - fields.keys())
    for name in unknown:
        hint = did_you_mean(name, fields)
        keys = ", ".join(fields) or "none"
        yield Problem(f"unknown key {name!r}{hint} (keys: {keys})", (name,))
    misspelt = {nearest(name, fields) for name in unknown}
    for name, field in fields.items():
        if field.default is attrs.NOTHING and name not in value and name not in misspelt:
            yield Problem(f"missing key {name!r}: {field.metadata.get('help', '')}", (name,))


def _mismatch(possible: str, found: object, hint: str = "") -> Problems:
    if isinstance(found, dict):
        words = "a table"
    elif isinstance(found, list):
        words = f"an array of {len(found)}"
    else:
        words = str(found).lower() if isinstance(found, bool) else repr(found)
    return Problems([Problem(f"must be {possible}, found {words}{hint}")])


def _describe(kind: Any) -> str:
    """Return a type in words."""
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(_describe, get_args(kind)))
    if get_origin(kind) is tuple:
        return "an array"
    return _WORDS.get(kind, "a table")
