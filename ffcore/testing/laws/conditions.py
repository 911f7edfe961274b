"""Laws of sources of conditions."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from ffcore.interfaces import UNKNOWN, Condition, ConditionSource
from ffcore.system.files import MissingFile
from ffcore.testing.case import SIZE, Case, examples
from ffcore.testing.law import Broken, ask_only_where, law, require

ASKED = 4
"""Most names to try."""
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
    condition = _drawn(case, live).at(2.0)
    before = Condition(size=SIZE, **{n: each.clone() for n, each in condition.tensors().items()})
    try:
        null = live.null(condition)
    except ValueError:
        return
    is_null_for(null, condition)
    require(_same(before, condition), "null changes the condition that it is given")


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
    names = _names(live)
    ask_only_where(names, "it lists no names")
    require(len({*live.names}) == len(live.names), "a name stands twice in `names`")
    twice = [*names, names[0]]
    found = live.of(twice)
    require(found.size == len(twice), f"{found.size} conditions for {len(twice)} names")
    require(found.guidance is None, "a named condition has a guidance scale")
    _require_alike(found, _drawn(case, live), "a named condition", "a drawn one", tokens=False)
    for place, name in enumerate(twice):
        alone = live.of([name])
        same = _same(found[place : place + 1], alone)
        require(same, f"the condition {name!r} depends on which others are named")


@law("conditions", 4)
def tells_each_condition(case: Case, live: Any) -> None:
    """`texts` returns a string for each sample, also for the null condition; for a condition from
    `of` it is the name, if that is in `names`."""
    drawn = _drawn(case, live)
    conditions = [drawn, drawn[:1]]
    with contextlib.suppress(ValueError):
        conditions.append(live.null(drawn))
    for condition in conditions:
        texts = live.texts(condition)
        strings = all(isinstance(each, str) for each in texts)
        require(strings, f"texts are {texts!r}, not all strings")
        require(len(texts) == condition.size, f"{len(texts)} texts for {condition.size} samples")
    if names := _names(live):
        told = list(live.texts(live.of(names)))
        require(told == names, f"the conditions {names} are told as {told}")


@law("conditions", 5)
def knows_its_identity(case: Case, live: Any) -> None:
    """`fingerprint` returns a string, the same for every build of a table and after every call. Two
    tables that draw or name other conditions have other fingerprints."""
    found = live.fingerprint()
    require(isinstance(found, str) and found, f"the fingerprint is {found!r}")
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
    draws = case.draws(2 * SIZE)
    part = slice(SIZE - 1, SIZE + 2)
    whole, drawn = source.draw(draws), source.draw(draws[part])
    require(whole.size == 2 * SIZE, f"{whole.size} conditions for {2 * SIZE} samples")
    require(whole.guidance is None, "a drawn condition has a guidance scale")
    one, other = whole[part].tensors(), drawn.tensors()
    require(one.keys() == other.keys(), "some parts of a batch have fields that others lack")
    for name, value in one.items():
        same = torch.equal(value, other[name])
        require(same, f"the {name} of a sample depends on which others are drawn")


def is_null_for(null: Condition, condition: Condition) -> None:
    """Require that `null` is an unguided condition of the same kind and size."""
    require(
        null.size == condition.size, f"{null.size} null conditions for {condition.size} samples"
    )
    require(null.guidance is None, "the null condition has a guidance scale")
    _require_alike(null, condition, "the null condition", "the condition", tokens=True)


def _drawn(case: Case, source: ConditionSource) -> Condition:
    return source.draw(case.draws().named("condition"))


def _names(source: ConditionSource) -> list[str]:
    return list(source.names[:ASKED])


def _require_alike(one: Condition, other: Condition, who: str, whom: str, *, tokens: bool) -> None:
    """Require the same fields, each of the same shape and dtype, and as many `tokens`."""
    counted = () if tokens else ("embedding", "mask")
    kinds = [
        {
            name: (each.dtype, each.shape[2:] if name in counted else each.shape[1:])
            for name, each in sorted(condition.tensors().items())
            if name != "guidance"
        }
        for condition in (one, other)
    ]
    require(kinds[0] == kinds[1], f"{who} has {_told(kinds[0])}, {whom} {_told(kinds[1])}")


def _told(kinds: dict[str, Any]) -> str:
    return ", ".join(f"{name} {list(s)} of {d}" for name, (d, s) in kinds.items()) or "no fields"


def _same(one: Condition, other: Condition) -> bool:
    a, b = one.tensors(), other.tensors()
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())
