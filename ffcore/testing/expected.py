"""Known failures, expected by name with a reason, and reported if the law holds."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ffcore.testing.result import Result


class ExpectationError(ValueError):
    """An expected failure names no law that was checked, or has no reason."""


def as_expected(found: list[Result], expected: Mapping[str, str]) -> list[Result]:
    """Return the results with the known failures excused.

    Args:
        found: the results of the laws.
        expected: reasons by name: of a law ("corrector/mine/is-deterministic"), of a component
            ("corrector/mine") or of a role ("corrector"). The longest name that applies counts.

    If no law that a name covers is broken, the laws that hold are "holds unexpectedly": remove the
    expectation.

    Raises ExpectationError.
    """
    _check(found, expected)
    groups: dict[str, list[Result]] = {name: [] for name in expected}
    for result in found:
        if name := _excuse_of(result, expected):
            groups[name].append(result)
    outlived = {
        name
        for name, results in groups.items()
        if not any(each.status == "broken" for each in results)
    }
    return [
        _excuse(each, name, expected[name], name in outlived)
        if (name := _excuse_of(each, expected))
        else each
        for each in found
    ]


def _check(found: list[Result], expected: Mapping[str, str]) -> None:
    unknown = [name for name in expected if not any(_covers(name, each) for each in found)]
    if unknown:
        example = found[-1].name if found else "corrector/mine/is-deterministic"
        raise ExpectationError(
            f"failures are expected of {', '.join(unknown)}, but no law of that name was checked; "
            f"write a name such as {example}, or its beginning"
        )
    silent = [name for name, reason in expected.items() if not reason.strip()]
    if silent:
        raise ExpectationError(f"expected failures need a reason: {', '.join(silent)}")


def _covers(name: str, result: Result) -> bool:
    return f"{result.name}/".startswith(f"{name}/")


def _excuse_of(result: Result, expected: Mapping[str, str]) -> str:
    return max((name for name in expected if _covers(name, result)), key=len, default="")


def _excuse(result: Result, name: str, reason: str, outlived: bool) -> Result:
    if result.status == "broken":
        return attrs.evolve(
            result, status="broken as expected", found=f"{reason} (found: {result.found})"
        )
    if outlived and result.status == "holds":
        return attrs.evolve(
            result,
            status="holds unexpectedly",
            found=f"{name} was expected to fail ({reason}), but holds: remove the expectation",
        )
    return result
