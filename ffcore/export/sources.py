"""Sources of a student: a run directory, one of its checkpoints, an export, or a student file."""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import attrs

from ffcore.export.student_file import (
    DESCRIPTION,
    RECIPE,
    STUDENT,
    StudentFile,
    load_earlier,
    read_checkpoint,
    read_student,
)
from ffcore.interfaces import Student
from ffcore.recipe import load_recipe
from ffcore.system.files import parse_json
from ffcore.system.weights import WeightsError
from ffcore.training.checkpoint import CheckpointError, Damaged, Manifest, named_whole, step_of

CONFIG, CARD = "config.json", "README.md"
"""The files of an export beside the student and the recipe."""
PROVENANCE = "provenance.json"
CHECKPOINTS = "checkpoints"
"""What a run's directory holds: the origin of the run, the folder of its checkpoints."""

_LOG = logging.getLogger(__name__)


class SourceError(Exception):
    """A source has nothing to sample or export. The message is for the user."""


@attrs.frozen(kw_only=True, eq=False)
class Opened:
    """A student and where it is from."""

    path: Path
    """The student file, or the checkpoint's directory."""
    folder: Path
    """The run directory, the export, or the folder of the student file."""
    file: StudentFile


def is_run(directory: Path) -> bool:
    """Whether a directory is one of `ffd run`; a recipe of that name alone does not make it one."""
    made = (PROVENANCE, STUDENT, DESCRIPTION, CHECKPOINTS)
    return (
        (directory / RECIPE).is_file()
        and any((directory / name).exists() for name in made)
        and not is_export(directory)
    )


def is_export(directory: Path) -> bool:
    """Whether a directory is one of `ffd export`."""
    return (directory / STUDENT).is_file() and (directory / CONFIG).is_file()


def is_checkpoint(directory: Path) -> bool:
    """Whether a directory is named as a checkpoint of a run."""
    return step_of(directory) is not None and is_run(directory.absolute().parent.parent)


def student_path(source: str | PathLike[str]) -> Path:
    """Return the student file of a source; of an unfinished run, the newest whole checkpoint.

    Raises SourceError if there is none, and RecipeError if the source does not exist.
    """
    path = Path(source)
    if path.is_dir():
        if is_checkpoint(path):
            return _checked(path)
        if (path / STUDENT).is_file() and not (is_run(path) and _goes_on(path)):
            return path / STUDENT
        if is_run(path):
            return _newest(path)
        raise SourceError(f"{path} is neither a run directory nor an export: it has no {STUDENT}")
    if path.is_file() and path.suffix != ".toml":
        return path
    load_recipe(source)  # raises if there is no such recipe
    raise SourceError(
        f"{source} is a recipe, and has no student: `ffd run {source}` trains one, in "
        f"runs/{path.stem} by default. `ffd sample --teacher` samples its teacher."
    )


def source_folder(path: Path) -> Path:
    """Return the run directory or the export of a student's path, as of `student_path`."""
    return path.parent if path.is_file() else path.absolute().parent.parent


def open_student(
    source: str | PathLike[str],
    *,
    conditions: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> Opened:
    """Open the student of a source: the EMA, on the CPU; for the options, see read_student.

    Reports the step if the source is not a finished student: a checkpoint, or an unfinished run, of
    which the newest whole checkpoint is used.

    Raises SourceError or RecipeError if there is no student, WeightsError or CheckpointError if it
    cannot be read.
    """
    path = student_path(source)
    if path.is_file():
        file = read_student(path, conditions, trust=trust)
        _check_config(path, file.config, changed=conditions is not None)
        return Opened(path=path, folder=path.parent, file=file)
    folder = _folder(path)
    file = read_checkpoint(path, folder / DESCRIPTION, conditions, trust=trust)
    level = logging.WARNING if os.environ.get("RANK", "0") == "0" else logging.DEBUG
    unfinished = f"the training of {source} has not finished: " if is_run(Path(source)) else ""
    decay, step = file.config["ema_decay"], file.config["step"]
    _LOG.log(
        level, "%susing the EMA of decay %g after step %d, from %s", unfinished, decay, step, path
    )
    return Opened(path=path, folder=folder, file=file)


def start_from(student: Student, source: str | PathLike[str]) -> str:
    """Load the weights of an earlier student; return a sentence on what was taken.

    Raises SourceError or RecipeError if the source has no student, WeightsError or CheckpointError
    if its tensors do not fit.
    """
    if not Path(source).exists():
        raise SourceError(
            f"student.weights: {source} does not exist; possible: a run directory, a checkpoint, "
            "an export or a student file"
        )
    path = student_path(source)
    folder = source_folder(path) if path.is_file() else _folder(path)
    return load_earlier(student, path, folder / DESCRIPTION)


def _folder(checkpoint: Path) -> Path:
    """Return the run directory of a checkpoint, which must have a DESCRIPTION."""
    folder = source_folder(checkpoint)
    if not (folder / DESCRIPTION).is_file():
        raise SourceError(
            f"{folder} has no {DESCRIPTION}, without which its checkpoints cannot be used: the "
            "same `ffd run` writes it when it resumes"
        )
    return folder


def load_student(source: str | Path, *, trust: bool = False) -> Student:
    """Return the student of a run, a checkpoint or an export: the EMA, on the CPU.

    Args:
        source: the directory of one of them, or a student file.
        trust: let it name classes outside plugins, which runs their code. The runs of this user
            may always.

    Raises SourceError or RecipeError if there is no student, or if it is of code that is not
    trusted; WeightsError if its file is damaged.
    """
    return open_student(source, trust=trust).file.student


def _check_config(path: Path, here: Mapping[str, Any], *, changed: bool) -> None:
    """Raise WeightsError if the config.json of an export is not that of its student file.

    Args:
        path: of the student file.
        here: its description.
        changed: whether its conditions are those that the user names.
    """
    config = path.with_name(CONFIG)
    if not is_export(path.parent) or path.name != STUDENT:
        return
    try:
        there = parse_json(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{config} is damaged: {error}") from None
    if changed and isinstance(there, dict):
        there["conditions"] = here["conditions"]
    if there != here:
        raise WeightsError(
            f"{config} differs from what {path} says of itself: restore the one that was changed, "
            "or export the run again"
        )


def _goes_on(run: Path) -> bool:
    """Whether a run that has a student has been made longer, and has not come to its end again."""
    found = named_whole(run / CHECKPOINTS)
    if not found:
        return False
    recipe = run / RECIPE
    try:
        steps = tomllib.loads(recipe.read_text(encoding="utf-8"))["training"]["steps"]
        return found[-1][0] < int(steps)
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{recipe} is damaged: {type(error).__name__} {error}") from None


def _checked(checkpoint: Path) -> Path:
    try:
        Manifest.read(checkpoint)
    except (Damaged, OSError) as error:
        raise SourceError(f"the checkpoint {checkpoint} is damaged: {error}") from None
    return checkpoint


def _newest(run: Path) -> Path:
    """Return the newest whole checkpoint of a run; changes nothing, since the run may go on."""
    for _, path in reversed(named_whole(run / CHECKPOINTS)):
        try:
            return _checked(path)
        except (SourceError, CheckpointError) as error:
            _LOG.warning("%s", error)
    raise SourceError(
        f"{run} has no student yet: its training has not finished, and it has no whole checkpoint. "
        "Run the same `ffd run` to resume it. `ffd sample --teacher` samples its teacher."
    )
