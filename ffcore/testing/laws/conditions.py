"""Laws of sources of conditions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from ffcore.interfaces import UNKNOWN, Condition, ConditionSource
from ffcore.system.files import MissingFile
from ffcore.testing.case import SIZE, Case, examples
from ffcore.testing.law import Broken, ask_only_where, law, require
from ffcore.training.condition_check import (
    ConditionError,
    check_draws,
    check_fingerprint,
    check_named,
    check_null,
    check_texts,
    some_names,
)

NOBODYS = "a name that no condition has, 7.5 and \u2603"


@law("conditions", 1)
def draws_from_the_draws(case: Case, live: Any) -> None:
    """`draw` returns one unguided condition for each sample. A sample's condition does not depend
    on which part of the batch is drawn, and another step draws others, if there is a choice."""
    draws_each_by_itself(case, live)
    steps = [live.draw(case.draws(16, step=step).named("condition")) for step in range(3)]
    alike = all(_same(steps[0], each) for each in steps[1:])
    one = alike and _same(steps[0], steps[0][torch.zeros(16, dtype=torch.long)])
    require(one or not alike, "every step draws the same conditions, although they differ")


@law("conditions", 2)
def has_a_null_condition_or_says_not(case: Case, live: Any) -> None:
    """`null` returns an unguided condition with the same fields, shapes and dtypes, and of the same
    size, and leaves its argument alone; or it raises ValueError."""
    with contextlib.suppress(NoNull):
        null_for(live, _drawn(case, live))


@law("conditions", 3)
def finds_conditions_by_name(case: Case, live: Any) -> None:
    """`of` returns one unguided condition for each name, in order, with the fields of those that
    are drawn. A condition depends on its own name alone. Each of `names` has one; a name that is
    not known raises ValueError and nothing else."""
    try:
        live.of([NOBODYS])
    except ValueError:
        pass
    except Exception as error:
        raise Broken(f"an unknown name raises {type(error).__name__}: {error}") from error
    ask_only_where(live.names, "it lists no names")
    with as_broken():
        check_named(live, _drawn(case, live), rounding=0.0)


@law("conditions", 4)
def tells_each_condition(case: Case, live: Any) -> None:
    """`texts` returns a string for each sample, also for the null condition; for a condition from
    `of` it is the name, if that is in `names`."""
    drawn = _drawn(case, live)
    conditions = [drawn, drawn[:1]]
    with contextlib.suppress(ValueError):
        conditions.append(live.null(drawn))
    with as_broken():
        for condition in conditions:
            check_texts(live, condition)
        names = some_names(live)
        told = list(check_texts(live, live.of(names))) if names else []
    require(told == names, f"the conditions {names} are told as {told}")


@law("conditions", 5)
def knows_its_identity(case: Case, live: Any) -> None:
    """`fingerprint` returns a string, the same for every build of a table and after every call. Two
    tables that draw or name other conditions have other fingerprints."""
    with as_broken():
        found = check_fingerprint(live)
    ask_only_where(found != UNKNOWN, "its fingerprint is unknown")
    drawn = _drawn(case, live)
    require(live.fingerprint() == found, "drawing changes the fingerprint")
    again = case.build().fingerprint()
    require(again == found, f"two builds of a table are {found!r} and {again!r}")
    for table in examples(type(case.table)):
        try:
            other = table.build(case.context())
        except (ValueError, MissingFile):
            continue
        differs = list(other.names) != list(live.names) or not _same(drawn, _drawn(case, other))
        apart = other.fingerprint() != found
        require(apart or not differs, f"other conditions, of {table}, have the same fingerprint")


def draws_each_by_itself(case: Case, source: ConditionSource) -> None:
    """Require that a condition depends on its own draws alone."""
    with as_broken():
        check_draws(source, case.draws(2 * SIZE), rounding=0.0)


class NoNull(Exception):
    """A source has no null condition."""


def null_for(source: ConditionSource, drawn: Condition) -> Condition:
    """Return the null condition, which must be unguided, of the same kind and size; NoNull if there
    is none."""
    try:
        with as_broken():
            return check_null(source, drawn)
    except ValueError as error:
        raise NoNull from error


@contextlib.contextmanager
def as_broken() -> Iterator[None]:
    """Turn the refusal of a source before training into that of a law."""
    try:
        yield
    except ConditionError as error:
        raise Broken(str(error)) from error


def _drawn(case: Case, source: ConditionSource) -> Condition:
    return source.draw(case.draws().named("condition"))


def _same(one: Condition, other: Condition) -> bool:
    a, b = one.tensors(), other.tensors()
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())
