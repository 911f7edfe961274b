"""ffcore: data-free distillation of flow and diffusion teachers into one-step students.

Names are handed on when they are first asked for, so that `import ffcore` imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ffcore.recipe import Recipe, RecipeError, load_recipe, to_toml

_HOMES = {
    "Recipe": "ffcore.recipe",
    "RecipeError": "ffcore.recipe",
    "load_recipe": "ffcore.recipe",
    "to_toml": "ffcore.recipe",
}

__all__ = ["Recipe", "RecipeError", "load_recipe", "to_toml"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'ffcore' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
