import importlib
import json
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from ffcore.cli import ExitCode, main
from ffcore.keys import ImpossibleValue
from ffcore.plugins import (
    ROLES,
    AmbiguousComponent,
    BrokenPlugin,
    Component,
    Plugin,
    PluginError,
    Registry,
    UnknownComponent,
    installed,
)
from ffcore.plugins.place import describe_error, place

Distribute = Callable[..., None]

GOOD = """
from ffcore.plugins import Component, hookimpl

@hookimpl
def ffcore_components():
    yield Component("teacher", "moon", "{module}_tables:Moon", "A moon")
"""
TABLES = """
import attrs

@attrs.frozen(kw_only=True)
class Moon:
    phase: int = 1

class Bare:
    pass
"""
RECIPE = """
teacher = { type = "moon" }
student = { type = "mlp" }
predictor = { type = "freeflow" }
training = { steps = 1 }
"""
HOOK = "from ffcore.plugins import Component, hookimpl\n@hookimpl\ndef ffcore_components():\n    "


def _plugin(registry: Registry, name: str) -> Plugin:
    return next(plugin for plugin in registry.plugins if plugin.name == name)


def _good(distribute: Distribute, dist: str, module: str) -> None:
    code = {module: GOOD.format(module=module), f"{module}_tables": TABLES}
    distribute(dist, {module: module}, **code)


def test_a_plugin_is_found_with_its_distribution_version_and_components(
    distribute: Distribute,
) -> None:
    _good(distribute, "moon-dist", "moon_a")
    registry = Registry.load()
    plugin = _plugin(registry, "moon_a")
    assert (plugin.state, plugin.cause, plugin.origin) == ("active", None, "moon-dist 1.2")
    assert registry.find("teacher", "moon") is plugin.components[0]
    assert registry.table("teacher", "moon")().phase == 1


def _ffd(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="ffd")


def _listed(distribution: str) -> dict[str, Any]:
    """What `ffd list-plugins --json` says of a distribution's only plugin."""
    plugins = json.loads(_ffd("list-plugins", "--json").stdout)["plugins"]
    (found,) = [each for each in plugins if each["distribution"] == distribution]
    return dict(found)


def _assert_told(state: str, cause: str, *options: str) -> None:
    """Plugin `bad` is listed with its cause; a recipe that does not name it is sound, and one that
    does quotes the cause."""
    listing = _ffd(*options, "list-plugins").stdout.splitlines()
    row, note = [line for line in listing if line.startswith("bad")]
    assert f" {state} " in row
    assert cause in note
    assert _ffd(*options, "validate", "digits.toml").exit_code == ExitCode.OK
    named = _ffd(*options, "validate", "digits.toml", "--set", "teacher.type=bad")
    assert named.exit_code == ExitCode.PLUGIN
    assert cause in named.stderr
    assert "Traceback" not in named.stderr


