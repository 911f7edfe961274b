"""The directory of a run: its files, and whether a run may use it.

One process of a run writes, and locks the directory against other runs.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch

from ffcore.evaluate.evaluator import REFERENCE
from ffcore.export import CHECKPOINTS, DESCRIPTION, EVALUATION, PROVENANCE, RECIPE, STUDENT
from ffcore.plugins import installed
from ffcore.recipe import (
    Changes,
    Recipe,
    changes,
    provenance,
    remember,
    to_toml,
    versions,
    with_decisions,
)
from ffcore.run.best import BEST
from ffcore.run.previews import PREVIEWS
from ffcore.run.timing import Timed
from ffcore.system.faults import writable
from ffcore.system.files import hold_directory, parse_json, write_text
from ffcore.training.checkpoint import foreign

METRICS = "metrics.jsonl"
SAMPLES, CURVES = "samples.png", "curves.png"
VERIFICATION, VERIFICATION_PICTURE = "verify.json", "verify.png"  # what `ffd verify` leaves
TRACKING = "tracking"  # if the recipe names trackers
ALARMS = "alarms.jsonl"  # if there was any alarm
REPORT = "report.html"  # written by `ffd report`
FILES = (
    RECIPE,
    PROVENANCE,
    METRICS,
    CHECKPOINTS,
    PREVIEWS,
    STUDENT,
    DESCRIPTION,
    EVALUATION,
    REFERENCE,
    SAMPLES,
    CURVES,
    VERIFICATION,
    VERIFICATION_PICTURE,
    TRACKING,
    REPORT,
    BEST,
    ALARMS,
)
MEASURED = (EVALUATION, SAMPLES, VERIFICATION, VERIFICATION_PICTURE)
"""Files about one student, removed when a later one replaces it."""


class RunDirectoryError(Exception):
    """A run directory holds something other than this run."""


@attrs.frozen(kw_only=True)
class Start:
    """Options for starting a run."""

    restart: bool = False
    """Delete the files of an earlier run in the directory and start again."""
    resume: bool = False
    """Fail without a checkpoint to resume from."""
    allow_changes: bool = False
    """Resume even if keys that training depends on have changed."""


@attrs.frozen
class RunDirectory:
    """The directory of one run."""

    path: Path

    def __truediv__(self, name: str) -> Path:
        """Return the path of one of FILES."""
        return self.path / name

    def changes(self, recipe: Recipe, start: Start) -> Changes:
        """Return how the recipe has changed since the run began.

        Raises RunDirectoryError if the directory holds anything but this run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunDirectoryError(f"{self.path} is a file; a run needs a directory")
        if start.resume and not self.has_checkpoint:
            raise RunDirectoryError(
                f"{self.path} has no checkpoint to resume from: leave out --resume to start a run"
            )
        present = self._own_files() if self.path.exists() else set()
        if start.restart or not present:
            return Changes()
        stored = self / RECIPE
        try:
            changed = changes(stored.read_text(), recipe)
        except (OSError, ValueError) as error:
            raise RunDirectoryError(
                f"{stored} cannot be read: {error}\nChoose another directory, or use --restart"
            ) from None
        if changed.binding and not start.allow_changes:
            raise RunDirectoryError(self._of_another(changed))
        return changed

    def _of_another(self, changed: Changes) -> str:
        advice = (
            "Choose another directory, or use --allow-changes to resume it with these changes, "
            "which must leave the student's tensors as they are, or --restart to delete that run."
            if self.has_checkpoint
            else "It has no checkpoint: use --restart to start again; only its metrics are lost."
        )
        keys = "\n  ".join(changed.binding)
        return f"{self.path} holds another run; these keys differ:\n  {keys}\n{advice}"

    def with_decisions(self, recipe: Recipe) -> Recipe:
        """Return `recipe` with the values that this directory's run decided, if there is one."""
        try:
            stored = (self / RECIPE).read_text()
            return self._with_steps(with_decisions(stored, recipe), tomllib.loads(stored))
        except (OSError, ValueError):  # there is none, or `changes` says so
            return recipe

    def _with_steps(self, recipe: Recipe, stored: Mapping[str, Any]) -> Recipe:
        """Return `recipe` with the steps that came from its minutes of training."""
        timed = self._read_provenance().get("timed")
        minutes = recipe.training.minutes
        if minutes is None or not isinstance(timed, dict) or timed.get("minutes") != minutes:
            return recipe
        training = attrs.evolve(recipe.training, steps=stored["training"]["steps"], minutes=None)
        return attrs.evolve(recipe, training=training)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return any((self / CHECKPOINTS).glob("step-*"))

    def _own_files(self) -> set[str]:
        """Return the names in the directory; RunDirectoryError for one that no run writes."""
        partial = {f".{name}.partial" for name in FILES}  # left by a process that was killed
        present = {path.name for path in self.path.iterdir()} - partial
        unknown = sorted(present - set(FILES))
        if (self / CHECKPOINTS).is_dir():
            unknown += [f"{CHECKPOINTS}/{name}" for name in foreign(self / CHECKPOINTS)]
        if unknown:
            raise RunDirectoryError(
                f"{self.path} holds files that are not a run's ({', '.join(unknown[:5])}): "
                "choose another directory"
            )
        return present

    def prepare(
        self, recipe: Recipe, device: str, *, restart: bool, timed: Timed | None = None
    ) -> None:
        """Write the first files of a run, if missing; with `restart`, delete the old ones first."""
        with writable(self.path, "the run directory"):
            if restart:
                for name in FILES:
                    _remove(self / name)
            if not (self / RECIPE).exists():
                self._write_recipe(recipe)
            if not (self / PROVENANCE).exists():
                self._write_provenance(recipe, device, [], timed)

    def change(
        self,
        recipe: Recipe,
        device: str,
        changes: list[dict[str, Any]],
        timed: Timed | None = None,
    ) -> None:
        """Store a changed recipe; recipe.toml last, so that an interrupted change is detected."""
        with writable(self.path, "the changed recipe"):
            self._write_provenance(recipe, device, changes, timed)
            self._write_recipe(recipe)

    def describe(self, description: Mapping[str, Any]) -> None:
        """Store the description of the student, for those who use a checkpoint."""
        with writable(self.path, DESCRIPTION):
            write_text(self / DESCRIPTION, json.dumps(dict(description), indent=2) + "\n")
        remember((self / RECIPE).read_text(), description)

    def _write_recipe(self, recipe: Recipe) -> None:
        text = to_toml(recipe)
        write_text(self / RECIPE, text)
        remember(text, tomllib.loads(text), recipe)

    def _write_provenance(
        self,
        recipe: Recipe,
        device: str,
        changed: list[dict[str, Any]],
        timed: Timed | None,
    ) -> None:
        """Write it; where `timed` is None, the stored time stays if the steps come from it."""
        data = recipe.data
        stored = self._read_provenance().get("timed")
        from_time = isinstance(stored, dict) and stored.get("steps") == recipe.training.steps
        kept = stored if from_time else None
        manifest = provenance(recipe) | {
            "device": device,
            "data_source_opened_by_training": None
            if data is None
            else installed().type_name("data", data),
            "threads": torch.get_num_threads(),
            "changes": changed,
            "timed": kept if timed is None else attrs.asdict(timed),
        }
        write_text(self / PROVENANCE, json.dumps(manifest, indent=2) + "\n")

    def _read_provenance(self) -> dict[str, Any]:
        """Return what PROVENANCE holds, {} if there is none; RunDirectoryError if it is damaged."""
        path = self / PROVENANCE
        if not path.exists():
            return {}
        try:
            found: dict[str, Any] = parse_json(path.read_bytes())
            versions(found)
            list(found.get("changes", []))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunDirectoryError(
                f"{path} is damaged ({error}): delete it, and the same command writes it again, "
                "without the versions and changes so far"
            ) from None
        return found

    def past_changes(self) -> list[dict[str, Any]]:
        """Return the changes that the run accepted, the oldest first."""
        found: list[dict[str, Any]] = self._read_provenance().get("changes", [])
        return found

    def other_versions(self, recipe: Recipe) -> list[str]:
        """Return the versions that have changed since the run started, as far as known."""
        stored = self._read_provenance()
        if not stored:
            return []
        there = versions(stored)
        here = versions(provenance(recipe))
        return [
            f"{name} {there.get(name)} (here {here.get(name)})"
            for name in sorted(there.keys() | here.keys())
            if there.get(name) != here.get(name)
        ]

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """Add a line, with its "step", to METRICS or ALARMS."""
        with writable(self.path, name), (self / name).open("a") as file:
            file.write(json.dumps(dict(line)) + "\n")

    def history(self, name: str = METRICS) -> list[dict[str, Any]]:
        """Return the lines of METRICS or ALARMS; RunDirectoryError if they are damaged."""
        path = self / name
        if not path.exists():
            return []
        try:
            # A process that was killed may have left a line without its end.
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            return [{"step": int(found["step"]), **found} for found in map(parse_json, whole)]
        except (ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(
                f"{path} is damaged ({error}): delete it to continue without its lines, or restore "
                "it"
            ) from None

    def forget_after(self, step: int) -> None:
        """Delete the metrics and alarms after `step`; those steps will run again."""
        for name in (METRICS, ALARMS):
            kept = [line for line in self.history(name) if line["step"] <= step]
            if (self / name).exists():
                write_text(self / name, "".join(json.dumps(line) + "\n" for line in kept))

    def forget_alarm(self, alarm: str) -> None:
        """Delete the alarm of this name, which will be raised again if it is deserved."""
        if (self / ALARMS).exists():
            kept = [line for line in self.history(ALARMS) if line["name"] != alarm]
            write_text(self / ALARMS, "".join(json.dumps(line) + "\n" for line in kept))

    def forget_measurements(self) -> None:
        """Remove the measurements of an earlier student."""
        for name in MEASURED:
            (self / name).unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Create the directory and lock it against other processes; remove it if left empty."""
        with ExitStack() as stack:
            try:
                stack.enter_context(hold_directory(self.path))
            except BlockingIOError:
                raise RunDirectoryError(
                    f"{self.path} is in use by another process{self._holder()}"
                ) from None
            except OSError as error:
                raise RunDirectoryError(f"{self.path} cannot be used: {error.strerror}") from None
            yield

    def _holder(self) -> str:
        """Return the process that locks the directory, for a message; "" if unknown."""
        locks = Path("/proc/locks")
        if not (locks.exists() and self.path.exists()):
            return ""
        inode = self.path.stat().st_ino
        for words in map(str.split, locks.read_text().splitlines()):
            # 1: FLOCK ADVISORY WRITE <pid> <device>:<inode> 0 EOF
            if words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
                return f" (PID {words[4]})"
        return ""


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
