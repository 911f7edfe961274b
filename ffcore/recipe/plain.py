"""Tables as plain trees, the way back from structuring: what TOML can hold."""

from typing import Any

import attrs

from ffcore.keys import kind_of, role_of
from ffcore.plugins import Registry

NONE = "none"
"""The word for None, which TOML lacks."""


def plain(value: Any, role: str | None = None, *, registry: Registry | None = None) -> Any:
    """A value as TOML can hold it; `role` is what components in this place are for.

    Component tables get their `type` from `registry`, which may be left out where there are none.
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
