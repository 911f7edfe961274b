"""Sources: the files and overrides that a recipe is made of, and where in them a key stands."""

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path as File
from typing import Any

import attrs

import ffcore
from ffcore.keys import did_you_mean
from ffcore.recipe.diagnostics import Diagnostic, Path, RecipeError
from ffcore.recipe.merge import Tree, parse_key

_HEADER = re.compile(r"\s*(\[\[?)([^\[\]]+)\]\]?\s*(?:#.*)?")
_ASSIGNMENT = re.compile(r"\s*([^=#\[\]]+?)\s*=.*")


@attrs.frozen
class Source:
    """One layer of a recipe: a tree, what to call it in messages, the lines of its keys."""

    name: str
    tree: Tree
    lines: Mapping[Path, int] = attrs.field(factory=dict)
    is_file: bool = False

    def holds(self, path: Path) -> bool:
        """Whether the key at `path` was written here."""
        node: Any = self.tree
        try:
            for step in path:
                node = node[step]
        except (LookupError, TypeError):
            return False
        return True

    def line(self, path: Path) -> int | None:
        """The line of the key at `path`, or of the innermost table around it that has one."""
        inside_out = (path[:end] for end in range(len(path), 0, -1))
        return next((self.lines[outer] for outer in inside_out if outer in self.lines), None)


def packaged_recipes() -> File:
    """The folder of the recipes that come with ffcore."""
    package = File(ffcore.__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def find_recipe(name: str, near: File | None = None) -> File:
    """The file that `name` means: a path (relative to the folder `near`), or a packaged recipe.

    Raises `RecipeError` if there is neither.
    """
    path = (near or File()) / name
    if path.exists():
        return path
    packaged = packaged_recipes() / name
    if File(name).name == name and packaged.is_file():
        return packaged
    known = sorted(file.name for file in packaged_recipes().glob("*.toml"))
    message = f"no such file{did_you_mean(name, known)}"
    message += f" (packaged recipes: {', '.join(known) or 'none'})"
    raise RecipeError([Diagnostic(str(path), "", message)])


def read_source(file: File) -> Source:
    """Read a TOML file. Raises `RecipeError` with one message if it cannot be read."""
    name = str(file)
    try:
        text = file.read_text(encoding="utf-8-sig")
        tree = tomllib.loads(text)
    except OSError as error:
        raise RecipeError([Diagnostic(name, "", f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 text: {error.reason} at byte {error.start}"
        raise RecipeError([Diagnostic(name, "", message)]) from None
    except (ValueError, RecursionError) as error:
        where = re.search(r"at line (\d+)", str(error))
        line = int(where[1]) if where else None
        raise RecipeError([Diagnostic(name, "", f"is not TOML: {error}", line)]) from None
    return Source(name, tree, lines_of_keys(text), is_file=True)


def lines_of_keys(text: str) -> dict[Path, int]:
    """The lines at which tables and keys of a TOML text start, as far as they are plain to see.

    A key inside an inline table is not found. A path met twice (say once in a multi-line string)
    is left out: rather no line than a wrong one.
    """
    met: list[tuple[Path, int]] = []
    table: Path = ()
    arrays: Counter[Path] = Counter()
    for number, line in enumerate(text.split("\n"), start=1):
        if (header := _HEADER.fullmatch(line)) and (key := parse_key(header[2])):
            table = _enter(key, header[1] == "[[", arrays)
            met.append((table, number))
        elif (assignment := _ASSIGNMENT.fullmatch(line)) and (key := parse_key(assignment[1])):
            met.append(((*table, *key), number))
    times = Counter(path for path, _ in met)
    return {path: number for path, number in met if times[path] == 1}


def _enter(key: tuple[str, ...], is_array: bool, arrays: Counter[Path]) -> Path:
    """The path of the table that a header opens, led through the latest elements of arrays."""
    path: Path = ()
    for depth, name in enumerate(key, start=1):
        path = (*path, name)
        if is_array and depth == len(key):
            arrays[path] += 1
        if arrays[path]:
            path = (*path, arrays[path] - 1)
    return path
