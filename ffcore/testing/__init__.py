"""A kit for plugin authors: the laws of every role, as checks (extra `testing`).

    TestPlugin = plugin_tests("ffcore-coin")  # all that a distribution registers, in pytest

or `ffd check-plugin ffcore-coin` from a shell. Nothing of ffcore but that command
imports this room.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffcore.testing.case import SETTINGS, Case, Setting
    from ffcore.testing.check import check_class, check_distribution, check_tables
    from ffcore.testing.expected import ExpectationError
    from ffcore.testing.law import Broken, Law, NotAsked
    from ffcore.testing.laws import laws_of
    from ffcore.testing.result import Result
    from ffcore.testing.tests import plugin_tests

_NAMES = {
    "case": "SETTINGS Case Setting",
    "check": "check_class check_distribution check_tables",
    "expected": "ExpectationError",
    "law": "Broken Law NotAsked",
    "laws": "laws_of",
    "result": "Result",
    "tests": "plugin_tests",
}
"""What each module hands on."""
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = [
    "SETTINGS",
    "Broken",
    "Case",
    "ExpectationError",
    "Law",
    "NotAsked",
    "Result",
    "Setting",
    "check_class",
    "check_distribution",
    "check_tables",
    "laws_of",
    "plugin_tests",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"ffcore.testing.{_HOMES[name]}"), name)
