"""Recipes: from TOML to a strict, typed, resolved description of a run."""

from ffcore.recipe.changes import Changes, binding_digest, changes, decisions, with_decisions
from ffcore.recipe.component import component
from ffcore.recipe.diagnostics import Diagnostic, RecipeError
from ffcore.recipe.load import (
    Loaded,
    check_recorded,
    load_recipe,
    load_stored,
    read_recipe,
)
from ffcore.recipe.needs import needed_files
from ffcore.recipe.resolved import digest, provenance, to_toml, versions
from ffcore.recipe.source import packaged_recipes
from ffcore.recipe.tables import Evaluation, Guidance, Recipe, Training
from ffcore.recipe.trust import registry_of, remember, trusting

__all__ = [
    "Changes",
    "Diagnostic",
    "Evaluation",
    "Guidance",
    "Loaded",
    "Recipe",
    "RecipeError",
    "Training",
    "binding_digest",
    "changes",
    "check_recorded",
    "component",
    "decisions",
    "digest",
    "load_recipe",
    "load_stored",
    "needed_files",
    "packaged_recipes",
    "provenance",
    "read_recipe",
    "registry_of",
    "remember",
    "to_toml",
    "trusting",
    "versions",
    "with_decisions",
]