YIELD = HOOK + "yield Component('teacher', 'm', 'a:B', '')\n    "
MUTE = "class Mute(Exception):\n    def __str__(self):\n        return 1 / 0\nraise Mute"


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 +", "SyntaxError: invalid syntax"),
        ("raise OSError('two\\nlines')", "OSError: two lines"),
        (MUTE, "Mute"),
        ("e = OSError('itself')\nraise e from e", "OSError: itself"),
        ("try:\n    1 / 0\nexcept Exception as e:\n    raise OSError('x') from e", "(from ZeroDiv"),
        ("import warnings\nwarnings.warn('old')", "UserWarning: old"),  # an error, in these tests
        ("", "implements no hook; possible: ffcore_components"),
        (HOOK.replace("@hookimpl", "") + "return []", "marked by @hookimpl"),
        (HOOK.replace("_components", "_componentz") + "return []", "possible: ffcore_components"),
        (HOOK.replace("()", "(nonsense)") + "return []", "nonsense"),
        (HOOK + "return 1 / 0", "ZeroDivisionError: division by zero"),
        (YIELD + "yield 1 / 0", "ZeroDivisionError: division by zero"),
        (HOOK + "raise SystemExit('late')", "SystemExit: late"),
        (HOOK + "return ffcore_components()", "RecursionError"),
        (HOOK + "yield from ffcore_components()", "RecursionError"),
        (HOOK + "return", "must return or yield Component, found None"),
        (HOOK + "return 3", "TypeError"),
        (HOOK + "return ['moon']", "must yield Component, found 'moon'"),
        (HOOK + "return ['moon' * 10000]", "must yield Component, found 'moonm"),
        (HOOK + "yield Component('techer', 'moon', 'a:B', '')", "did you mean 'teacher'?"),
        (HOOK + "yield Component('teacher', 'my moon', 'a:B', '')", "name: must be lower-case"),
        (HOOK + "yield Component('teacher', 3, 'a:B', '')", "name: must be lower-case"),
        (HOOK + "yield Component(['teacher'], 'moon', 'a:B', '')", "role: must be"),
        (HOOK + "yield Component('teacher', 'moon', 'a.B', '')", "form 'module:Class'"),
        (
            HOOK + "yield Component('teacher', 'moon', 'a:B', None)",
            "summary: must be a string, found None",
        ),
        (HOOK + "return [Component('teacher', 'm', 'a:B', '')] * 2", "declared twice"),
        (
            HOOK + "n = 0\n    while True:\n        n += 1\n"
            "        yield Component('teacher', f'm{n}', 'a:B', '')",
            "more than 1000 components",
        ),
    ],
)
def test_a_plugin_that_fails_is_broken_with_its_cause_and_stops_no_other(
    distribute: Distribute, code: str, cause: str
) -> None:
    module = f"bad_{abs(hash(code))}"
    distribute("bad-dist", {"bad": module}, **{module: code})
    _good(distribute, "moon-dist", "moon_b")
    _assert_told("broken", cause)
    registry = Registry.load()
    bad = _plugin(registry, "bad")
    assert bad.import_seconds is not None
    assert len(str(bad.cause).splitlines()) == 1
    assert len(str(bad.cause)) < 400
    assert registry.find("teacher", "moon").name == "moon"


@pytest.mark.parametrize(
    ("file", "content", "cause"),
    [
        ("entry_points.txt", b"[ffcore.v1]\nbad = gone_plugin", "No module named 'gone_plugin'"),
        ("entry_points.txt", b"[ffcore.v1]\nbad = no module!", "must name a module, found 'no mod"),
        ("entry_points.txt", b"[ffcore.v1]\nbad", "entry_points.txt is damaged; its lines must be"),
        ("entry_points.txt", b"[ffcore.v1]\nbad = \xff", "UnicodeDecodeError"),
        ("METADATA", b"", "SystemExit: 3"),
        ("METADATA", b"\xff", "SystemExit: 3"),
        ("METADATA", None, "SystemExit: 3"),
    ],
)
def test_damaged_metadata_and_a_plugin_that_vanished_stop_no_other(
    distribute: Distribute, tmp_path: Path, file: str, content: bytes | None, cause: str
) -> None:
    distribute("bad-dist", {"bad": "bad_damaged"}, bad_damaged="raise SystemExit(3)")
    damaged = tmp_path / "bad_dist-1.2.dist-info" / file
    if content is None:
        damaged.unlink()
    else:
        damaged.write_bytes(content)
    _assert_told("broken", cause)
    (bad,) = [each for each in Registry.load().plugins if each.state == "broken"]
    assert bad.origin.replace("_", "-") == "bad-dist 1.2"


def test_of_two_copies_of_a_distribution_the_first_on_the_path_counts(
    distribute: Distribute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _good(distribute, "moon-dist", "moon_i")
    shutil.copytree(tmp_path / "moon_dist-1.2.dist-info", tmp_path / "~oon_dist-1.2.dist-info")
    assert [each.name for each in Registry.load().plugins].count("moon_i") == 1
    newer = tmp_path / "newer" / "moon_dist-1.3.dist-info"
    newer.mkdir(parents=True)
    (newer / "METADATA").write_text("Metadata-Version: 2.1\nName: moon-dist\nVersion: 1.3\n")
    monkeypatch.syspath_prepend(newer.parent)
    assert [each for each in Registry.load().plugins if each.distribution == "moon-dist"] == []


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("moon_j_tables:Gone", "has no attribute 'Gone'"),
        ("moon_j_gone:Moon", "No module named 'moon_j_gone'"),
        ("moon_j_exits:Moon", "SystemExit: 5"),
    ],
)
def test_a_table_that_cannot_be_imported_is_told_to_the_recipe_that_asks_for_it(
    distribute: Distribute, target: str, cause: str
) -> None:
    module = f"bad_{abs(hash(target))}"
    code = {module: GOOD.replace("{module}_tables:Moon", target)}
    exits = "raise SystemExit(5)"
    distribute("bad-dist", {"bad": module}, **code, moon_j_tables=TABLES, moon_j_exits=exits)
    assert _listed("bad-dist")["state"] == "active"
    assert _ffd("validate", "digits.toml").exit_code == ExitCode.OK
    result = _ffd("validate", "digits.toml", "--set", "teacher.type=moon")
    assert result.exit_code == ExitCode.PLUGIN
    assert "teacher 'moon' of plugin bad (bad-dist 1.2) cannot be used" in result.stderr
    assert cause in result.stderr


