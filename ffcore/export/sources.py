"""Where a student is: in a run's directory, in an export, in a file."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ffcore.export.student_file import RECIPE, STUDENT, read_student
from ffcore.interfaces import Student
from ffcore.recipe import load_recipe

CONFIG, CARD = "config.json", "README.md"
"""What an export has beside the student and the recipe."""


class SourceError(Exception):
    """A source has nothing to sample or export. One message, for a person."""


def is_run(directory: Path) -> bool:
    """Whether a directory is one of `ffd run`."""
    return (directory / RECIPE).is_file() and not is_export(directory)


def is_export(directory: Path) -> bool:
    """Whether a directory is one of `ffd export`."""
    return (directory / STUDENT).is_file() and (directory / CONFIG).is_file()


def student_path(source: str | PathLike[str]) -> Path:
    """Return the student's file of a run directory, of an export, or the file itself.

    Raises SourceError where there is none, and RecipeError where there is nothing at all.
    """
    path = Path(source)
    if path.is_dir():
        if (path / STUDENT).is_file():
            return path / STUDENT
        if is_run(path):
            raise SourceError(
                f"{path} has no student yet: its training has not finished. The same `ffd run` "
                "goes on with it; until then `ffd sample --teacher` samples its teacher."
            )
        raise SourceError(f"{path} is neither a run directory nor an export: it has no {STUDENT}")
    if path.is_file() and path.suffix != ".toml":
        return path
    load_recipe(source)  # raises where there is nothing of that name
    raise SourceError(
        f"{source} is a recipe, and has no student: `ffd run {source}` makes one, in "
        f"runs/{path.stem} by default. `ffd sample --teacher` samples its teacher."
    )


def load_student(source: str | Path) -> Student:
    """Return the student of a finished run or of an export: the EMA, on the CPU.

    Args:
        source: the directory of either, or a student's file.

    Raises SourceError or RecipeError where there is no student, WeightsError where its file is
    damaged.
    """
    return read_student(student_path(source)).student
