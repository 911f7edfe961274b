"""Tables as plain trees that TOML can hold: the inverse of structuring."""

from typing import Any

import attrs

from ffcore.keys import kind_of, role_of
from ffcore.plugins import Registry

NONE = "none"
"""The word for None in TOML."""


def plain(value: Any, role: str | None = None, *, registry: Registry | None = None) -> Any:
    """Return a value as TOML can hold it; `role` is the role of components in this place.

    Component tables get their `type` from `registry`; without components it may be left out.
    """
    if value is None:
        return NONE
    if isinstance(value, tuple):
        return [plain(item, role, registry=registry) for item in value]
    if not attrs.has(type(value)):
        return value
    tree: dict[str, Any] = {}
    if role is not None and registry is not None:
        tree["type"] = registry.type_name(role, value)
    for field in attrs.fields(attrs.resolve_types(type(value))):
        inner = role_of(kind_of(field))
        tree[field.name] = plain(getattr(value, field.name), inner, registry=registry)
    return tree
