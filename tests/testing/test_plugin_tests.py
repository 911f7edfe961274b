"""The laws as tests of pytest: one line in a stranger's test file."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ffcore.plugins import PluginError
from ffcore.testing import plugin_tests

Distribute = Callable[..., None]

PLUGIN = """\
from ffcore.plugins import Component, hookimpl

@hookimpl
def ffcore_components():
    yield Component("features", "flat", "shown_tables:Flat", "Samples as they are")
    yield Component("features", "late", "shown_tables:Late", "Samples, and how often")
"""
TABLES = """\
import attrs
from ffcore.keys import key

@attrs.frozen
class Flat:
    "Samples as they are."
    width: int = 1

    def build(self, context):
        from ffcore_exact.features import Raw
        return Raw()

@attrs.frozen
class Late:
    "Samples, and how often."

    def build(self, context):
        from shown_features import Counting
        return Counting()
"""
FEATURES = """\
from ffcore_exact.features import Raw
from ffcore.interfaces import Features

class Counting(Features):
    name = "counting"
    calls = 0

    def forward(self, samples):
        self.calls += 1
        return samples.flatten(1) + self.calls
"""
TEST = """\
from ffcore.testing import plugin_tests

TestShown = plugin_tests("shown-dist", expected={"features/late/is-deterministic": "it counts"})
"""


def run(folder: Path) -> tuple[int, dict[str, str]]:
    """Run pytest in a folder, and return its exit code and the outcome of each test by its id."""
    path = os.pathsep.join([str(folder), *sys.path])
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider"]
    found = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = re.findall(r"^(PASSED|FAILED|XFAIL|SKIPPED) (.*?)(?: - .*)?$", found.stdout, re.M)
    return found.returncode, {test: outcome for outcome, test in outcomes}


def test_one_line_is_a_test_for_every_law_of_every_component(
    distribute: Distribute, tmp_path: Path
) -> None:
    code = {"shown_plugin": PLUGIN, "shown_tables": TABLES, "shown_features": FEATURES}
    distribute("shown-dist", {"shown": "shown_plugin"}, **code)
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "test_shown.py").write_text(TEST)

    code, found = run(tmp_path)

    def outcome(name: str) -> str:
        return found[f"test_shown.py::TestShown::test_law[{name}]"]

    assert code == 1
    assert outcome("plugin/shown/is-light") == "PASSED"
    assert outcome("features/flat/gives-vectors") == "PASSED"
    assert outcome("features/flat/explains-its-keys") == "FAILED"
    assert outcome("features/late/is-deterministic") == "XFAIL"
    assert outcome("features/late/builds-the-same-twice") == "PASSED"
    assert sum(each == "FAILED" for each in found.values()) == 2, found
    assert "SKIPPED" in found.values()


def test_an_unknown_distribution_is_told_when_tests_are_collected() -> None:
    with pytest.raises(PluginError, match="no plugin of 'nobody' is installed"):
        plugin_tests("nobody")
