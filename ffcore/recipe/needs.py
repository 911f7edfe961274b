"""Needs and offers: whether the components of a recipe fit, before anything is loaded.

A table may have the properties `needs` and `offers`, each a `frozenset[str]`. What the student
and the objectives need, the teacher, the student or the data must offer; a [data] table offers
"data" by being there, and "whole batch" is the trainer's to give. A table that reads files names
them in a property `files`, a tuple of `File`s.

A table may have a method `check_recipe(recipe)`, which raises ValueError where another table
contradicts it, ImpossibleValue where a key is to blame. What it may ask of a teacher's table, which
need not have them, is `sample_shape`, None where the weights say it, and `guidable`; of the data's
table `guided`: whether its samples are the guided teacher's.
"""

from collections.abc import Iterator
from typing import Any

import attrs

from ffcore.keys import ImpossibleValue, kind_of, role_of
from ffcore.plugins import Registry
from ffcore.recipe.diagnostics import Path, Problem
from ffcore.recipe.tables import Recipe, components
from ffcore.system.files import File

NETWORK, COPY = "network", "trainable copy"
"""A role, and the need of which a component of it relieves an objective."""
OFFERING = ("teacher", "student", "data")
NEEDING = ("student", "predictor", "corrector")
DATA, ANYWHERE = "data", "student starts anywhere"
"""Needs of which core knows what would fit."""
WHOLE = "whole batch"
"""What an objective needs whose gaps couple the samples of a batch: to see all of it at once."""


def unmet_needs(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """One problem for each component that needs what no other offers, and for data that nobody
    needs; it names both sides."""

    def name(role: str) -> str:
        return f"{role} {registry.type_name(role, getattr(recipe, role))!r}"

    there = [role for role in (*OFFERING, *NEEDING) if getattr(recipe, role) is not None]
    offers = {role: _offers(recipe, role) for role in OFFERING if role in there}
    needs = {role: _words(getattr(recipe, role), "needs") for role in NEEDING if role in there}
    met = (frozenset({WHOLE}), *offers.values())  # which the trainer sees to
    sides = "; ".join(f"{name(side)} offers {_list(offers[side])}" for side in offers)
    for role, needed in needs.items():
        if missing := needed.difference(*met):
            fit = " and ".join(_fitting(missing, recipe, registry))
            would = f". What would fit: {fit}" if fit else ""
            yield Problem(f"{name(role)} needs {_list(missing)}, but {sides}{would}", (role,))
    if DATA in there and DATA not in frozenset().union(*needs.values()):
        nobody = " and ".join(name(role) for role in needs if role != "student")
        text = f"no {DATA!r} is needed by {nobody}: leave {name(DATA)} out"
        yield Problem(text, (DATA, "type"))


def _offers(recipe: Recipe, role: str) -> frozenset[str]:
    """What a component offers; data is there by being named."""
    offered = _words(getattr(recipe, role), "offers")
    return offered | {DATA} if role == DATA else offered


def _fitting(missing: frozenset[str], recipe: Recipe, registry: Registry) -> Iterator[str]:
    """What in a recipe would meet the needs that core knows."""
    if DATA in missing:
        yield f"a [data] table of type {_types(DATA, registry)}"
    if COPY in missing:
        for key in _own_networks(recipe):
            yield f"{key} of type {_types(NETWORK, registry)}"
    if ANYWHERE in missing and "starts_at" in attrs.fields_dict(type(recipe.student)):
        yield "student.starts_at = 'anywhere'"


def _own_networks(recipe: Recipe) -> Iterator[str]:
    """The keys by which what needs a copy of the teacher takes a network of its own instead."""
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
    """One problem for each table that another table of the recipe contradicts."""
    for path, table in _tables(recipe):
        check = getattr(table, "check_recipe", None)
        try:
            if check is not None:
                check(recipe)
        except ValueError as error:
            key = error.name if isinstance(error, ImpossibleValue) else "type"
            yield Problem(str(error), (*path, key))


def needed_files(recipe: Recipe) -> tuple[File, ...]:
    """The files that the components of a recipe will read, by their tables."""
    tables = (table for _, table in components(recipe))
    return tuple(file for table in tables for file in getattr(table, "files", ()))


def _tables(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every table within `value`, itself included, and where it stands."""
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
