"""Sources of a student: a run directory, an export, or a student file."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ffcore.export.student_file import RECIPE, STUDENT, read_student
from ffcore.interfaces import Student
from ffcore.recipe import load_recipe

CONFIG, CARD = "config.json", "README.md"
"""The files of an export beside the student and the recipe."""


class SourceError(Exception):
    """A source has nothing to sample or export. The message is for the user."""


def is_run(directory: Path) -> bool:
    """Whether a directory is one of `ffd run`."""
    return (directory / RECIPE).is_file() and not is_export(directory)


def is_export(directory: Path) -> bool:
    """Whether a directory is one of `ffd export`."""
    return (directory / STUDENT).is_file() and (directory / CONFIG).is_file()


def student_path(source: str | PathLike[str]) -> Path:
    """Return the student file of a run directory or an export, or the file itself.

    Raises SourceError if there is none, and RecipeError if the source does not exist.
    """
    path = Path(source)
    if path.is_dir():
        if (path / STUDENT).is_file():
            return path / STUDENT
        if is_run(path):
            raise SourceError(
                f"{path} has no student yet: its training has not finished. Run the same `ffd run` "
                "to resume it. `ffd sample --teacher` samples its teacher."
            )
        raise SourceError(f"{path} is neither a run directory nor an export: it has no {STUDENT}")
    if path.is_file() and path.suffix != ".toml":
        return path
    load_recipe(source)  # raises if there is no such recipe
    raise SourceError(
        f"{source} is a recipe, and has no student: `ffd run {source}` trains one, in "
        f"runs/{path.stem} by default. `ffd sample --teacher` samples its teacher."
    )


def load_student(source: str | Path) -> Student:
    """Return the student of a finished run or of an export: the EMA, on the CPU.

    Args:
        source: the directory of either, or a student file.

    Raises SourceError or RecipeError if there is no student, WeightsError if its file is damaged.
    """
    return read_student(student_path(source)).student
