"""Known failures: expected by name and with a reason, and reported if they hold after all."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ffcore.testing.result import Result


class ExpectationError(ValueError):
    """An expected failure that names nothing, or gives no reason. One message, for a person."""


def as_expected(found: list[Result], expected: Mapping[str, str]) -> list[Result]:
    """Return the results with the known failures excused.

    Args:
        found: the results of the laws.
        expected: reasons by name: of a law ("corrector/mine/is-deterministic"), of a component
            ("corrector/mine") or of a role ("corrector"). Where several apply, the longest does.

    A law that holds in spite of its own name, and every law of a component or role none of which
    is broken, holds unexpectedly: no excuse outlives its cause.

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
            f"failures are expected of {', '.join(unknown)}, and nothing of that name was checked; "
            f"names are like {example}, or the beginning of it"
        )
    silent = [name for name, reason in expected.items() if not reason.strip()]
    if silent:
        raise ExpectationError(f"a failure is expected without a reason: {', '.join(silent)}")


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
            found=f"{name} was expected to fail ({reason}), and holds: remove the expectation",
        )
    return result
