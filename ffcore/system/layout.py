"""The networks inside the content of a weights file, whatever its author called them.

A file's content is a tree of dicts. A part is a dict of tensors in it, or the tensors of a flat
dict whose names have one prefix, as Lightning writes `model.*` and `ema.*`, or diffusers'
`EMAModel`, which keeps its `shadow_params` as a list in the order of the network's parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
from torch import Tensor

from ffcore.system.parts import (
    COUNTERS,
    PartError,
    PartPath,
    asked,
    choose,
    is_of_training,
    kind,
    label,
    listing,
)

SHADOW = "shadow_params"
"""Key of diffusers' EMAModel and of torch-ema."""
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of DistributedDataParallel and torch.compile on every name."""
_INVENTORY = 8

Entries: TypeAlias = "Mapping[Any, Any] | Sequence[Any]"
"""A part's tensors by name, or in the order of the network's parameters."""


@attrs.frozen(eq=False)
class Chosen:
    """The part to read, and what stands beside it."""

    path: PartPath
    tensors: dict[str, Tensor]
    shadow: tuple[Tensor, ...]
    """Tensors without names, in the order of the network's parameters; then `tensors` is empty."""
    beside: dict[str, dict[str, Tensor]]
    """The other parts whose tensors have names."""
    notes: tuple[str, ...]


def read_part(content: object, part: str | None) -> Chosen:
    """Return the part of a file's content that `part` names, or that `choose` prefers.

    Raises PartError if no part or several are possible, or if the part holds something else than
    dense tensors.
    """
    if not isinstance(content, Mapping):
        raise PartError(f"holds {_kind_of(content)}, not a dict of tensors")
    parts = dict(_parts(content, ()))
    sizes = {path: len(entries) for path, entries in parts.items()}
    if part is not None:
        parts, path = _named(parts, part)
    elif not parts:
        raise PartError(f"holds no weights: no dict of tensors. It holds {inventory(content)}.")
    else:
        path = choose(sizes)
    entries = parts[path]
    where = f": {label(path)!r} " if path else ""
    tensors, shadow = _checked(entries, where)
    beside = {
        label(other): {name: each for name, each in found.items() if isinstance(each, Tensor)}
        for other, found in parts.items()
        if other != path and isinstance(found, Mapping)
    }
    others = {other: len(found) for other, found in parts.items() if other != path}
    notes: list[str] = []
    if part is None and path and kind(path) == "raw":
        empty = [f"{name} is empty" for name in _empty(content, ())]
        notes = empty or ["no average beside it"]
    notes += [f"beside it: {listing(others)}"] if others else []
    return Chosen(path, tensors, shadow, beside, tuple(notes))


def inventory(content: object) -> str:
    """Return the first entries of a dict and their types, for messages."""
    if not isinstance(content, Mapping):
        return _kind_of(content)
    entries = [f"{name} ({type(each).__name__})" for name, each in [*content.items()][:_INVENTORY]]
    more = f" and {len(content) - _INVENTORY} more" if len(content) > _INVENTORY else ""
    return ", ".join(entries) + more if entries else "an empty dict"


