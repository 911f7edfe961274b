"""A student and the teacher that it was distilled from, opened from a run or an export."""

from __future__ import annotations

from collections.abc import Iterable, Set
from os import PathLike
from pathlib import Path

import attrs
import torch

from ffcore.export import (
    RECIPE,
    SourceError,
    StudentFile,
    open_student,
    source_folder,
    student_path,
)
from ffcore.interfaces import UNKNOWN, Teacher
from ffcore.recipe import Recipe, load_stored
from ffcore.recipe.components import build_teacher
from ffcore.recipe.merge import Tree, merge, parse_override
from ffcore.system.files import require
from ffcore.system.weights import identity_of, unidentified


@attrs.frozen(kw_only=True, eq=False)
class Pair:
    """A student and its teacher, on the CPU."""

    folder: Path
    """The run directory or the export."""
    file: StudentFile
    recipe: Recipe
    """The recipe beside it, with the overrides."""
    teacher: Teacher
    """Unguided."""
    notes: tuple[str, ...]
    """Notes for the reader of numbers about them."""

    @staticmethod
    def open(
        source: str | PathLike[str],
        overrides: Iterable[str] = (),
        *,
        tables: Set[str] = frozenset({"conditions", "teacher"}),
        trust: bool = False,
    ) -> Pair:
        """Open the student of a source, and the teacher that the recipe beside it names.

        Args:
            source: a run directory, one of its checkpoints or an export.
            overrides: of the recipe's keys, as in "teacher.weights=PATH".
            tables: whose keys may be overridden.
            trust: let its files name classes outside plugins; see `registry_of`.

        Raises SourceError if there is no student or no recipe, or if the teacher is not the
        student's; MissingFile, WeightsError, BuildError, RecipeError.
        """
        texts = tuple(overrides)
        folder = source_folder(student_path(source))
        recipe = _recipe(source, folder, texts, tables, trust=trust)
        changed: Tree = {}
        for each in texts:
            changed = merge(changed, parse_override(each))
        opened = open_student(source, conditions=changed.get("conditions"), trust=trust)
        for table in (recipe.conditions, recipe.teacher):
            require(getattr(table, "files", ()))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.training.seed)
            teacher = build_teacher(recipe)
        notes = tuple(_check_teacher(opened.path, teacher, opened.file))
        return Pair(folder=folder, file=opened.file, recipe=recipe, teacher=teacher, notes=notes)


def _recipe(
    source: str | PathLike[str],
    folder: Path,
    overrides: tuple[str, ...],
    tables: Set[str],
    *,
    trust: bool,
) -> Recipe:
    recipe = folder / RECIPE
    if not recipe.is_file():
        raise SourceError(
            f"{source} has no {RECIPE} beside it to name its teacher: use the run directory "
            "or the export that it came from"
        )
    for text in overrides:
        try:
            keys = parse_override(text).keys()
        except ValueError as error:
            raise SourceError(f"--set {text}: {error}") from None
        if not keys <= tables:
            raise SourceError(
                f"--set {text}: only keys of the {' and the '.join(sorted(tables, reverse=True))} "
                "can be set, as in teacher.weights=PATH; training fixed those of the student"
            )
    return load_stored(recipe, overrides, trust=trust)


def _check_teacher(path: Path, teacher: Teacher, file: StudentFile) -> Iterable[str]:
    """Raise SourceError if a teacher is not the student's; yield notes on what is unchecked."""
    here = identity_of(teacher)
    if unknown := unidentified(here):
        yield f"{unknown}: ffcore cannot check that the student was distilled from it"
    there = file.config["teacher"]["fingerprint"]
    if here["teacher"] not in (UNKNOWN, there):
        raise SourceError(
            f"{path} was distilled from another teacher, with fingerprint {there[:12]}; the "
            f"teacher of the recipe beside it has {here['teacher'][:12]}. Name the original file: "
            "--set teacher.weights=PATH"
        )
    there = file.config["teacher"].get("conditions", here["conditions"])
    if here["conditions"] not in (UNKNOWN, there):
        raise SourceError(
            f"{path} was distilled with other conditions ({there[:12]}) than its teacher has now "
            f"({here['conditions'][:12]}): restore what they were made from"
        )
