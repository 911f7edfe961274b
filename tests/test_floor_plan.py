"""The floor plan of `docs/architecture.md`, held: what may import what."""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top of the house to its foundation; a room may import from the rooms below it only.
FLOORS: list[set[str]] = [
    {"__main__"},
    {"cli"},
    {"run", "search", "verify"},
    {"evaluate"},
    {"sample", "testing"},
    {"export", "cost"},
    {"recipe", "doctor"},
    {"training", "nn", "plugins", "report"},
    {"flow", "system"},
    {"interfaces", "keys", "draws"},
]
BANNED = {"utils", "util", "common", "helpers", "helper", "misc", "base"}


@cache
def imports(code: str) -> tuple[tuple[str, bool], ...]:
    """Every module or name of one that the code imports, also within functions, and whether when
    it runs.

    What stands under `if TYPE_CHECKING:` is for the type checker alone.
    """
    return tuple(_imports(ast.parse(code)))


def _imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    nodes = list(ast.walk(tree))
    for_types = {
        id(inner)
        for node in nodes
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in nodes:
        runs = id(node) not in for_types
        if isinstance(node, ast.Import):
            yield from ((alias.name, runs) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((f"{module}.{alias.name}", runs) for alias in node.names)


def plugins_in_core(code: str) -> list[str]:
    return [module for module, _ in imports(code) if module.startswith("ffcore_")]


def other_plugins(own: str, code: str) -> list[str]:
    return [module for module in plugins_in_core(code) if module.split(".")[0] != own]


def ours(code: str) -> list[str]:
    """What of ffcore or its plugins is imported when the code runs, also within functions."""
    return [
        module
        for module, runs in imports(code)
        if runs and re.match(r"\.|ffcore\b|ffcore_", module)
    ]


def upward(room: str, code: str, floors: list[set[str]]) -> list[str]:
    """The imports of another room that is not below `room`."""
    below = set().union(*floors[_floor(room, floors) + 1 :])
    rooms = [
        module.split(".")[1]
        for module, runs in imports(code)
        if module.startswith("ffcore.") and runs
    ]
    return [other for other in rooms if other not in below | {room}]


def circles(code: dict[str, str]) -> list[set[str]]:
    """The modules, of those whose code is given by name, that import each other in a circle."""
    towards = {name: set(_among(name, code)) for name in code}
    reached = {name: set(others) for name, others in towards.items()}
    for between in code:
        for name in code:
            if between in reached[name]:
                reached[name] |= reached[between]
    found = [{other for other in reached[name] if name in reached[other]} for name in code]
    return [circle for index, circle in enumerate(found) if circle and circle not in found[:index]]


def _among(name: str, code: dict[str, str]) -> Iterator[str]:
    """The other modules of `code` that the module `name` imports when it runs."""
    for found, runs in imports(code[name]):
        module = found if found in code else found.rpartition(".")[0]
        if runs and module in code and module != name:
            yield module


def badly_named(files: Iterable[Path]) -> list[Path]:
    return [file for file in files if BANNED & {*file.parent.parts, file.stem}]


def _floor(room: str, floors: list[set[str]]) -> int:
    return next(number for number, rooms in enumerate(floors) if room in rooms)


def _room(file: Path) -> str:
    return file.relative_to(ROOT / "ffcore").parts[0].removesuffix(".py")


def _files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


CORE = [file for file in _files("ffcore") if file != ROOT / "ffcore" / "__init__.py"]
PLUGINS = _files("plugins")


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", CORE, ids=_name)
def test_core_imports_no_plugin(file: Path) -> None:
    assert plugins_in_core(file.read_text()) == []


@pytest.mark.parametrize("file", CORE, ids=_name)
def test_arrows_point_down(file: Path) -> None:
    room = _room(file)
    assert any(room in rooms for rooms in FLOORS), f"{room} stands on no floor; see FLOORS"
    assert upward(room, file.read_text(), FLOORS) == []


def test_the_vocabulary_of_roles_imports_nothing_of_ours_when_it_runs() -> None:
    assert ours((ROOT / "ffcore" / "interfaces.py").read_text()) == []


@pytest.mark.parametrize("file", PLUGINS, ids=_name)
def test_no_plugin_imports_another(file: Path) -> None:
    own = file.relative_to(ROOT / "plugins").parts[0]
    assert other_plugins(own, file.read_text()) == []


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    shelf = 1 if parts[0] == "plugins" else 0
    return ".".join(parts[shelf:]).removesuffix(".__init__")


def _part(file: Path) -> Path:
    """The room or the plugin that a file belongs to."""
    return Path(*file.relative_to(ROOT).parts[:2]).with_suffix("")


@pytest.mark.parametrize("part", sorted({_part(file) for file in [*CORE, *PLUGINS]}), ids=str)
def test_no_room_and_no_plugin_has_a_circle(part: Path) -> None:
    files = [file for file in [*CORE, *PLUGINS] if _part(file) == part]
    assert circles({_module(file): file.read_text() for file in files}) == []


def test_modules_are_named_after_what_they_are_about() -> None:
    files = [file.relative_to(ROOT) for file in [*CORE, *PLUGINS]]
    assert badly_named(files) == []


def test_the_shelf_of_plugins_is_no_package_and_each_plugin_is_a_typed_one() -> None:
    assert not (ROOT / "plugins" / "__init__.py").exists()
    folders = [f for f in (ROOT / "plugins").iterdir() if f.is_dir() and f.name != "__pycache__"]
    for folder in folders:
        for name in ("__init__.py", "py.typed", "plugin.py", "tables.py"):
            assert (folder / name).is_file(), f"{folder.name} has no {name}"


@pytest.mark.parametrize(
    "code",
    [
        "import ffcore_sit",
        "from ffcore_sit.tables import SiT",
        "def f():\n    import ffcore_sit.student",
    ],
)
def test_a_plugin_in_core_would_be_seen(code: str) -> None:
    assert plugins_in_core(code)
    assert other_plugins("ffcore_vsd", code)
    assert not other_plugins("ffcore_sit", code)


@pytest.mark.parametrize(
    "code",
    [
        "import ffcore.cli",
        "from ffcore import cli",
        "from ffcore.cli.run import run",
        "def f():\n    from ffcore.cli import run",
        "from ffcore.nowhere import thing",
    ],
)
def test_an_arrow_upward_would_be_seen(code: str) -> None:
    assert upward("keys", code, FLOORS)
    assert not upward("keys", "from ffcore.keys import nearest", FLOORS)


@pytest.mark.parametrize(
    "code",
    [
        "import ffcore",
        "import ffcore.draws",
        "from ffcore import draws",
        "from ffcore.draws import Draws",
        "from . import draws",
        "def f():\n    from ffcore.draws import Draws",
        "class A:\n    def f(self):\n        import ffcore_sit",
    ],
)
def test_an_import_of_ours_would_be_seen(code: str) -> None:
    assert ours(code)
    assert ours("if TYPE_CHECKING:\n    from ffcore.draws import Draws") == []
    assert ours("import ffcorelike") == []


def test_rooms_on_one_floor_do_not_import_each_other() -> None:
    assert upward("a", "import ffcore.b", [{"a", "b"}])


def test_types_may_come_from_above() -> None:
    code = "if TYPE_CHECKING:\n    from ffcore.cli import run"
    assert upward("keys", code, FLOORS) == []


@pytest.mark.parametrize(
    "back",
    [
        "from ffcore.room.a import A",
        "from ffcore.room import a",
        "def f():\n    from ffcore.room.a import A",
    ],
)
def test_a_circle_would_be_seen(back: str) -> None:
    code = {
        "ffcore.room": "from ffcore.room.a import A",
        "ffcore.room.a": "import ffcore.room.b",
        "ffcore.room.b": "from ffcore.room.c import C",
        "ffcore.room.c": back,
    }
    assert circles(code) == [{"ffcore.room.a", "ffcore.room.b", "ffcore.room.c"}]
    for_types = f"if TYPE_CHECKING:\n    {back}" if not back.startswith("def") else ""
    assert circles(code | {"ffcore.room.c": for_types}) == []


def test_a_module_of_leftovers_would_be_seen() -> None:
    files = [Path("ffcore/utils.py"), Path("ffcore/helpers/x.py"), Path("ffcore/flow/path.py")]
    assert badly_named(files) == files[:2]
