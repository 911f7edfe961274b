"""A run's student in a self-contained directory: weights, config, card, recipe.

An export is made for publishing: it names files of this machine by name and digest, without their
path. Only the paths of the decoder and of the conditions stay, in the student file, since sampling
needs both.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from ffcore.export.model_card import model_card
from ffcore.export.sources import (
    CARD,
    CONFIG,
    SourceError,
    is_checkpoint,
    is_export,
    is_run,
    open_student,
)
from ffcore.export.student_file import EVALUATION, RECIPE, STUDENT, write_student
from ffcore.recipe import Recipe, digest, load_recipe, registry_of, to_toml
from ffcore.system.files import MissingFile, parse_json

EXPORT_FILES = (STUDENT, CONFIG, CARD, RECIPE)


def export(run: Path, out: Path, *, overwrite: bool = False, trust: bool = False) -> None:
    """Write the student of a run into a directory, whole or not at all.

    The directory holds the student file, its description as config.json, a model card as README.md,
    and the recipe. Every path of this machine is cut to the file's name, but not those of the
    decoder and the conditions.

    Args:
        run: a run directory, or one of its checkpoints; of an unfinished run, the newest whole
            checkpoint is exported, without an evaluation.
        out: the directory to create.
        overwrite: replace an earlier export at `out`.
        trust: let the run name classes outside plugins; see `registry_of`.

    Raises SourceError if there is no student, if a finished one is not evaluated yet, or if `out`
    is not free; WeightsError or CheckpointError if the student cannot be read.
    """
    _check_free(out, overwrite)
    if run.is_dir() and is_export(run):
        raise SourceError(f"{run} is already an export")
    if not (run.is_dir() and (is_run(run) or is_checkpoint(run))):
        raise SourceError(f"{run} is not a run directory, nor a checkpoint of one")
    try:
        opened = open_student(run, trust=trust)
    except MissingFile as error:
        raise MissingFile(
            f"{error}\nPut it back where the run found it: `ffd export` has no --set, because an "
            "export keeps the files of the training."
        ) from None
    finished = opened.path.is_file()
    beside = opened.folder / RECIPE
    registry = registry_of(beside, beside, trust=trust)
    recipe = load_recipe(beside, registry=registry)
    evaluation = _evaluation(run, recipe) if finished else None
    found, config = opened.file, opened.file.config
    if config["student"] is None:
        raise SourceError(
            f"{run}: this student can be rebuilt only with its teacher, so it cannot be exported. "
            "Give its table a method `alone` that returns a table without that need."
        )
    if config["conditions"] is None:
        raise SourceError(
            f"{run}: only the teacher knows this student's conditions, so it cannot be exported. "
            "Build them in a table [conditions] that the teacher needs."
        )
    if config.get("recipe") != digest(recipe):
        raise SourceError(f"{beside} is not the recipe that {opened.path} came from")
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    try:
        aside.chmod(0o755)
        tree = without_places(tomllib.loads(to_toml(recipe)))
        (aside / RECIPE).write_text(tomli_w.dumps(tree), encoding="utf-8")
        recipe = load_recipe(aside / RECIPE, registry=registry)
        names = ("decoder", "decoder_sha256", "conditions", "conditions_sha256")
        kept = {name: config[name] for name in names if name in config}
        config = {**without_places(config), **kept, "recipe": digest(recipe)}
        write_student(aside / STUDENT, found.student.state_dict(), config)
        said = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (aside / CONFIG).write_text(said, encoding="utf-8")
        card = model_card(out.absolute().name, config, recipe, found.conditions, evaluation)
        (aside / CARD).write_text(card, encoding="utf-8")
        _put_in_place(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def without_places(value: Any) -> Any:
    """Return a tree of JSON or TOML with each path of this machine cut to the file's name.

    These are absolute paths and those that begin with ~ or ../; keys are cut like values.
    """
    if isinstance(value, dict):
        return {without_places(key): without_places(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_places(each) for each in value]
    if isinstance(value, str) and value.startswith(("/", "~", "../")):
        return Path(value).name or value
    return value


def _put_in_place(whole: Path, out: Path) -> None:
    if not out.exists():
        whole.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    out.rename(old)  # onto an empty directory
    try:
        whole.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old)


def _check_free(out: Path, overwrite: bool) -> None:
    place = out.absolute().parent
    if is_run(place) or is_export(place):
        raise SourceError(f"{place} is the directory of a run or an export: choose another path")
    if not out.exists():
        return
    if not (out.is_dir() and is_export(out)):
        raise SourceError(f"{out} exists and is not an earlier export: choose another directory")
    foreign = sorted({path.name for path in out.iterdir()} - set(EXPORT_FILES))
    if foreign:
        raise SourceError(
            f"{out} holds files that are not an export's ({', '.join(foreign[:5])}): choose "
            "another directory"
        )
    if not overwrite:
        raise SourceError(f"{out} is an earlier export: choose another directory, or --overwrite")


def _evaluation(run: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Return the evaluation of a run; None if it was switched off."""
    if not recipe.evaluation.enabled:
        return None
    try:
        found: dict[str, Any] = parse_json((run / EVALUATION).read_text())
        if "distances" in found and "verdict" not in found:
            raise SourceError(
                f"{run} was evaluated by an earlier ffcore: run the same `ffd run` again"
            )
        if missing := {"measures", "distances", "trajectory_error", "identity"} - set(found):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    except FileNotFoundError:
        raise SourceError(
            f"{run} is trained but not yet evaluated: run the same `ffd run` again"
        ) from None
    except (ValueError, TypeError) as error:
        raise SourceError(f"{run / EVALUATION} is damaged: {error}") from None
    return found
