"""Needs and offers: whether the components of a recipe fit, before anything is loaded.

A table may have the properties `needs` and `offers`, each a `frozenset[str]`. What the student
and the objectives need, the teacher or the student must offer. A table that reads files names
them in a property `files`, a tuple of `File`s.
"""

from collections.abc import Iterator

from ffcore.files import File
from ffcore.plugins import Registry
from ffcore.recipe.diagnostics import Problem
from ffcore.recipe.tables import Recipe, components

OFFERING = ("teacher", "student")
NEEDING = ("student", "predictor", "corrector")


def unmet_needs(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """One problem for each component that needs what no other offers; it names both sides."""

    def name(role: str) -> str:
        return f"{role} {registry.type_name(role, getattr(recipe, role))!r}"

    offers = {role: _declared(getattr(recipe, role), "offers") for role in OFFERING}
    for role in NEEDING:
        missing = _declared(getattr(recipe, role), "needs").difference(*offers.values())
        if missing:
            sides = "; ".join(f"{name(side)} offers {_listed(offers[side])}" for side in OFFERING)
            yield Problem(f"{name(role)} needs {_listed(missing)}, but {sides}", (role,))


def needed_files(recipe: Recipe) -> tuple[File, ...]:
    """The files that the components of a recipe will read, as their tables tell."""
    tables = (table for _, table in components(recipe))
    return tuple(file for table in tables for file in getattr(table, "files", ()))


def _declared(table: object, side: str) -> frozenset[str]:
    return frozenset(getattr(table, side, ()))


def _listed(names: frozenset[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "nothing"
