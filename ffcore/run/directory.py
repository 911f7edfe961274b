"""The directory of a run: whether it is free, what is in it, and what is written there.

One process of a run writes; no other may hold the directory meanwhile.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from ffcore.export import EVALUATION, RECIPE, STUDENT
from ffcore.plugins import installed
from ffcore.recipe import Changes, Recipe, as_decided, changes, provenance, to_toml, versions
from ffcore.run.previews import PREVIEWS
from ffcore.system.faults import writable
from ffcore.system.files import held, write_text
from ffcore.training.checkpoint import foreign
from ffcore.training.loop import Report

PROVENANCE, METRICS = "provenance.json", "metrics.jsonl"
CHECKPOINTS, REFERENCE = "checkpoints", "reference.safetensors"
SAMPLES, CURVES = "samples.png", "curves.png"
VERIFICATION, VERIFICATION_PICTURE = "verify.json", "verify.png"  # what `ffd verify` leaves
TRACKING = "tracking"  # where the recipe names trackers
REPORT = "report.html"  # where `ffd report` was asked for one
FILES = (
    RECIPE,
    PROVENANCE,
    METRICS,
    CHECKPOINTS,
    PREVIEWS,
    STUDENT,
    EVALUATION,
    REFERENCE,
    SAMPLES,
    CURVES,
    VERIFICATION,
    VERIFICATION_PICTURE,
    TRACKING,
    REPORT,
)
MEASURED = (EVALUATION, SAMPLES, VERIFICATION, VERIFICATION_PICTURE)
"""What tells of one student, and of no later one."""


class RunDirectoryError(Exception):
    """A run directory holds something other than this run."""


def inspect(
    directory: Path, recipe: Recipe, *, restart: bool, resume: bool, allow_changes: bool
) -> Changes:
    """Return how the recipe has changed since the run began; see `ffcore.run.stages.run`.

    Raises RunDirectoryError unless `directory` is free, or this run's.
    """
    if directory.exists() and not directory.is_dir():
        raise RunDirectoryError(f"{directory} is a file, and a run needs a directory")
    if resume and not _checkpointed(directory):
        raise RunDirectoryError(
            f"{directory} has no checkpoint to resume from: leave out --resume to begin there"
        )
    present = _own_files(directory) if directory.exists() else set()
    if restart or not present:
        return Changes()
    stored = directory / RECIPE
    try:
        changed = changes(stored.read_text(), recipe)
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"{stored} cannot be read: {error}\nChoose another directory, or --restart"
        ) from None
    if changed.binding and not allow_changes:
        advice = (
            "Choose another directory, or --allow-changes to go on with it all the same, or "
            "--restart to throw that run away."
            if _checkpointed(directory)
            else "It has no checkpoint: --restart begins anew, and nothing but its metrics is lost."
        )
        raise RunDirectoryError(
            f"{directory} holds another run; these keys differ:\n  "
            + "\n  ".join(changed.binding)
            + f"\n{advice}"
        )
    return changed


def decided(directory: Path, recipe: Recipe) -> Recipe:
    """Return `recipe` with what the run of this directory has decided of it, if there is one."""
    try:
        return as_decided((directory / RECIPE).read_text(), recipe)
    except (OSError, ValueError):  # there is none, or `inspect` tells
        return recipe


def _checkpointed(directory: Path) -> bool:
    return any((directory / CHECKPOINTS).glob("step-*"))


def _own_files(directory: Path) -> set[str]:
    """Return what is there; RunDirectoryError where a run would not have written it."""
    partial = {f".{name}.partial" for name in FILES}  # left by a process that was killed
    present = {path.name for path in directory.iterdir()} - partial
    unknown = sorted(present - set(FILES))
    if (directory / CHECKPOINTS).is_dir():
        unknown += [f"{CHECKPOINTS}/{name}" for name in foreign(directory / CHECKPOINTS)]
    if unknown:
        raise RunDirectoryError(
            f"{directory} holds what no run has written ({', '.join(unknown[:5])}): "
            "choose another directory"
        )
    return present


def prepare(directory: Path, recipe: Recipe, device: str, *, restart: bool) -> None:
    """Lay down what a run begins with, where it is not there; with `restart`, in an empty room."""
    with writable(directory, "the run directory"):
        if restart:
            for name in FILES:
                _remove(directory / name)
        if not (directory / RECIPE).exists():
            write_text(directory / RECIPE, to_toml(recipe))
        if not (directory / PROVENANCE).exists():
            _write_provenance(directory, recipe, device, [])


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_provenance(
    directory: Path, recipe: Recipe, device: str, changed: list[dict[str, Any]]
) -> None:
    data = recipe.data
    manifest = provenance(recipe) | {
        "device": device,
        "data_source_opened_by_training": None
        if data is None
        else installed().type_name("data", data),
        "threads": torch.get_num_threads(),
        "changes": changed,
    }
    write_text(directory / PROVENANCE, json.dumps(manifest, indent=2) + "\n")


def append(path: Path, report: Report) -> None:
    """Add a line to the metrics."""
    with writable(path.parent, path.name), path.open("a") as file:
        file.write(json.dumps({"step": report.step, **report.numbers}) + "\n")


def history(path: Path) -> list[dict[str, Any]]:
    """Return the lines of the metrics; RunDirectoryError where they are damaged."""
    if not path.exists():
        return []
    # A process that was killed may have left a line without its end.
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    try:
        return [{"step": int(found["step"]), **found} for found in map(json.loads, whole)]
    except (ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(f"{path} is damaged ({error}): --restart begins anew") from None


def forget_after(path: Path, step: int) -> None:
    """Drop the metrics of steps that will be made again."""
    kept = [line for line in history(path) if line["step"] <= step]
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Hold the directory against other processes meanwhile; it is made, and goes if left empty."""
    with ExitStack() as stack:
        try:
            stack.enter_context(held(directory))
        except BlockingIOError:
            holder = _holder(directory)
            raise RunDirectoryError(f"{directory} is in use by another process{holder}") from None
        except OSError as error:
            raise RunDirectoryError(f"{directory} cannot be used: {error.strerror}") from None
        yield


def _holder(directory: Path) -> str:
    """Return which process holds a directory, for a message; "" where it cannot be had."""
    locks = Path("/proc/locks")
    if not (locks.exists() and directory.exists()):
        return ""
    inode = directory.stat().st_ino
    for words in map(str.split, locks.read_text().splitlines()):
        # 1: FLOCK ADVISORY WRITE <pid> <device>:<inode> 0 EOF
        if words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
            return f" (its number is {words[4]})"
    return ""


def change(directory: Path, recipe: Recipe, device: str, changes: list[dict[str, Any]]) -> None:
    """Keep that the recipe has changed; the recipe last: until then, it is found again."""
    with writable(directory, "the changed recipe"):
        _write_provenance(directory, recipe, device, changes)
        write_text(directory / RECIPE, to_toml(recipe))


def other_versions(stored: Path, recipe: Recipe) -> list[str]:
    """Return which versions differ from those that a run began with, as far as it is known."""
    if not stored.exists():
        return []
    there, here = versions(json.loads(stored.read_text())), versions(provenance(recipe))
    return [
        f"{name} {there.get(name)} (here {here.get(name)})"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
