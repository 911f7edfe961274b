"""A kit for plugin authors: the laws of every role, as checks (extra `testing`).

    TestPlugin = plugin_tests("ffcore-coin")  # everything that a distribution registers, in pytest

From a shell, use `ffd check-plugin ffcore-coin`. `ffcore.testing.strategies` has hypothesis
strategies for your own tests. `checked_shapes()` checks every call of a role's method against the
shapes in ffcore/interfaces.py. In ffcore only `ffd check-plugin` imports this package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffcore.testing.case import SETTINGS, Case, Setting
    from ffcore.testing.check import check_class, check_distribution, check_tables
    from ffcore.testing.expected import ExpectationError
    from ffcore.testing.law import Broken, Law, NotChecked
    from ffcore.testing.laws import laws_of
    from ffcore.testing.result import Result
    from ffcore.testing.shapes import WrongShape, checked_shapes
    from ffcore.testing.tests import plugin_tests

_HOMES = {
    "SETTINGS": "case",
    "Broken": "law",
    "Case": "case",
    "ExpectationError": "expected",
    "Law": "law",
    "NotChecked": "law",
    "Result": "result",
    "Setting": "case",
    "WrongShape": "shapes",
    "check_class": "check",
    "check_distribution": "check",
    "check_tables": "check",
    "checked_shapes": "shapes",
    "laws_of": "laws",
    "plugin_tests": "tests",
}

__all__ = [
    "SETTINGS",
    "Broken",
    "Case",
    "ExpectationError",
    "Law",
    "NotChecked",
    "Result",
    "Setting",
    "WrongShape",
    "check_class",
    "check_distribution",
    "check_tables",
    "checked_shapes",
    "laws_of",
    "plugin_tests",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"ffcore.testing.{_HOMES[name]}"), name)
