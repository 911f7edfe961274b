"""The parts of a recipe that may change within a run. Any other change makes another run."""

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
"""The value by which an objective lets the networks decide a key."""

FREE = (
    "decoder",
    "evaluation",
    "parallel",
    "training.checkpoint_every",
    "training.device",
    "training.keep_every",
    "training.keep_last",
    "training.log_every",
    "training.minutes",
    "training.on_nonfinite",
    "training.skip_limit",
    "training.steps",
    "training.threads",
    "trackers",
)
"""The tables and keys that no training step depends on; only schedules depend on `steps`."""


@attrs.frozen
class Changes:
    """The differences between a recipe and an earlier one, as lines of text."""

    free: tuple[str, ...] = ()
    binding: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.free or self.binding)

    def has(self, name: str) -> bool:
        """Whether the key of this name has changed."""
        return any(line.startswith(f"{name}: ") for line in self.lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """All differences."""
        return tuple(sorted(self.free + self.binding))


def changes(before: str, recipe: Recipe) -> Changes:
    """Compare `recipe` with a resolved one in TOML. Raises tomllib.TOMLDecodeError."""
    found = [
        (name, f"{name}: {old!r} before, {new!r} now")
        for name, old, new in _differing(tomllib.loads(before), tomllib.loads(to_toml(recipe)))
    ]
    return Changes(
        free=tuple(line for name, line in found if _is_free(name)),
        binding=tuple(line for name, line in found if not _is_free(name)),
    )


def with_decisions(before: str, recipe: Recipe) -> Recipe:
    """Return `recipe` with each "auto" of its objectives replaced by the value in `before`.

    So a resumed run keeps its decisions. `before` is a resolved recipe in TOML. Raises
    tomllib.TOMLDecodeError.
    """
    tree, now = tomllib.loads(before), tomllib.loads(to_toml(recipe))
    found = {}
    for name in ("predictor", "corrector"):
        table, known = getattr(recipe, name), tree.get(name)
        if table is not None and isinstance(known, dict) and known.get("type") == now[name]["type"]:
            left = [key for key, value in now[name].items() if value == AUTO and key in known]
            found[name] = attrs.evolve(table, **{key: known[key] for key in left})
    return attrs.evolve(recipe, **found)


def decisions(recipe: Recipe, settled: Recipe) -> Iterator[str]:
    """Yield a line for each key of `recipe` that the networks decided in `settled`."""
    for name, old, new in _differing(*(tomllib.loads(to_toml(each)) for each in (recipe, settled))):
        yield f"{name} = {new!r} (the recipe has {old!r})"


def binding_digest(recipe: Recipe) -> str:
    """Return the SHA-256 of the parts of a recipe that may not change within a run."""
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
