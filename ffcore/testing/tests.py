"""The laws as tests: one line in a plugin's own test file.

    from ffcore.testing import plugin_tests

    TestPlugin = plugin_tests("ffcore-coin")

pytest shows one test for each component and law.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ffcore.testing.check import check_distribution
from ffcore.testing.result import Result


def plugin_tests(distribution: str, expected: Mapping[str, str] | None = None) -> type:
    """Return a test class that checks everything that a distribution registers.

    Args:
        distribution: its name, or the name of one of its plugins.
        expected: reasons for known failures, such as
            {"corrector/kernel/is-deterministic": "why"}. An expected failure that holds fails.

    The checks run when pytest collects the class; the tests report their results.
    """
    results = check_distribution(distribution, expected=expected)

    class PluginTests:
        @pytest.mark.parametrize("result", results, ids=lambda result: result.name)
        def test_law(self, result: Result) -> None:
            if result.status == "not checked":
                pytest.skip(result.found)
            if result.status == "broken as expected":
                pytest.xfail(result.found)
            assert not result.fails, f"{result.number}: {result.text}\n{result.found}"

    return PluginTests