def test_the_time_of_an_import_is_shown_and_a_slow_one_is_waited_for_and_noted(
    distribute: Distribute, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = types.SimpleNamespace(now=1.0)
    monkeypatch.setitem(sys.modules, "moon_clock", clock)
    monkeypatch.setattr("ffcore.plugins.discovery.time.perf_counter", lambda: clock.now)
    for name, module, seconds in (("slow", "moon_k", 0.75), ("moon", "moon_l", 0.25)):
        code = f"import moon_clock\nmoon_clock.now += {seconds}\n{GOOD.format(module=module)}"
        distribute(f"{name}-dist", {name: module}, **{module: code, f"{module}_tables": TABLES})
    slow, quick = _listed("slow-dist"), _listed("moon-dist")
    assert slow["state"] == "active"
    assert slow["import_seconds"] == 0.75
    assert any("slow to import" in note for note in slow["notes"])
    assert quick["import_seconds"] == 0.25
    assert not any("slow to import" in note for note in quick["notes"])
    assert f" active  {1000 * slow['import_seconds']:.1f} ms" in _ffd("list-plugins").stdout


def test_what_a_plugin_prints_leaves_json_whole_and_no_plugin_moves_to_another_folder(
    distribute: Distribute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loud = "import os\nprint('hello')\nos.chdir('/')\n"
    code = GOOD.format(module="moon_m") + "    print('hello')\n"
    distribute("loud-dist", {"loud": "moon_m"}, moon_m=loud + code, moon_m_tables=loud + TABLES)
    Path("mine.toml").write_text(RECIPE)
    listing = _ffd("list-plugins", "--json")
    assert json.loads(listing.stdout)["plugins"]
    assert listing.stderr.count("hello") == 2
    validation = _ffd("validate", "mine.toml", "--json")
    assert json.loads(validation.stdout)["recipes"][0]["ok"]
    assert validation.stderr == "hello\n"
    assert Path.cwd() == tmp_path


def test_discovery_works_in_a_folder_that_is_gone(
    distribute: Distribute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _good(distribute, "moon-dist", "moon_n")
    monkeypatch.chdir(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert _plugin(Registry.load(), "moon_n").state == "active"


def test_an_interrupt_is_not_swallowed_and_names_the_plugin_it_met(distribute: Distribute) -> None:
    distribute("bad-dist", {"bad": "bad_interrupt"}, bad_interrupt="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt, match="while importing plugin 'bad'"):
        Registry.load()
    result = _ffd("list-plugins")
    assert result.exit_code == ExitCode.INTERRUPTED
    assert "FFCORE_DISABLE_PLUGINS=bad-dist disables it" in result.stderr


@pytest.mark.parametrize("group", ["ffcore.v0", "ffcore.v2", "ffcore", "ffcore.plugins"])
def test_a_plugin_for_another_interface_is_incompatible_and_not_imported(
    distribute: Distribute, group: str
) -> None:
    distribute("old-dist", {"bad": "old_plugin"}, group=group, old_plugin="raise SystemExit")
    _assert_told(
        "incompatible", f"made for plugin interface {group}, but this ffcore has ffcore.v1"
    )
    assert "old_plugin" not in sys.modules


@pytest.mark.parametrize("option", [[], ["--no-plugins"]])
def test_third_parties_can_be_disabled_together_before_they_are_imported(
    distribute: Distribute, monkeypatch: pytest.MonkeyPatch, option: list[str]
) -> None:
    _good(distribute, "moon-dist", "moon_o")
    distribute("bad-dist", {"bad": "bad_o"}, bad_o="raise SystemExit(3)")
    value = "vae" if option else "Third_Party, vae"
    monkeypatch.setenv("FFCORE_DISABLE_PLUGINS", value)
    cause = "--no-plugins or FFCORE_DISABLE_PLUGINS=third-party disables third-party plugins"
    _assert_told("disabled", cause, *option)
    assert not {"moon_o", "bad_o"} & set(sys.modules)
    assert os.environ["FFCORE_DISABLE_PLUGINS"] == value
    if option:
        assert _listed("moon-dist")["state"] == "active"


@pytest.mark.parametrize("names", ["moon_c", "x, Moon_Dist"])
def test_a_disabled_plugin_is_not_imported_and_says_so_when_it_is_named(
    distribute: Distribute, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    _good(distribute, "moon-dist", "moon_c")
    monkeypatch.setenv("FFCORE_DISABLE_PLUGINS", names)
    registry = Registry.load()
    assert _plugin(registry, "moon_c").state == "disabled"
    assert "moon_c" not in sys.modules
    with pytest.raises(PluginError, match="is disabled: named in FFCORE_DISABLE_PLUGINS"):
        registry.find("teacher", "moon")


def test_two_claims_to_one_name_are_an_error_naming_both_until_one_is_chosen(
    distribute: Distribute,
) -> None:
    _good(distribute, "first-dist", "moon_d")
    _good(distribute, "second-dist", "moon_e")
    registry = Registry.load()
    with pytest.raises(AmbiguousComponent) as caught:
        registry.table("teacher", "moon")
    assert "first-dist 1.2" in str(caught.value)
    assert "second-dist 1.2" in str(caught.value)
    table = registry.table("teacher", "Second_Dist:moon")
    assert table.__module__ == "moon_e_tables"
    assert registry.type_name("teacher", table()) == "second-dist:moon"


def test_a_misspelt_target_is_told_its_nearest(distribute: Distribute) -> None:
    misspelt = GOOD.replace(":Moon", ":Mon").format(module="moon_w")
    distribute("moon-dist", {"moon_w": "moon_w"}, moon_w=misspelt, moon_w_tables=TABLES)
    with pytest.raises(BrokenPlugin, match="has no attribute 'Mon'; did you mean 'Moon'"):
        Registry.load().table("teacher", "moon")


def test_a_broken_plugin_and_a_broken_table_show_their_tracebacks_with_debug(
    distribute: Distribute, tmp_path: Path
) -> None:
    distribute("bad-dist", {"bad": "bad_v"}, bad_v="def fail():\n    1 / 0\nfail()\n")
    code = {"moon_v": GOOD.format(module="moon_v"), "moon_v_tables": "raise OSError('no')"}
    distribute("moon-dist", {"moon_v": "moon_v"}, **code)
    (tmp_path / "mine.toml").write_text(RECIPE)
    for command in (["list-plugins"], ["validate", str(tmp_path / "mine.toml")]):
        assert "Traceback" not in _ffd(*command).stderr
        installed.cache_clear()  # as in a process of its own
        full = _ffd("--debug", *command).stderr
        assert "plugin 'bad' (bad-dist 1.2) is broken:" in full
        assert 'bad_v.py", line 2, in fail' in full
    assert 'moon_v_tables.py", line 1' in full


def test_a_name_claimed_twice_is_noted_beside_both_plugins(distribute: Distribute) -> None:
    _good(distribute, "first-dist", "moon_p")
    _good(distribute, "second-dist", "moon_q")
    first = _listed("first-dist")
    assert first["state"] == "active"
    (note,) = first["notes"]
    assert note == (
        "teacher 'moon' is also registered by plugin moon_q (second-dist 1.2): "
        "use 'first-dist:moon' in recipes"
    )
    assert (
        sum("is also registered by" in row for row in _ffd("list-plugins").stdout.splitlines()) == 2
    )
    assert _ffd("validate", "digits.toml").exit_code == ExitCode.OK
    told = _ffd("validate", "digits.toml", "--set", "teacher.type=moon")
    assert told.exit_code == ExitCode.PLUGIN
    assert "'first-dist:moon' or 'second-dist:moon'" in told.stderr
    named = "teacher.type='first-dist:moon'"
    assert "cannot be used" not in _ffd("validate", "digits.toml", "--set", named).stderr


def test_one_distribution_that_claims_a_name_twice_is_not_told_to_name_itself(
    distribute: Distribute,
) -> None:
    code = {name: GOOD.format(module="moon_r") for name in ("moon_r", "moon_s")}
    distribute("twice-dist", {"r": "moon_r", "s": "moon_s"}, **code)
    with pytest.raises(AmbiguousComponent) as caught:
        Registry.load().find("teacher", "moon")
    assert "'twice-dist:moon'" not in str(caught.value)
    assert "FFCORE_DISABLE_PLUGINS" in str(caught.value)


def test_an_unknown_name_is_answered_with_the_possible_ones_and_the_broken_plugins(
    distribute: Distribute,
) -> None:
    _good(distribute, "moon-dist", "moon_f")
    distribute("bad-dist", {"bad": "bad_f"}, bad_f="raise RuntimeError('no license')")
    with pytest.raises(UnknownComponent) as caught:
        Registry.load().find("teacher", "mooon")
    message = str(caught.value)
    assert "unknown teacher 'mooon'; did you mean 'moon'? (possible: " in message
    assert "plugin 'bad' (bad-dist 1.2) is broken: RuntimeError: no license" in message


def test_a_broken_plugin_named_like_the_component_is_the_error(distribute: Distribute) -> None:
    distribute("bad-dist", {"bad": "bad_g"}, bad_g="raise RuntimeError('no license')")
    with pytest.raises(BrokenPlugin, match=r"bad-dist 1\.2.*no license"):
        Registry.load().find("student", "bad")


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("no_such:Moon", "No module named 'no_such'"),
        ("moon_h_tables:Mon", "has no attribute 'Mon'"),
        ("moon_h_tables:Bare", "is not an attrs class"),
    ],
)
def test_a_target_that_is_no_table_is_an_error_that_names_the_plugin(
    distribute: Distribute, target: str, cause: str
) -> None:
    _good(distribute, "moon-dist", "moon_h")
    component = Component("teacher", "sun", target, "")
    good = Plugin(
        name="p", distribution="d", version="1", value="m", state="active", components=(component,)
    )
    with pytest.raises(BrokenPlugin, match="teacher 'sun' of plugin p") as caught:
        Registry((good,)).table("teacher", "sun")
    assert cause in str(caught.value)


def test_a_class_can_be_named_without_a_plugin(distribute: Distribute) -> None:
    distribute("empty-dist", {}, experiment=TABLES)
    registry = Registry(())
    table = registry.table("teacher", "experiment:Moon")
    assert table().phase == 1
    assert registry.type_name("teacher", table()) == "experiment:Moon"
    assert registry.provider("teacher", table()) is None


def test_a_file_in_the_current_folder_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("one_file.py").write_text(TABLES)
    assert Registry(()).table("teacher", "one_file:Moon")().phase == 1


@given(st.text(max_size=12))
def test_only_plain_names_are_names(name: str) -> None:
    plain = name[:1] in set("abcdefghijklmnopqrstuvwxyz") and not set(name) - set(
        "abcdefghijklmnopqrstuvwxyz0123456789-"
    )
    if plain and name:
        assert Component("teacher", name, "a:B", "").name == name
    else:
        with pytest.raises(ImpossibleValue):
            Component("teacher", name, "a:B", "")


def test_every_plugin_of_ours_is_active_brings_importable_tables_and_stays_light() -> None:
    code = (
        "import json, sys\n"
        "from ffcore.plugins import Registry\n"
        "registry = Registry.load()\n"
        "bad = [(p.name, p.cause) for p in registry.plugins if p.cause]\n"
        "tables = [registry.table(c.role, c.name).__name__ for c in registry.components]\n"
        "print(json.dumps([bad, tables, sorted({'torch', 'numpy'} & set(sys.modules))]))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "FFCORE_DISABLE_PLUGINS"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    bad, tables, heavy = json.loads(result.stdout)
    assert bad == []
    assert tables
    assert heavy == []


def test_every_role_says_what_it_is_for() -> None:
    assert all(meaning for meaning in ROLES.values())


# Where an error came from


DEEP = """
import json

def fail(how):
    if how == "in a library":
        json.loads("{")
    raise LookupError(how)
"""


def raised(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except (LookupError, ValueError) as error:
        return error
    raise AssertionError


def test_an_error_is_told_with_the_line_of_the_strangers_code(distribute: Distribute) -> None:
    distribute("deep-dist", {"deep": "deep_plugin"}, deep_plugin=DEEP)
    deep = importlib.import_module("deep_plugin")
    assert (
        describe_error(raised(lambda: deep.fail("here")))
        == "LookupError: here, at deep_plugin.py:7"
    )
    assert describe_error(raised(lambda: deep.fail("in a library"))).endswith(
        ", at deep_plugin.py:6"
    )

    def wrapped() -> None:
        try:
            deep.fail("here")
        except LookupError as error:
            raise ValueError("outside") from error

    assert place(raised(wrapped)) == "deep_plugin.py:7"
