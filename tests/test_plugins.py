import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
)

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


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 +", "SyntaxError: invalid syntax"),
        ("", "implements no hook; possible: ffcore_components"),
        (HOOK.replace("_components", "_componentz") + "return []", "ffcore_componentz"),
        (HOOK.replace("()", "(nonsense)") + "return []", "nonsense"),
        (HOOK + "return 1 / 0", "ZeroDivisionError: division by zero"),
        (HOOK + "yield 1 / 0", "ZeroDivisionError: division by zero"),
        (HOOK + "raise SystemExit('late')", "SystemExit: late"),
        (HOOK + "return 3", "TypeError"),
        (HOOK + "return ['moon']", "must yield Component, found 'moon'"),
        (HOOK + "yield Component('techer', 'moon', 'a:B', '')", "did you mean 'teacher'?"),
        (HOOK + "yield Component('teacher', 'my moon', 'a:B', '')", "name: must be lower-case"),
        (HOOK + "yield Component('teacher', 'moon', 'a.B', '')", "form 'module:Class'"),
        (HOOK + "return [Component('teacher', 'm', 'a:B', '')] * 2", "declared twice"),
        ("try:\n    1 / 0\nexcept Exception as e:\n    raise OSError('x') from e", "(from ZeroDiv"),
    ],
)
def test_a_plugin_that_fails_is_broken_with_its_cause_and_stops_no_other(
    distribute: Distribute, code: str, cause: str
) -> None:
    module = f"bad_{abs(hash(code))}"
    distribute("bad-dist", {"bad": module}, **{module: code})
    _good(distribute, "moon-dist", "moon_b")
    registry = Registry.load()
    bad = _plugin(registry, "bad")
    assert bad.state == "broken"
    assert cause in str(bad.cause)
    assert "\n" not in str(bad.cause)
    assert registry.find("teacher", "moon").name == "moon"


def test_an_interrupt_is_not_swallowed(distribute: Distribute) -> None:
    distribute("bad-dist", {"bad": "bad_interrupt"}, bad_interrupt="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Registry.load()


@pytest.mark.parametrize("group", ["ffcore.v0", "ffcore.v2"])
def test_a_plugin_for_another_interface_is_incompatible_and_not_imported(
    distribute: Distribute, group: str
) -> None:
    distribute("old-dist", {"old": "old_plugin"}, group=group, old_plugin="raise SystemExit")
    old = _plugin(Registry.load(), "old")
    assert old.state == "incompatible"
    assert old.cause == f"made for plugin interface {group}, this is ffcore.v1"
    assert "old_plugin" not in sys.modules


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
