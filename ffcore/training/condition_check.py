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
_TOKENS = ("embedding", "mask")
"""Fields whose second dimension, the number of tokens, may differ between calls."""


class ConditionError(ValueError):
    """A source of conditions breaks its contract. The message names the source and the method."""


def check_conditions(source: object, draws: Draws, *, guided: bool = False) -> None:
    """Check a source: `draw`, `names`, `of`, `texts` and `fingerprint`.

    Leaves all random states as they were.

    Args:
        source: of a teacher's conditions.
        draws: of at least 4 samples.
        guided: whether to check `null`, too.

    Raises ConditionError; ValueError if it shall guide and has no null condition.
    """
    with same_random_state():
        drawn = drawn_from(source, draws)
        assert isinstance(source, ConditionSource)
        _check_randomness(source, draws, drawn)
        _check_named(source, _checked_names(source), drawn)
        _check_texts(source, drawn)
        _check_fingerprint(source)
        if guided:
            null_of(source, drawn)


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
    devices = [{t.device for t in each.tensors().values()} for each in (condition, null)]
    if wanted != here or devices[0] != devices[1]:
        on = [", ".join(sorted(map(str, each))) for each in devices]
        there = ("", "") if on[0] == on[1] else (f" on {on[1]}", f" on {on[0]}")
        raise ConditionError(
            f"{_who(source)}: null returned {_list(here)}{there[0]}; it must return what it was "
            f"given, {_list(wanted)}{there[1]}"
        )
    return null


def _check_randomness(source: ConditionSource, draws: Draws, drawn: Condition) -> None:
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
    if (name := _difference(drawn[part], alone, _COARSE)) is not None:
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


def _check_named(source: ConditionSource, names: Sequence[str], drawn: Condition) -> None:
    if not names:
        return
    asked = [names[0], names[min(1, len(names) - 1)]]
    for name in dict.fromkeys(asked):
        try:
            found = source.of([name])
        except (torch.OutOfMemoryError, MissingFile, OSError):
            raise
        except Exception as error:
            raise ConditionError(
                f"{_who(source)}: names lists {name!r}, but of refuses it, with "
                f"{type(error).__name__}: {error}; it must return a condition for each of names"
            ) from error
        _checked(source, "of", found, 1, "name")
    found = _call(source, "of", lambda: source.of(asked))
    named = _checked(source, "of", found, len(asked), "names")
    here, wanted = ([*map(_fixed, _kinds(each).items())] for each in (named, drawn))
    if here != wanted:
        raise ConditionError(
            f"{_who(source)}: of returned {_list(here)}; it must return the fields, shapes and "
            f"dtypes of draw, {_list(wanted)}"
        )


def _check_texts(source: ConditionSource, drawn: Condition) -> None:
    texts = _call(source, "texts", lambda: source.texts(drawn))
    wanted = f"it must return a sequence of {drawn.size} strings, one for each sample"
    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
        raise ConditionError(f"{_who(source)}: texts returned {_told(texts)}; {wanted}")
    if len(texts) != drawn.size:
        raise ConditionError(
            f"{_who(source)}: texts returned {len(texts)} for {drawn.size} samples; {wanted}"
        )
    for each in texts:
        if not isinstance(each, str):
            raise ConditionError(f"{_who(source)}: texts returned {_told(each)} in it; {wanted}")


def _check_fingerprint(source: ConditionSource) -> None:
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
    return dict(sorted(condition.tensors().items()))


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
