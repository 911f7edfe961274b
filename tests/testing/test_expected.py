"""Known failures: by name, with a reason, and no longer than they last."""

import attrs
import pytest

from ffcore.testing.expected import ExpectationError, as_expected
from ffcore.testing.result import Result, Status


def result(name: str, status: Status) -> Result:
    component, _, law = name.rpartition("/")
    return Result(
        component=component, law=law, number="x 1", text="A law.", status=status, found="found"
    )


RESULTS = [
    result("student/one/a", "broken"),
    result("student/one/b", "holds"),
    result("student/two/a", "holds"),
    result("student/two/b", "not checked"),
    result("teacher/one/a", "holds"),
    result("teacher/oneself/a", "broken"),
]


def statuses(expected: dict[str, str]) -> list[str]:
    return [each.status for each in as_expected(RESULTS, expected)]


def test_nothing_is_excused_unasked() -> None:
    assert as_expected(RESULTS, {}) == RESULTS


def test_a_failure_that_is_expected_is_none() -> None:
    (found, *others) = as_expected(RESULTS, {"student/one/a": "the reason"})
    assert (found.status, found.fails) == ("broken as expected", False)
    assert "the reason" in found.found
    assert "found" in found.found
    assert others == RESULTS[1:]


@pytest.mark.parametrize("name", ["student/one", "student"])
def test_a_component_or_a_whole_role_can_be_expected_to_fail(name: str) -> None:
    assert statuses({name: "why"}) == ["broken as expected", *(e.status for e in RESULTS[1:])]


def test_what_holds_after_all_is_a_failure() -> None:
    found = as_expected(RESULTS, {"student/one/b": "why"})[1]
    assert (found.status, found.fails) == ("holds unexpectedly", True)
    assert "remove the expectation" in found.found


@pytest.mark.parametrize(("name", "index"), [("student/two", 2), ("teacher/one", 4)])
def test_a_component_that_holds_every_law_after_all_is_a_failure(name: str, index: int) -> None:
    found = statuses({name: "why"})
    assert found.pop(index) == "holds unexpectedly"
    assert found == [each.status for each in RESULTS if each is not RESULTS[index]]


def test_a_law_that_was_not_asked_is_excused_in_vain_and_harmlessly() -> None:
    assert statuses({"student/two/b": "why"}) == [each.status for each in RESULTS]


def test_the_longest_name_decides() -> None:
    expected = {"student/one/a": "its own", "student": "the role's"}
    found = as_expected(RESULTS, expected)
    assert found[0].found.startswith("its own")
    assert [each.status for each in found[1:3]] == ["holds unexpectedly"] * 2


@pytest.mark.parametrize("name", ["student/one/c", "student/o", "students", "", "a"])
def test_a_name_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ExpectationError, match="no law of that name was checked"):
        statuses({name: "why"})


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_failure_without_a_reason_is_refused(reason: str) -> None:
    with pytest.raises(ExpectationError, match="need a reason: student/one/a"):
        statuses({"student/one/a": reason})


def test_the_results_keep_their_order_and_their_laws() -> None:
    found = as_expected(RESULTS, {"student": "why", "teacher/oneself": "why"})
    same = attrs.filters.exclude("status", "found")
    assert [attrs.asdict(each, filter=same) for each in found] == [
        attrs.asdict(each, filter=same) for each in RESULTS
    ]
