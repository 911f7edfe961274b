"""Needs and offers: whether the components of a recipe fit, before anything is loaded.

A table may have the properties `needs` and `offers`, each a `frozenset[str]`. The teacher, the
student or the data must offer what the student and the objectives need. Every [data] table offers
"data", and the trainer offers "whole batch". A teacher's needs are met by [conditions] alone; every
[conditions] table offers "conditions". A table that reads files lists them in a property
`files`, a tuple of `File`s.

A table may have a method `check_recipe(recipe)`. It raises ValueError if another table contradicts
it, ImpossibleValue if a key is to blame. It may read optional properties of other tables: of the
teacher's, `sample_shape` (None if only the weights know it) and `guidable`; of the data's, `guided`
(whether its samples come from the guided teacher).
"""

from collections.abc import Callable, Iterator
from typing import Any

import attrs

from ffcore.keys import ImpossibleValue, kind_of, role_of
from ffcore.plugins import PluginError, Registry
from ffcore.recipe.diagnostics import Path, Problem
from ffcore.recipe.tables import Recipe, components
from ffcore.system.files import File

NETWORK, COPY = "network", "trainable copy"
"""A role, and the need that an objective does not have if it names a component of that role."""
OFFERING = ("teacher", "student", "data")
NEEDING = ("student", "predictor", "corrector")
DATA, ANYWHERE = "data", "student starts anywhere"
"""Needs for which core can suggest a fix."""
CONDITIONS = "conditions"
"""A role, what each of its components offers, and the need of a teacher that does not bring its
own."""
WHOLE = "whole batch"
"""The need of an objective whose gaps couple the samples of a batch: it must see all of them."""


def unmet_needs(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """Yield a problem for each component with an unmet need, and for data or conditions that nobody
    needs.

    It names both sides.
    """

    def name(role: str) -> str:
        return f"{role} {registry.type_name(role, getattr(recipe, role))!r}"

    yield from _of_conditions(recipe, registry, name)
    there = [role for role in (*OFFERING, *NEEDING) if getattr(recipe, role) is not None]
    offers = {role: _offers(recipe, role) for role in OFFERING if role in there}
    needs = {role: _words(getattr(recipe, role), "needs") for role in NEEDING if role in there}
    met = (frozenset({WHOLE}), *offers.values())  # the trainer offers WHOLE
    sides = "; ".join(f"{name(side)} offers {_list(offers[side])}" for side in offers)
    for role, needed in needs.items():
        if missing := needed.difference(*met):
            if role == "student":
                fit = " or ".join(_other_students(recipe, registry))
            else:
                fit = " and ".join(_fitting(missing, recipe, registry))
            would = f". Use {fit}" if fit else ""
            yield Problem(f"{name(role)} needs {_list(missing)}, but {sides}{would}", (role,))
    if DATA in there and DATA not in frozenset().union(*needs.values()):
        nobody = " and ".join(name(role) for role in needs if role != "student")
        text = f"{DATA!r} is not needed by {nobody}: leave out {name(DATA)}"
        yield Problem(text, (DATA, "type"))


def _of_conditions(
    recipe: Recipe, registry: Registry, name: Callable[[str], str]
) -> Iterator[Problem]:
    """Yield a problem unless the teacher needs conditions and the recipe's fit, or neither is."""
    needed = _words(recipe.teacher, "needs")
    teacher = name("teacher")
    if recipe.conditions is None:
        if needed:
            use = f"Add a [conditions] table of type {_types(CONDITIONS, registry)}"
            yield Problem(
                f"{teacher} needs {_list(needed)}, but the recipe has no conditions. {use}",
                ("teacher",),
            )
        return
    offered = _offers(recipe, CONDITIONS)
    if missing := needed - offered:
        text = f"{teacher} needs {_list(missing)}, but {name(CONDITIONS)} offers {_list(offered)}"
        yield Problem(text, ("teacher",))
    elif not needed:
        yield Problem(
            f"{teacher} brings its own conditions, since it needs none: leave out "
            f"{name(CONDITIONS)}, or let the teacher's table need 'conditions'",
            (CONDITIONS, "type"),
        )


def _offers(recipe: Recipe, role: str) -> frozenset[str]:
    """Return the offers of a component; data and conditions also offer the name of their role."""
    offered = _words(getattr(recipe, role), "offers")
    return offered | {role} if role in (DATA, CONDITIONS) else offered


def _fitting(missing: frozenset[str], recipe: Recipe, registry: Registry) -> Iterator[str]:
    """Yield changes of a recipe that meet the needs that core knows."""
    if DATA in missing:
        yield f"a [data] table of type {_types(DATA, registry)}"
    if COPY in missing:
        for key in _own_networks(recipe):
            yield f"{key} of type {_types(NETWORK, registry)}"
    if ANYWHERE in missing and "starts_at" in attrs.fields_dict(type(recipe.student)):
        yield "student.starts_at = 'anywhere'"


def _other_students(recipe: Recipe, registry: Registry) -> Iterator[str]:
    """Yield students that this teacher meets the needs of, without any key."""
    for component in registry.components:
        if component.role != "student":
            continue
        try:
            table = registry.table("student", component.name)()
            met = _words(table, "needs") <= _offers(recipe, "teacher")
            fits = met and not any(contradictions(attrs.evolve(recipe, student=table)))
        except (PluginError, TypeError, ValueError):
            continue
        if fits:
            yield f"student.type = {component.name!r}"


def _own_networks(recipe: Recipe) -> Iterator[str]:
    """Yield the keys that take a network instead of a copy of the teacher."""
    for role in NEEDING:
        table = getattr(recipe, role)
        if COPY in _words(table, "needs"):
            for field in attrs.fields(type(table)):
                if role_of(kind_of(field)) == NETWORK:
                    yield f"{role}.{field.name}"


def _types(role: str, registry: Registry) -> str:
    types = sorted({each.name for each in registry.components if each.role == role})
    return " or ".join(map(repr, types)) or "your own"


def contradictions(recipe: Recipe) -> Iterator[Problem]:
    """Yield a problem for each table that another table of the recipe contradicts."""
    for path, table in _tables(recipe):
        check = getattr(table, "check_recipe", None)
        try:
            if check is not None:
                check(recipe)
        except ValueError as error:
            key = error.name if isinstance(error, ImpossibleValue) else "type"
            yield Problem(str(error), (*path, key))


def needed_files(recipe: Recipe) -> tuple[File, ...]:
    """Return the files that the components of a recipe read, as their tables list them."""
    tables = (table for _, table in components(recipe))
    return tuple(file for table in tables for file in getattr(table, "files", ()))


def _tables(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every table within `value`, itself included, with its path."""
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _tables(item, (*path, index))
    elif attrs.has(type(value)):
        yield path, value
        for field in attrs.fields(type(value)):
            yield from _tables(getattr(value, field.name), (*path, field.name))


def _words(table: object, side: str) -> frozenset[str]:
    return frozenset(getattr(table, side, ()))


def _list(names: frozenset[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "nothing"
