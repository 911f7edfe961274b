"""What a source of conditions must be, checked on a few samples before training.

The contract is that of `ConditionSource` (ffcore/interfaces.py). A source that breaks it would fail
only when the samples are drawn or named, or would train on other conditions than it says; here it
is refused by name, with the method, what it returned and what it must return.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs
import numpy as np
import torch
from torch import Tensor

from ffcore.draws import Draws
from ffcore.interfaces import Condition, ConditionSource
from ffcore.system.files import MissingFile
from ffcore.training.network_check import random_state, same_random_state

_T = TypeVar("_T")
_ROUNDING, _COARSE = 5e-3, 5e-2
"""Relative differences that mean nothing: between two equal calls, and between two sizes of a
batch, for which an encoder of prompts may round differently."""
MOST_NAMES = 64
"""Most names that `of` is called for."""
_TOKENS = ("embedding", "mask")
"""Fields whose second dimension, the number of tokens, may differ between calls."""


class ConditionError(ValueError):
    """A source of conditions breaks its contract. The message names the source and the method."""


def check_conditions(source: object, draws: Draws, *, guided: bool = False) -> None:
    """Check a source: `draw`, `names`, `of`, `texts` and `fingerprint`.

    Leaves all random states as they were. The laws of conditions (ffcore/testing) make the same
    checks, and those that need several builds of a source.

    Args:
        source: of a teacher's conditions.
        draws: of at least 4 samples.
        guided: whether to check `null`, too.

    Raises ConditionError; ValueError if it shall guide and has no null condition.
    """
    with same_random_state():
        drawn = check_draws(source, draws)
        assert isinstance(source, ConditionSource)
        check_named(source, drawn)
        check_texts(source, drawn)
        check_fingerprint(source)
        if guided:
            check_null(source, drawn)


def check_draws(source: object, draws: Draws, *, rounding: float = _COARSE) -> Condition:
    """Check that each drawn condition depends on its own draws alone; return those drawn.

    Args:
        source: of conditions.
        draws: of at least 4 samples.
        rounding: the relative difference that another size of the batch may make.
    """
    drawn = drawn_from(source, draws)
    assert isinstance(source, ConditionSource)
    _check_randomness(source, draws, drawn, rounding)
    return drawn


def drawn_from(source: object, draws: Draws) -> Condition:
    """Return what a source draws, one unguided and finite condition for each sample.

    Raises ConditionError for anything else.
    """
    if not isinstance(source, ConditionSource):
        raise ConditionError(
            f"the conditions must be a ConditionSource, found {_told(source)}: use "
            "Unconditional() for a teacher without conditions"
        )
    found = _call(source, "draw", lambda: source.draw(draws))
    drawn = _checked(source, "draw", found, len(draws), "draws")
    for name, each in drawn.tensors().items():
        if each.device.type not in (torch.device(draws.device).type, "meta"):
            raise ConditionError(
                f"{_who(source)}: draw returned {name} on {each.device}; it must be on the device "
                f"of the draws, {draws.device}"
            )
    return drawn


def null_of(source: ConditionSource, condition: Condition) -> Condition:
    """Return the null counterpart of drawn conditions, with the same fields.

    Raises ConditionError for anything else; ValueError if there is none.
    """
    found = _call(source, "null", lambda: source.null(condition), says=ValueError)
    null = _checked(source, "null", found, condition.size, "conditions")
    wanted, here = ([*map(_placed, _kinds(each).items())] for each in (condition, null))
    devices = [{t.device for t in _kinds(each).values()} for each in (condition, null)]
    if wanted != here or devices[0] != devices[1]:
        on = [", ".join(sorted(map(str, each))) for each in devices]
        there = ("", "") if on[0] == on[1] else (f" on {on[1]}", f" on {on[0]}")
        raise ConditionError(
            f"{_who(source)}: null returned {_list(here)}{there[0]}; it must return what it was "
            f"given, {_list(wanted)}{there[1]}"
        )
    return null


def check_null(source: ConditionSource, drawn: Condition) -> Condition:
    """Check `null` on guided conditions, which it must leave as they are; return its result.

    Raises ConditionError; ValueError if there is no null condition.
    """
    device = next((str(each.device) for each in drawn.tensors().values()), "cpu")
    guided = drawn.at(2.0, device)
    before = {name: each.clone() for name, each in guided.tensors().items()}
    null = null_of(source, guided)
    for name, each in guided.tensors().items():
        if not torch.equal(each, before[name]):
            raise ConditionError(
                f"{_who(source)}: null writes into the {name} of its argument, which others read "
                "afterwards; it must return new conditions"
            )
    return null


def _check_randomness(
    source: ConditionSource, draws: Draws, drawn: Condition, rounding: float
) -> None:
    """Draw the same again, all and a part; the first time, a source may fill its caches."""
    torch.rand(()), np.random.rand(), random.random()  # not where a seed in `draw` would leave it
    before = random_state()
    again = drawn_from(source, draws)
    if random_state() != before:
        raise ConditionError(
            f"{_who(source)}: draw returned numbers of the global random state (torch's, NumPy's "
            "or Python's); all its randomness must come from its argument, as in "
            "draws.normal('pose', (6,))"
        )
    if (name := _difference(drawn, again, _ROUNDING)) is not None:
        raise ConditionError(
            f"{_who(source)}: draw returned another {name} for the same draws the second time; it "
            "must depend on the draws alone"
        )
    part = slice(1, len(draws) - 1)
    alone = drawn_from(source, draws[part])
    if (name := _difference(drawn[part], alone, rounding)) is not None:
        raise ConditionError(
            f"{_who(source)}: draw returned another {name} for samples drawn alone than beside "
            "others; the condition of a sample must depend on its own draws alone, as those of "
            "draws.normal, uniform and integers do"
        )


def _checked_names(source: ConditionSource) -> Sequence[str]:
    """Return the names that a source lists."""
    names = _call(source, "names", lambda: source.names)
    wanted = "it must be a sequence of different strings, none of them empty"
    if isinstance(names, str | bytes) or not isinstance(names, Sequence):
        raise ConditionError(f"{_who(source)}: names is {_told(names)}; {wanted}")
    seen = set()
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConditionError(f"{_who(source)}: names has {_told(name)}; {wanted}")
        if name in seen:
            raise ConditionError(f"{_who(source)}: names has {name!r} twice; {wanted}")
        seen.add(name)
    return names


def check_named(source: ConditionSource, drawn: Condition, *, rounding: float = _COARSE) -> None:
    """Check `names`, and `of` on `some_names`, against drawn conditions."""
    asked = some_names(source)
    if not asked:
        return
    twice = [*asked, asked[0]]  # in an order that no list of names has
    named = _named(source, twice)
    here, wanted = ([*map(_fixed, _kinds(each).items())] for each in (named, drawn))
    if here != wanted:
        raise ConditionError(
            f"{_who(source)}: of returned {_list(here)}; it must return the fields, shapes and "
            f"dtypes of draw, {_list(wanted)}"
        )
    for place in sorted({0, len(asked) // 2, len(asked)}):
        alone = _named(source, [twice[place]])
        if (name := _difference(named[place : place + 1], alone, rounding)) is not None:
            raise ConditionError(
                f"{_who(source)}: of returned another {name} for {twice[place]!r} alone than "
                "beside others; it must return the conditions in the order of their names, each "
                "by its own name alone"
            )


def some_names(source: ConditionSource) -> list[str]:
    """Return at most MOST_NAMES of a source's names: the first, which pictures show, and some of
    the others."""
    names = _checked_names(source)
    half = MOST_NAMES // 2
    first, rest = [*names[:half]], names[half:]
    step = max(1, -(-len(rest) // half))
    return [*first, *rest[::step]]


def _named(source: ConditionSource, names: Sequence[str]) -> Condition:
    """Return what `of` returns; an error of one name alone names it."""
    try:
        found = source.of(list(names))
    except (torch.OutOfMemoryError, MissingFile, OSError):
        raise
    except Exception as error:
        if len(names) > 1:
            for name in names:
                _named(source, [name])
            refused = f"of refuses {len(names)} names together, but none alone"
        else:
            refused = f"names lists {names[0]!r}, but of refuses it"
        raise ConditionError(
            f"{_who(source)}: {refused}, with {type(error).__name__}: {error}; it must return a "
            "condition for each of names"
        ) from error
    return _checked(source, "of", found, len(names), "names" if len(names) > 1 else "name")


def check_texts(source: ConditionSource, condition: Condition) -> Sequence[str]:
    """Check what `texts` returns for these conditions; return it."""
    texts = _call(source, "texts", lambda: source.texts(condition))
    wanted = f"it must return a sequence of {condition.size} strings, one for each sample"
    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
        raise ConditionError(f"{_who(source)}: texts returned {_told(texts)}; {wanted}")
    if len(texts) != condition.size:
        raise ConditionError(
            f"{_who(source)}: texts returned {len(texts)} for {condition.size} samples; {wanted}"
        )
    for each in texts:
        if not isinstance(each, str):
            raise ConditionError(f"{_who(source)}: texts returned {_told(each)} in it; {wanted}")
    return texts


def check_fingerprint(source: ConditionSource) -> str:
    """Check that `fingerprint` returns a string, and the same twice; return it."""
    found = [_call(source, "fingerprint", source.fingerprint) for _ in range(2)]
    for each in found:
        if not isinstance(each, str) or not each:
            raise ConditionError(
                f"{_who(source)}: fingerprint returned {_told(each)}; it must return a string that "
                "is not empty, as digest_of makes one"
            )
    if found[0] != found[1]:
        raise ConditionError(
            f"{_who(source)}: fingerprint returned {found[0]!r}, then {found[1]!r}; it must return "
            "the same at every call"
        )
    return found[0]


def _call(
    source: ConditionSource,
    method: str,
    call: Callable[[], _T],
    says: tuple[type[Exception], ...] | type[Exception] = (),
) -> _T:
    """Return the result of a method; an error of a kind that it `says` is an answer."""
    try:
        return call()
    except (torch.OutOfMemoryError, MissingFile, OSError):
        raise
    except Exception as error:
        if says and isinstance(error, says):
            raise
        raise ConditionError(
            f"{_who(source)}: {method} fails with {type(error).__name__}: {error}"
        ) from error


def _checked(
    source: ConditionSource, method: str, found: object, size: int, asked: str
) -> Condition:
    """Return `found` if it is an unguided, finite condition of this size."""
    begin = f"{_who(source)}: {method} returned"
    wanted = f"it must return a Condition of size {size} for {size} {asked}"
    if not isinstance(found, Condition):
        raise ConditionError(f"{begin} {_told(found)}; {wanted}")
    if found.size != size:
        raise ConditionError(f"{begin} a Condition of size {found.size}; {wanted}")
    for field in attrs.fields(Condition):
        if field.name != "size" and (wrong := _wrong(getattr(found, field.name), asked)):
            raise ConditionError(f"{begin} {field.name} {wrong}")
    if found.guidance is not None:
        raise ConditionError(
            f"{begin} a condition with guidance; it must leave guidance out: the recipe's table "
            "[guidance] sets it"
        )
    return found


def _wrong(value: object, asked: str) -> str:
    """Return what is wrong with a field of a condition, if anything."""
    if value is None:
        return ""
    if not isinstance(value, Tensor):
        return f"= {_told(value)}; each field must be a tensor or None"
    if value.is_meta:
        return ""
    wrong = ~value.isfinite().reshape(len(value), value[0].numel()).all(1)
    if not wrong.any():
        return ""
    return (
        f"with NaN or infinity for {int(wrong.sum())} of {len(value)} {asked}; it must return "
        "finite numbers"
    )


def _difference(one: Condition, other: Condition, rounding: float) -> str | None:
    """Return the name of a field that differs between two conditions, if there is one."""
    here, there = one.tensors(), other.tensors()
    if here.keys() != there.keys():
        return sorted(here.keys() ^ there.keys())[0]
    for name, value in here.items():
        again = there[name]
        if value.shape != again.shape and name in _TOKENS:
            continue  # padded to the longest
        if value.shape != again.shape or value.dtype != again.dtype:
            return name
        if not value.is_floating_point():
            if not torch.equal(value, again):
                return name
        elif (again.double() - value.double()).norm() > rounding * value.double().norm():
            return name
    return None


def _kinds(condition: Condition) -> dict[str, Tensor]:
    """Return the fields but γ, which no source may set."""
    return {n: each for n, each in sorted(condition.tensors().items()) if n != "guidance"}


def _placed(field: tuple[str, Tensor]) -> str:
    """Return name, shape and dtype of a field without the batch."""
    name, value = field
    return f"{name} {list(value.shape[1:])} in {str(value.dtype).removeprefix('torch.')}"


def _fixed(field: tuple[str, Tensor]) -> str:
    """Return the same, without the number of tokens."""
    name, value = field
    shape = ["L", *value.shape[2:]] if name in _TOKENS else list(value.shape[1:])
    said = ", ".join(map(str, shape))
    return f"{name} [{said}] in {str(value.dtype).removeprefix('torch.')}"


def _list(fields: Sequence[str]) -> str:
    return " and ".join(fields) or "no fields"


def _told(value: Any) -> str:
    """Return a short value with its type, of a long one the type."""
    if value is None:
        return "None"
    said = repr(value)
    kind = type(value).__name__
    return kind if len(said) > 40 or "\n" in said else f"{said} ({kind})"


def _who(source: ConditionSource) -> str:
    kind = type(source)
    return f"the conditions ({kind.__module__}:{kind.__qualname__})"
