"""What of a recipe may change within a run. Anything else makes it another run."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator
from typing import Any

import attrs

from ffcore.recipe.resolved import to_toml
from ffcore.recipe.tables import Recipe

AUTO = "auto"
"""What leaves a key of an objective to the networks."""

FREE = (
    "decoder",
    "evaluation",
    "parallel",
    "training.checkpoint_every",
    "training.device",
    "training.keep_every",
    "training.keep_last",
    "training.log_every",
    "training.on_nonfinite",
    "training.skip_limit",
    "training.steps",
    "training.threads",
    "trackers",
)
"""The tables and keys on which no step depends, but for schedules, which depend on `steps`."""


@attrs.frozen
class Changes:
    """How a recipe differs from the one before, as lines for a person."""

    free: tuple[str, ...] = ()
    binding: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.free or self.binding)

    def has(self, name: str) -> bool:
        """Whether the key of this name is among them."""
        return any(line.startswith(f"{name}: ") for line in self.lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(sorted(self.free + self.binding))


def changes(before: str, recipe: Recipe) -> Changes:
    """Compare `recipe` with a resolved one in TOML; tomllib.TOMLDecodeError where that is none."""
    found = [
        (name, f"{name}: {old!r} before, {new!r} now")
        for name, old, new in _differing(tomllib.loads(before), tomllib.loads(to_toml(recipe)))
    ]
    return Changes(
        free=tuple(line for name, line in found if _is_free(name)),
        binding=tuple(line for name, line in found if not _is_free(name)),
    )


def with_decisions(before: str, recipe: Recipe) -> Recipe:
    """Return `recipe` with "auto" in its objectives as a resolved one in TOML has decided it.

    So a resumed run never decides again. Raises tomllib.TOMLDecodeError.
    """
    tree, now = tomllib.loads(before), tomllib.loads(to_toml(recipe))
    found = {}
    for name in ("predictor", "corrector"):
        table, known = getattr(recipe, name), tree.get(name, {})
        if table is not None and known.get("type") == now[name]["type"]:
            left = [key for key, value in now[name].items() if value == AUTO and key in known]
            found[name] = attrs.evolve(table, **{key: known[key] for key in left})
    return attrs.evolve(recipe, **found)


def decisions(recipe: Recipe, settled: Recipe) -> Iterator[str]:
    """Yield a line for each key of `recipe` that the networks have decided in `settled`."""
    for name, old, new in _differing(*(tomllib.loads(to_toml(each)) for each in (recipe, settled))):
        yield f"{name} = {new!r}, where the recipe says {old!r}"


def binding_digest(recipe: Recipe) -> str:
    """Return the SHA-256 of all of a recipe that may not change within a run."""
    leaves = _leaves(tomllib.loads(to_toml(recipe)))
    binding = {name: value for name, value in leaves if not _is_free(name)}
    return hashlib.sha256(json.dumps(binding, sort_keys=True).encode()).hexdigest()


def _is_free(name: str) -> bool:
    return any(name == free or name.startswith(f"{free}.") for free in FREE)


def _differing(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    old, new = dict(_leaves(before)), dict(_leaves(now))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield name, old.get(name), new.get(name)


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
