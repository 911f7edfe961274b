"""`ffd check-plugin`, as a person meets it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ffcore.cli import ExitCode, main

Distribute = Callable[..., None]

PLUGIN = """\
from ffcore.plugins import Component, hookimpl

@hookimpl
def ffcore_components():
    yield Component("features", "flat", "sloppy_tables:Flat", "Samples as they are")
    yield Component("features", "late", "sloppy_tables:Late", "Samples, and how often")
    yield Component("decoder", "stored", "sloppy_tables:Stored", "Of weights that are not there")
"""
TABLES = """\
import attrs
from ffcore.system.files import File

@attrs.frozen
class Flat:
    "Samples as they are."

    def build(self, context):
        from ffcore_exact.features import Raw
        return Raw()

@attrs.frozen
class Late:
    "Samples, and how often."

    def build(self, context):
        from sloppy_features import Counting
        return Counting()

@attrs.frozen
class Stored:
    "Of weights that are not there."
    files = (File("nowhere/weights.safetensors", "decoder.weights", "weights"),)
"""
FEATURES = """\
from ffcore.interfaces import Features

class Counting(Features):
    name = "counting"
    calls = 0

    def forward(self, samples):
        self.calls += 1
        print("counting")
        return samples.flatten(1) + self.calls
"""
FAULTS = ("is-deterministic", "is-independent-of-the-batch")


def ffd(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["check-plugin", *arguments], prog_name="ffd")


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def sloppy(distribute: Distribute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A distribution with one sound component, one that breaks two laws, and one without a file."""
    code = {"sloppy_plugin": PLUGIN, "sloppy_tables": TABLES, "sloppy_features": FEATURES}
    distribute("sloppy-dist", {"sloppy": "sloppy_plugin"}, **code)
    monkeypatch.chdir(tmp_path)
    return "sloppy-dist"


@pytest.fixture
def expectations(tmp_path: Path) -> Callable[..., str]:
    """Write a file of known failures, and return its path."""

    def write(**reasons: str) -> str:
        path = tmp_path / "expected.toml"
        path.write_text("\n".join(f'"features/late/{k}" = "{v}"' for k, v in reasons.items()))
        return str(path)

    return write


def test_a_sound_plugin_is_a_table_and_a_sum() -> None:
    found = ffd("vsd")
    assert found.exit_code == ExitCode.OK
    heading, plugin, corrector, blank, total = found.stdout.splitlines()
    assert re.split("  +", heading) == ["component", "hold", "to fix", "expected", "not checked"]
    assert plugin.split() == ["plugin/vsd", "4", "-", "-", "-"]
    assert corrector.split()[::2] == ["corrector/vsd", "-", "2"]
    assert blank == ""
    hold = 4 + int(corrector.split()[1])
    assert total == f"2 checked, {hold + 2} laws: {hold} hold, 2 not checked"
    assert found.stderr.splitlines() == ["checking plugin vsd", "checking corrector vsd"]


def test_what_is_broken_is_told_with_its_law_and_what_was_found(sloppy: str) -> None:
    found = ffd(sloppy)
    assert found.exit_code == ExitCode.FAILED
    text = " ".join(found.stdout.split())
    for name in FAULTS:
        assert f"features/late/{name} (" in text
    assert "law The same inputs give the same outputs, to the last bit." in text
    assert "found output differs between two calls by 1.0e+00 (setting: exact vectors)" in text
    assert "decoder/stored: not checked reason no such file:" in text
    assert text.endswith(" 2 to fix, 21 not checked")
    assert "features/flat/" not in text


def test_on_80_columns_only_what_is_to_be_copied_is_wider(sloppy: str) -> None:
    lines = [*ffd(sloppy).stdout.splitlines(), *ffd("ffcore-nobody").stderr.splitlines()]
    assert [line for line in lines if len(line) > 80 and " " in line.strip()] == []


def test_the_document_parses_and_holds_every_result(sloppy: str) -> None:
    found = ffd(sloppy, "--json")
    assert found.exit_code == ExitCode.FAILED
    document = json.loads(found.stdout)
    assert "counting" in found.stderr
    assert (document["schema"], document["holds"]) == (1, False)
    results = {each["name"]: each for each in document["results"]}
    assert len(results) == len(document["results"])
    broken = [name for name, each in results.items() if each["status"] == "broken"]
    assert broken == [f"features/late/{name}" for name in FAULTS]
    one = results[broken[0]]
    assert one.keys() == {"name", "component", "law", "number", "text", "status", "found"}
    assert (one["component"], one["law"], one["number"]) == (
        "features/late",
        "is-deterministic",
        "component 8",
    )


