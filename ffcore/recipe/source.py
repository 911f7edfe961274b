"""Sources: the files and overrides of a recipe, and the lines of their keys."""

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
    """One layer of a recipe: a tree, its name for messages, the lines of its keys."""

    name: str
    tree: Tree
    lines: Mapping[Path, int] = attrs.field(factory=dict)
    is_file: bool = False

    def holds(self, path: Path) -> bool:
        """Whether this source has the key at `path`."""
        node: Any = self.tree
        try:
            for step in path:
                node = node[step]
        except (LookupError, TypeError):
            return False
        return True

    def line(self, path: Path) -> int | None:
        """Return the line of the key at `path`, or of the innermost table around it with a line."""
        inside_out = (path[:end] for end in range(len(path), 0, -1))
        return next((self.lines[outer] for outer in inside_out if outer in self.lines), None)


def packaged_recipes() -> File:
    """Return the folder of the recipes that come with ffcore."""
    package = File(ffcore.__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def is_class(name: str) -> bool:
    """Whether a name is `module:Class`, and not that of a file."""
    module, colon, kind = name.rpartition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), kind))


def find_recipe(name: str, near: File | None = None) -> File:
    """Return the file of a recipe: a path (relative to the folder `near`), or a packaged recipe.

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
    """Read a TOML file. Raises `RecipeError`."""
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
    """Return the lines at which tables and keys of a TOML text start.

    Keys inside inline tables are not found. A path that occurs twice (say, once in a multi-line
    string) is left out: no line is better than a wrong one.
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
    """Return the path of the table that a header opens, through the latest elements of arrays."""
    path: Path = ()
    for depth, name in enumerate(key, start=1):
        path = (*path, name)
        if is_array and depth == len(key):
            arrays[path] += 1
        if arrays[path]:
            path = (*path, arrays[path] - 1)
    return path
