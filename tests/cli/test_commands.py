import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from ffcore.cli import ExitCode, main
from ffcore.cli.commands import COMMANDS
from ffcore.cli.errors import EXPECTED
from ffcore.plugins import PluginError
from ffcore.recipe import Diagnostic, RecipeError

Distribute = Callable[..., None]
Ffd = Callable[..., Result]

RECIPE = """\
teacher.type = "point"
student = { type = "line", depth = 2 }
predictor.type = "identity"
training.steps = 10
"""


@pytest.fixture
def ffd(only_fake_plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ffd:
    """Run `ffd` in a folder with `good.toml`; only the fake plugin is active."""
    monkeypatch.chdir(tmp_path)
    Path("good.toml").write_text(RECIPE)
    return lambda *arguments: CliRunner().invoke(main, arguments, prog_name="ffd")


def _modules_after(*arguments: str) -> set[str]:
    """The modules that a fresh interpreter holds when `ffd` is done."""
    code = (
        "import json, sys\n"
        "from ffcore.cli import main\n"
        f"code = main({list(arguments)!r}, prog_name='ffd', standalone_mode=False)\n"
        "print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "FFCORE_DISABLE_PLUGINS"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    code, modules = json.loads(result.stderr.splitlines()[-1])
    assert code in (None, 0)
    return set(modules)


def test_help_names_every_command_without_importing_any() -> None:
    modules = _modules_after("--help")
    assert not modules & {"torch", "numpy", "attrs", "cattrs", "pluggy", "rich"}
    output = CliRunner().invoke(main, ["--help"]).stdout
    assert all(name in output and words in output for name, (_, words) in COMMANDS.items())


def test_help_would_show_an_import_if_there_was_one() -> None:
    assert {"attrs", "pluggy"} <= _modules_after("list-plugins")


@pytest.mark.parametrize("arguments", [("list-plugins",), ("list-plugins", "--json")])
def test_listing_plugins_imports_no_torch_and_no_numpy(arguments: tuple[str, ...]) -> None:
    assert not _modules_after(*arguments) & {"torch", "numpy", "scipy", "matplotlib"}


def test_the_help_line_kept_here_is_for_a_command_that_exists() -> None:
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert isinstance(command, click.Command)
        assert command.name == name


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_fits_80_columns_and_each_of_its_sentences_is_whole(command: str | None) -> None:
    found = CliRunner().invoke(main, [*([command] if command else []), "--help"])
    assert found.exit_code == 0
    assert max(map(len, found.stdout.splitlines())) <= 80
    options = (main if command is None else main.get_command(click.Context(main), command)).params
    for each in (each for each in options if isinstance(each, click.Option)):
        assert each.help, each.name
        assert each.help[0].isupper(), f"{each.name}: {each.help}"


def test_the_version_is_one_line() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.stdout) == (0, "ffd 0.1.0\n")


def test_an_unknown_command_is_a_usage_error_that_suggests_the_nearest() -> None:
    result = CliRunner().invoke(main, ["list-plugin"])
    assert result.exit_code == ExitCode.USAGE
    assert "no such command 'list-plugin'; did you mean 'list-plugins'?" in result.stderr


RECIPE_ERROR = RecipeError([Diagnostic("x.toml", "a", "b", 3)])
PLUGIN_ERROR = RecipeError([Diagnostic("x.toml", "a", "b", 3, "plugin")])
BOTH = RecipeError([*RECIPE_ERROR.diagnostics, *PLUGIN_ERROR.diagnostics])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RECIPE_ERROR, ExitCode.USAGE),
        (PLUGIN_ERROR, ExitCode.PLUGIN),
        (BOTH, ExitCode.USAGE),
        (PluginError("no such"), ExitCode.PLUGIN),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (click.UsageError("no"), ExitCode.USAGE),
        (click.ClickException("no"), ExitCode.FAILED),
    ],
)
def test_an_expected_error_is_a_message_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: ExitCode
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(main, "get_command", lambda *_: failing)
    result = CliRunner().invoke(main, ["run"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr
    assert "Traceback" not in result.stderr


def test_every_expected_error_is_one_that_exists() -> None:
    for name in EXPECTED:
        module, _, kind = name.partition(":")
        error = getattr(importlib.import_module(module), kind)
        assert issubclass(error, Exception)
        assert (error.__module__, error.__qualname__) == (module, kind)


def test_a_defect_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    ours: dict[str, Any] = {"__name__": "ffcore.failing"}
    exec("def failing(): 1 / 0", ours)
    monkeypatch.setattr(main, "get_command", lambda *_: click.command()(ours["failing"]))
    assert isinstance(CliRunner().invoke(main, ["run"]).exception, ZeroDivisionError)


def _tables(listing: str) -> list[list[list[str]]]:
    """The cells of the three tables of a listing: components, plugins, notes."""
    tables = [table.splitlines() for table in listing.split("\n\n")]
    return [[re.split("  +", row) for row in table] for table in tables]


def test_the_listing_has_one_row_per_component_and_plugin_and_cuts_nothing(ffd: Ffd) -> None:
    listing = ffd("list-plugins").stdout
    components, plugins, notes = _tables(listing)
    assert components[0] == ["role", "name", "plugin", "summary"]
    assert ["teacher", "point", "fake", "A teacher for tests"] in components
    assert plugins[0] == ["plugin", "distribution", "state", "import"]
    (fake,) = [row for row in plugins if row[0] == "fake"]
    assert fake[1:3] == ["fake-dist 1.2", "active"]
    assert re.fullmatch(r"\d+\.\d ms", fake[3])
    (vsd,) = [row for row in plugins if row[0] == "vsd"]
    assert vsd[2:] == ["disabled", "-"]
    assert ["vsd", "named in FFCORE_DISABLE_PLUGINS"] in notes
    assert "\t" not in listing
    assert "…" not in listing


def test_the_listing_can_be_of_one_role(ffd: Ffd) -> None:
    components, plugins, _ = _tables(ffd("list-plugins", "--role", "features").stdout)
    assert [row[:2] for row in components[1:]] == [["features", "deep"], ["features", "raw"]]
    assert "fake" in [row[0] for row in plugins]


def test_the_listing_says_why_a_plugin_is_broken(ffd: Ffd, distribute: Distribute) -> None:
    long = "because " * 30
    distribute("bad-dist", {"bad": "bad_listed"}, bad_listed=f"raise OSError({long!r})")
    _, plugins, notes = _tables(ffd("list-plugins").stdout)
    (row,) = [row for row in plugins if row[0] == "bad"]
    assert row[1:3] == ["bad-dist 1.2", "broken"]
    assert ["bad", f"OSError: {long.strip()}, at bad_listed.py:1"] in notes


def test_the_listing_as_json_parses_and_holds_all(ffd: Ffd) -> None:
    document = json.loads(ffd("list-plugins", "--json", "--role", "teacher").stdout)
    assert document["schema"] == 1
    (fake,) = [plugin for plugin in document["plugins"] if plugin["name"] == "fake"]
    assert (fake["distribution"], fake["version"], fake["state"]) == ("fake-dist", "1.2", "active")
    assert [component["name"] for component in fake["components"]] == ["point"]


def test_on_a_terminal_the_listing_fits_80_columns(
    ffd: Ffd, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ffcore.cli import list_plugins

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    plugin = ("a-stranger", "a-stranger-of-a-long-name 12.34.56", "incompatible", "12345.6 ms")
    list_plugins._show([list_plugins.PLUGINS, plugin])
    list_plugins._show([list_plugins.NOTES, ("a-stranger", "why " * 40)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 7
    assert sum(line.count("why") for line in lines) == 40


def test_a_sound_recipe_is_one_line_with_its_components(ffd: Ffd) -> None:
    result = ffd("validate", "good.toml")
    assert result.exit_code == ExitCode.OK
    assert result.stdout == "good.toml: ok (teacher point, student line, predictor identity)\n"
    assert result.stderr == ""


def test_all_errors_of_all_recipes_are_told(ffd: Ffd) -> None:
    Path("bad.toml").write_text(RECIPE + "teacher.dmi = 3\ntraining.batch = 1.5\n")
    result = ffd("validate", "gone.toml", "bad.toml", "good.toml")
    assert result.exit_code == ExitCode.USAGE
    assert [line.split(" ")[0] for line in result.stderr.splitlines()] == [
        "gone.toml:",
        "bad.toml:5:",
        "bad.toml:6:",
    ]
    assert result.stdout.startswith("good.toml: ok")


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        (["training.steps=20"], ExitCode.OK),
        (["student.type=lin"], ExitCode.PLUGIN),
        (["student.type=lin", "training.steps=0"], ExitCode.USAGE),
        (["student.type=no_such_module:Line"], ExitCode.PLUGIN),
    ],
)
def test_the_exit_code_says_whether_recipe_or_plugin_is_to_blame(
    ffd: Ffd, overrides: list[str], code: ExitCode
) -> None:
    options = [option for override in overrides for option in ("--set", override)]
    assert ffd("validate", "good.toml", *options).exit_code == code


@pytest.mark.parametrize("name", ["good.toml", "gone.toml", "."])
def test_a_validation_as_json_always_parses(ffd: Ffd, name: str) -> None:
    document = json.loads(ffd("validate", name, "--json").stdout)
    (result,) = document["recipes"]
    assert (document["schema"], result["recipe"]) == (1, name)
    assert result["ok"] == (name == "good.toml")
    assert len(result.get("diagnostics", [])) == (0 if result["ok"] else 1)


def test_validating_imports_no_torch_and_no_numpy(tmp_path: Path) -> None:
    recipe = tmp_path / "gaussian.toml"
    recipe.write_text(
        'teacher = { type = "gaussian", mean = [1, 2] }\nstudent.type = "mlp"\n'
        'predictor.type = "freeflow"\ntraining.steps = 1\n'
    )
    assert not _modules_after("validate", str(recipe)) & {"torch", "numpy"}


def test_the_package_runs_as_a_module() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ffcore", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout == "ffd 0.1.0\n"


OBJECTIVE = """\
import attrs

from ffcore import PredictorObjective


class Odd(PredictorObjective):
    def gaps(self, networks, batch):
        {answer}


@attrs.frozen
class Table:
    def build(self, context):
        print("hello")
        return Odd()
"""


@pytest.mark.parametrize(
    ("module", "answer", "says"),
    [
        ("odd_tuple", "return (batch.z,)", r"\(odd_tuple:Odd\) returned tuple, not Gaps"),
        ("odd_exit", "raise SystemExit(5)", r"SystemExit: 5, at odd_exit.py:8;"),
    ],
)
def test_an_objective_that_answers_amiss_or_quits_is_a_plugins_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, answer: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path(f"{module}.py").write_text(OBJECTIVE.format(answer=answer))
    told = CliRunner().invoke(
        main, ["run", "gaussian.toml", "--set", f"predictor.type={module}:Table"]
    )
    assert told.exit_code == ExitCode.PLUGIN
    assert re.search(says, told.stderr)
    assert "hello\n" in told.stderr
    assert told.stdout == ""


@pytest.mark.parametrize("option", ["--debug", "--no-plugins"])
def test_what_stands_before_the_command_is_told_so_when_it_stands_behind(option: str) -> None:
    told = CliRunner().invoke(main, ["validate", "gaussian.toml", option], prog_name="ffd")
    assert told.exit_code == ExitCode.USAGE
    assert f"Put it before the command: ffd {option} …" in " ".join(told.stderr.split())
    other = CliRunner().invoke(main, ["validate", "gaussian.toml", "--debut"], prog_name="ffd")
    assert "before the command" not in other.stderr


FAULTY = """\
import attrs


@attrs.frozen
class Faulty:
    \'\'\'Fails when it is built.\'\'\'

    def build(self, context):
        return int("three").real
"""


def test_a_fault_in_a_strangers_code_is_told_by_its_line_and_in_full_with_debug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("faulty_table.py").write_text(FAULTY)
    arguments = ["run", "gaussian.toml", "--set", "corrector.type=faulty_table:Faulty"]
    short = CliRunner().invoke(main, arguments)
    assert short.exit_code == ExitCode.USAGE
    assert re.search(r"\[corrector\] invalid literal .* \(at faulty_table.py:9\)", short.stderr)
    assert "Traceback" not in short.stderr
    full = CliRunner().invoke(main, ["--debug", *arguments])
    assert full.exit_code == ExitCode.USAGE
    assert "Traceback" in full.stderr
    assert full.stderr.count('return int("three").real') >= 1
    check = ["check-plugin", "faulty_table:Faulty", "--role", "corrector"]
    assert "(at faulty_table.py:9)" in CliRunner().invoke(main, check).stdout
    Path("worse_table.py").write_text(FAULTY.replace("int(", "len(1 or "))
    worse = [*arguments[:-1], "corrector.type=worse_table:Faulty"]
    told = CliRunner().invoke(main, worse)
    assert told.exit_code == ExitCode.PLUGIN
    assert told.stderr.endswith(", at worse_table.py:9; ffd --debug shows the full traceback\n")
    assert "[corrector] worse_table:Faulty cannot be built: TypeError" in told.stderr
    whole = CliRunner().invoke(main, ["--debug", *worse]).stderr
    assert "Traceback" in whole
    assert "ffd --debug" not in whole
    check = ["check-plugin", "worse_table:Faulty", "--role", "corrector"]
    short, full = (CliRunner().invoke(main, [*more, *check]) for more in ([], ["--debug"]))
    assert "worse_table.py:9" in short.stdout
    assert short.stderr == ""
    assert 'return len(1 or "three").real' in full.stderr


def test_a_closed_stdout_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as ended:
        main(["list-plugins"])
    assert ended.value.code == 0