def test_known_failures_are_no_failures(sloppy: str, expectations: Callable[..., str]) -> None:
    expect = expectations(**dict.fromkeys(FAULTS, "it counts its calls"))
    found = ffd(sloppy, "--expect", expect)
    assert found.exit_code == ExitCode.OK
    text = " ".join(found.stdout.split())
    assert "is-deterministic (component 8): broken as expected reason it counts its calls" in text
    assert " 2 expected, " in text
    assert json.loads(ffd(sloppy, "--expect", expect, "--json").stdout)["holds"] is True


def test_a_known_failure_that_holds_after_all_is_one(
    sloppy: str, expectations: Callable[..., str]
) -> None:
    reasons = dict.fromkeys((*FAULTS, "gives-vectors"), "it counts its calls")
    found = ffd(sloppy, "--expect", expectations(**reasons))
    assert found.exit_code == ExitCode.FAILED
    assert "features/late/gives-vectors (features 2): holds unexpectedly" in found.stdout
    assert "remove the expectation" in " ".join(found.stdout.split())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('"features/late/no-law" = "why"', "no law of that name was checked"),
        ('"features/late/gives-vectors" = ""', "need a reason: features/late/gives-vectors"),
        ("[features]\nlate = 1", 'may hold only lines "role/name/law" = "reason"'),
        ("=", "is not TOML"),
    ],
)
def test_expectations_that_say_nothing_are_a_usage_error(
    sloppy: str, tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "expected.toml").write_text(text)
    found = ffd(sloppy, "--expect", str(tmp_path / "expected.toml"))
    assert found.exit_code == ExitCode.USAGE
    assert says in " ".join(found.stderr.split())
    assert found.stdout == ""


def test_a_plugin_that_cannot_be_imported_breaks_its_first_law(distribute: Distribute) -> None:
    distribute("lost-dist", {"lost": "lost_plugin"}, lost_plugin="import nowhere")
    found = ffd("lost-dist")
    assert found.exit_code == ExitCode.FAILED
    assert "plugin/lost/is-active (plugin 1): broken" in found.stdout
    assert "No module named 'nowhere'" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nobody",), ExitCode.PLUGIN, "no plugin of 'nobody' is installed (distributions: "),
        (("ffcore_mlp.tables:Mlp",), ExitCode.PLUGIN, "has no attribute 'Mlp'"),
        (("no_such_module:Mlp", "--role", "student"), ExitCode.PLUGIN, "no_such_module"),
        (("ffcore", "--role", "student"), ExitCode.USAGE, "--role and --conditions are for MODULE"),
        (("ffcore", "--role", "pupil"), ExitCode.USAGE, "'pupil' is not one of"),
        (("ffcore", "--expect", "nowhere.toml"), ExitCode.USAGE, "does not exist"),
    ],
)
def test_what_is_not_there_is_told_on_stderr(
    arguments: tuple[str, ...], code: ExitCode, says: str
) -> None:
    found = ffd(*arguments)
    assert found.exit_code == code
    assert says in " ".join(found.stderr.split())
    assert found.stdout == ""


@pytest.mark.parametrize("role", [(), ("--role", "features")])
def test_a_class_is_checked_without_a_plugin(sloppy: str, role: tuple[str, ...]) -> None:
    found = ffd("sloppy_tables:Late", *role)
    assert found.exit_code == ExitCode.FAILED
    assert "features/Late/is-deterministic (component 8): broken" in found.stdout
    assert set(found.stderr.split()) == {"counting"}


def test_a_class_in_the_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here_tables.py").write_text(TABLES)
    monkeypatch.chdir(tmp_path)
    assert ffd("here_tables:Flat").exit_code == ExitCode.OK


def test_a_class_whose_role_cannot_be_told_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = TABLES.replace("return Raw()", "return object()")
    (tmp_path / "vague_tables.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    for name, cause in (("Flat", "it builds object"), ("Stored", "AttributeError")):
        found = ffd(f"vague_tables:{name}")
        assert found.exit_code == ExitCode.USAGE
        told = " ".join(found.stderr.split())
        assert "cannot tell its role from what it builds" in told
        assert cause in told
        assert "use --role" in told


def test_help_says_what_the_exit_codes_mean() -> None:
    assert "Exit codes: 0 if" in ffd("--help").stdout