def unwrap(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove wrappers' prefixes, also nested ones, if every name has them."""
    for prefix in WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return unwrap({name.removeprefix(prefix): each for name, each in tensors.items()})
    return tensors


def without_prefix(tensors: Mapping[str, Tensor], expected: set[str]) -> tuple[str, dict[str, Any]]:
    """Return the prefix of every name without which most names are `expected`, and the rest.

    A prefix ends with a dot. It is empty if the names fit no better without one. Counters, which
    averages keep beside a network, need no prefix.
    """
    found, best = dict(tensors), len(tensors.keys() & expected)
    prefix, cut = "", ""
    names = [name for name in tensors if not _is_counter(name, tensors[name])]
    while names and len(firsts := {name.partition(".")[0] for name in names}) == 1:
        first = f"{firsts.pop()}."
        if not all(name.startswith(first) for name in names):
            break
        cut += first
        names = [name.removeprefix(first) for name in names]
        if (fit := len(expected.intersection(names))) > best:
            best, prefix = fit, cut
    return prefix, {name.removeprefix(prefix): each for name, each in found.items()}


def without_counters(tensors: Mapping[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """Leave out counters that the network does not have."""
    return {
        name: each
        for name, each in tensors.items()
        if name in expected or not _is_counter(name, each)
    }


def by_prefix(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return tensors by the first component of their names; "" for names of only one."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, each in tensors.items():
        first, dot, rest = name.partition(".")
        found.setdefault(first if dot else "", {})[rest if dot else name] = each
    return found


def _kind_of(content: object) -> str:
    return f"a {type(content).__name__}"


def _parts(content: Mapping[Any, Any], path: PartPath) -> Iterator[tuple[PartPath, Entries]]:
    """Yield every part of a tree that holds at least one tensor."""
    shadow = content.get(SHADOW)
    if isinstance(shadow, list | tuple) and any(isinstance(each, Tensor) for each in shadow):
        yield (*path, SHADOW), shadow
    inner = [
        (name, each)
        for name, each in content.items()
        if isinstance(name, str) and isinstance(each, Mapping) and not is_of_training(name)
    ]
    for name, each in inner:
        yield from _parts(each, (*path, name))
    if not inner and any(isinstance(each, Tensor) for each in content.values()):
        yield from _flat(content, path)


def _flat(content: Mapping[Any, Any], path: PartPath) -> Iterator[tuple[PartPath, Entries]]:
    """Yield a dict of tensors whole, or its prefixes as parts if one is the average of another."""
    tensors = {
        name: each
        for name, each in content.items()
        if isinstance(name, str) and isinstance(each, Tensor) and not _is_counter(name, each)
    }
    outer: PartPath = ()
    while len(groups := by_prefix(tensors)) == 1 and "" not in groups:
        ((first, tensors),) = groups.items()
        outer = (*outer, first)
    averages = {first for first in groups if kind((first,)) == "average"}
    raw = {first: group for first, group in groups.items() if first not in averages}
    renamed = {
        average: rest
        for average in averages
        for twin in raw.values()
        if (rest := _as_named(groups[average], twin)) is not None
    }
    if not renamed:
        yield path, content
        return
    for first, group in groups.items():
        if first:  # names of one component are the training script's own, as its noise schedule
            yield (*path, *outer, first), renamed.get(first, group)


def _as_named(average: dict[str, Tensor], raw: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Return an average under the names of its raw weights; None if it is of something else.

    `LitEma` of latent diffusion writes names without their dots.
    """
    average = {name: each for name, each in average.items() if not _is_counter(name, each)}
    if average.keys() & raw.keys():
        return average
    dotted = {name.replace(".", ""): name for name in raw}
    if len(dotted) == len(raw) and average and average.keys() <= dotted.keys():
        return {dotted[name]: each for name, each in average.items()}
    return None


def _is_counter(name: object, each: object) -> bool:
    if name not in COUNTERS:
        return False
    return each.numel() <= 1 if isinstance(each, Tensor) else not isinstance(each, Mapping)


def _named(
    parts: Mapping[PartPath, Entries], part: str
) -> tuple[dict[PartPath, Entries], PartPath]:
    """Return the parts, and the path of the one that `part` names."""
    sizes = {path: len(entries) for path, entries in parts.items()}
    found = asked(sizes, part)
    if len(found) == 1:
        return dict(parts), found[0]
    if found:
        return dict(parts), choose({path: sizes[path] for path in found})
    for path, entries in parts.items():
        prefix = f"{part.removeprefix(f'{label(path)}.' if path else '')}."
        if isinstance(entries, Mapping) and (not path or part.startswith(f"{label(path)}.")):
            names = [name for name in entries if isinstance(name, str) and name.startswith(prefix)]
            if names:
                own = (*path, prefix[:-1])
                cut = {name.removeprefix(prefix): entries[name] for name in names}
                rest = {name: each for name, each in entries.items() if name not in names}
                return {**parts, path: rest, own: cut}, own
    held = f"It holds {listing(sizes)}" if sizes else "It holds no tensors"
    raise PartError(f"has no part {part!r}. {held}")


def _checked(entries: Entries, where: str) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """Return a part's tensors; raise PartError for anything else in it."""
    named = isinstance(entries, Mapping)
    found: dict[str, Tensor] = {}
    for name, each in entries.items() if isinstance(entries, Mapping) else enumerate(entries):
        if _is_counter(name, each) and not isinstance(each, Tensor):
            continue
        if not isinstance(each, Tensor) or (named and not isinstance(name, str)):
            raise PartError(f"{where}holds {name!r}, a {type(each).__name__}, among its tensors")
        if each.is_meta:
            raise PartError(f"{where}holds only the shape of {name} (a meta tensor)")
        found[str(name)] = each.detach()
    return (unwrap(found), ()) if named else ({}, tuple(found.values()))


def _empty(content: Mapping[Any, Any], path: PartPath) -> Iterator[str]:
    """Yield averages that hold nothing."""
    for name, each in content.items():
        if not isinstance(name, str):
            continue
        inner = (*path, name)
        if kind(inner) == "average":
            if each is None or (isinstance(each, Mapping) and not [*_parts(each, inner)]):
                yield label(inner)
        elif isinstance(each, Mapping) and not is_of_training(name):
            yield from _empty(each, inner)
