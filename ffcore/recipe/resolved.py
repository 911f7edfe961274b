"""The resolved recipe as a run stores it: loadable TOML, its digest, its provenance."""

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import tomli_w

from ffcore.plugins import Registry, installed
from ffcore.recipe.plain import plain
from ffcore.recipe.tables import Recipe, components


def to_toml(recipe: Recipe, *, registry: Registry | None = None) -> str:
    """Return the recipe as TOML with every default; `load_recipe` reads an equal one back."""
    return tomli_w.dumps(plain(recipe, registry=registry or installed()))


def digest(recipe: Recipe, *, registry: Registry | None = None) -> str:
    """Return the SHA-256 of the resolved recipe: equal for two files that mean the same run."""
    return hashlib.sha256(to_toml(recipe, registry=registry).encode()).hexdigest()


def provenance(recipe: Recipe, *, registry: Registry | None = None) -> dict[str, Any]:
    """Return the provenance of a run, ready for JSON: versions, components, seed, digest.

    Each component has its plugin, distribution and version; they are None for a class that the
    recipe names as `"module:Class"`.
    """
    registry = registry or installed()
    return {
        "ffcore": version("ffcore"),
        "python": platform.python_version(),
        "torch": version("torch"),
        "components": [_origin(*found, registry) for found in components(recipe)],
        "seed": recipe.training.seed,
        "recipe": digest(recipe, registry=registry),
    }


def versions(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions in a provenance: of Python, torch, ffcore and each plugin."""
    found = {name: provenance[name] for name in ("ffcore", "python", "torch")}
    for component in provenance["components"]:
        if component["distribution"] is not None:
            found[component["distribution"]] = component["version"]
    return found


def _origin(role: str, table: object, registry: Registry) -> dict[str, str | None]:
    claim = registry.provider(role, table)
    plugin = claim[0] if claim else None
    return {
        "role": role,
        "type": registry.type_name(role, table),
        "plugin": plugin.name if plugin else None,
        "distribution": plugin.distribution if plugin else None,
        "version": plugin.version if plugin else None,
    }
