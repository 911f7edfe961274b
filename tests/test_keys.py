import math
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffcore.keys import ImpossibleValue, component, key, kind_of, role_of


def _even(instance: object, attribute: Any, value: int) -> None:
    if value % 2:
        raise ValueError(f"{attribute.name} must be even")


@attrs.frozen(kw_only=True)
class Table:
    count: int = key(2, help="a count", at_least=1, at_most=8, validator=_even)
    share: float = key(0.5, help="a share", above=0, below=1)
    clip: float | None = key(None, help="optional", above=0)
    pair: tuple[float, float] = key((0.0, 1.0), help="numbers", at_least=0, at_most=1)
    word: str = key("euler", help="a word", one_of=("euler", "heun"))
    free: float = key(0.0, help="any finite number")


def test_a_bad_value_in_the_constructor_names_the_key_the_value_and_what_is_possible() -> None:
    with pytest.raises(ImpossibleValue, match=r"above 0 and below 1, found 1\.2") as e:
        Table(share=1.2)
    assert (e.value.name, e.value.found, e.value.possible) == ("share", 1.2, "above 0 and below 1")


@given(st.integers(-20, 20))
def test_bounds_hold_at_their_edges(count: int) -> None:
    if 1 <= count <= 8 and count % 2 == 0:
        assert Table(count=count).count == count
    else:
        with pytest.raises(ValueError, match="count"):
            Table(count=count)


@pytest.mark.parametrize("name", ["share", "clip", "free"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_impossible_with_and_without_bounds(
    name: str, value: float
) -> None:
    with pytest.raises(ImpossibleValue, match="finite"):
        attrs.evolve(Table(), **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("share", "fits"), [(0.0, False), (1.0, False), (0.01, True)])
def test_open_bounds_exclude_their_edge(share: float, fits: bool) -> None:
    if fits:
        Table(share=share)
    else:
        with pytest.raises(ImpossibleValue):
            Table(share=share)


def test_none_passes_bounds() -> None:
    assert Table(clip=None).clip is None


def test_each_number_of_a_tuple_is_checked() -> None:
    with pytest.raises(ImpossibleValue, match=r"pair: must be .* at most 1, found 1\.5"):
        Table(pair=(0.0, 1.5))


def test_a_misspelt_word_is_answered_with_the_nearest() -> None:
    with pytest.raises(ImpossibleValue, match="one of 'euler', 'heun', found 'huen'; did you mean"):
        Table(word="huen")


def test_a_key_keeps_its_help() -> None:
    assert attrs.fields(Table).count.metadata["help"] == "a count"


@pytest.mark.parametrize(("default", "many"), [(attrs.NOTHING, False), (None, False), ((), True)])
def test_a_component_key_knows_its_role_alone_optional_and_in_an_array(
    default: object, many: bool
) -> None:
    @attrs.frozen(kw_only=True)
    class Holder:
        part: Any = component("student", default, help="a part", many=many)

    assert role_of(kind_of(attrs.fields(Holder).part)) == "student"


def test_a_plain_key_has_no_role() -> None:
    assert role_of(kind_of(attrs.fields(Table).pair)) is None
