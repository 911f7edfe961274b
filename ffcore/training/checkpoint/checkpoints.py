"""The checkpoints of a run: one directory each, written in the background, whole or not at all.

A checkpoint is written as `.step-….partial`, synced, and renamed to `step-…`. So a process that
stops at any time leaves whole checkpoints, and remains whose names show that they are not. After a
new checkpoint, the oldest are renamed and removed.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from ffcore.system.distributed import PATIENCE, Processes
from ffcore.system.faults import enough_memory, writable
from ffcore.training.checkpoint import name
from ffcore.training.checkpoint.contents import begin_anew, not_finite, part_of, tensors_of
from ffcore.training.checkpoint.manifest import (
    MANIFEST,
    CheckpointError,
    Damaged,
    Manifest,
    describe_file,
)
from ffcore.training.checkpoint.snapshot import Snapshot, read, shapes_in
from ffcore.training.defaults import KEEP_LAST
from ffcore.training.distillation import Distillation
from ffcore.training.finite import Diverged

_LOG = logging.getLogger(__name__)
_REMEDY = (
    "The copy of a checkpoint in host memory is as large as the checkpoint. Use several processes, "
    "which copy a part each, or a smaller student."
)


class Checkpoints(AbstractContextManager["Checkpoints"]):
    """The checkpoints of one run. Every process makes one object and calls the same methods.

    Args:
        directory: their directory, created with the first one; its parent must exist.
        run: what the run's training depends on, by name; stored in every checkpoint.
        keep_last: number of newest checkpoints to keep.
        keep_every: also keep checkpoints of steps divisible by it.

    A `with` block waits for every write that started in it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        run: Mapping[str, str] | None = None,
        keep_last: int = KEEP_LAST,
        keep_every: int | None = None,
    ) -> None:
        self.directory, self.run = directory, dict(run or {})
        self.keep_last, self.keep_every = keep_last, keep_every
        self._processes = _processes()
        self._snapshot = Snapshot(self._processes)
        self._writing: Future[None] | None = None

    def save(self, distillation: Distillation) -> None:
        """Copy a distillation to host memory and write the copy in the background.

        Waits for the previous checkpoint and raises its error if it failed, mostly Unwritable.
        Raises Diverged, and writes nothing, if a weight or a moment is not finite. Raises
        OutOfMemory if host memory cannot hold the copy.
        """
        self.wait()
        self._require_finite(distillation)
        step = distillation.step_index
        partial = name.partial(self.directory / name.directory_name(step))
        self._processes.first(lambda: self._make_room(partial, step))
        with enough_memory(f"the checkpoint of step {step}", _REMEDY):
            self._snapshot.take(partial, tensors_of(distillation))
        thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing = thread.submit(self._write, partial, step)
        thread.shutdown(wait=False)  # the thread ends with its work

    def wait(self) -> None:
        """Wait for all writes; raise the error of one that failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    @property
    def done(self) -> bool:
        """Whether this process is not writing; its last write may have failed."""
        return self._writing is None or self._writing.done()

    def notice(self) -> None:
        """Raise the error of a write that has failed in any process so far."""
        failed = self._writing is not None and self.done and self._writing.exception()
        if self._processes.any(bool(failed)):
            self.wait()

    def newest(self) -> Manifest | None:
        """Return the newest whole checkpoint; None if there is no checkpoint.

        ffcore warns about newer damaged ones and renames them to `step-….damaged`, so that training
        can write those steps again. It removes half-written files of a killed process.

        Raises CheckpointError if there are checkpoints but none is whole.
        """
        return self._processes.first(self._newest)

    def restore(self, manifest: Manifest, distillation: Distillation) -> list[str]:
        """Restore a checkpoint into a distillation.

        EMAs and auxiliary networks that only one of the two has begin anew or are dropped; returns
        a sentence about each.

        Raises CheckpointError, and changes nothing, if the tensors do not fit.
        """
        directory = self.directory / name.directory_name(manifest.step)
        tensors = tensors_of(distillation)
        found = shapes_in(directory)
        here, there = (set(map(part_of, names)) for names in (tensors, found))
        anew = here - there | {part for part in here & there if _differs(part, tensors, found)}
        kept = {key: each for key, each in tensors.items() if part_of(key) not in anew}
        left = {key: each for key, each in found.items() if part_of(key) in here - anew}
        _require_fit(directory, kept, left)
        read(directory, kept)
        distillation.step_index = manifest.step
        said = [begin_anew(distillation, part) for part in sorted(anew)]
        return said + [f"the checkpoint's {part} is dropped" for part in sorted(there - here)]

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            self.wait()
        except Exception as failure:
            if kind is None:
                raise
            _LOG.warning("%s", failure)  # another error is already being raised

    def _require_finite(self, distillation: Distillation) -> None:
        found = self._processes.each(lambda: not_finite(distillation))
        names = sorted({tensor for each in found for tensor in each})
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            error = Diverged(
                f"step {distillation.step_index}: NaN or infinity in {', '.join(names[:5])}{more}; "
                "no checkpoint is written"
            )
            raise self._processes.alike(error)

    def _writable(self, step: int) -> AbstractContextManager[None]:
        return writable(self.directory.parent, f"the checkpoint of step {step}")

    def _make_room(self, partial: Path, step: int) -> None:
        with self._writable(step):
            self.directory.mkdir(exist_ok=True)  # without parents: does not remake a run directory
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir()

    def _write(self, partial: Path, step: int) -> None:
        """Write the snapshot, in the background."""
        try:
            found = self._processes.each(lambda: self._write_part(partial, step))
            files = {file: each for files in found for file, each in sorted(files.items())}
            self._processes.first(lambda: self._finish(partial, step, files))
        except Exception:
            if self._processes.leads:
                shutil.rmtree(partial, ignore_errors=True)  # it may be filling the disk
            raise

    def _write_part(self, partial: Path, step: int) -> dict[str, dict[str, object]]:
        with self._writable(step), enough_memory(f"the checkpoint of step {step}", _REMEDY):
            return {file: describe_file(partial / file) for file in self._snapshot.write()}

    def _finish(self, partial: Path, step: int, files: dict[str, dict[str, object]]) -> None:
        manifest = Manifest(step=step, run=self.run, ranks=self._processes.size, files=files)
        with self._writable(step):
            self._publish(partial, manifest)
        for old in self._superfluous():
            self._remove(old)

    def _publish(self, partial: Path, manifest: Manifest) -> None:
        with (partial / MANIFEST).open("w") as file:
            file.write(manifest.to_json())
            file.flush()
            os.fsync(file.fileno())
        _sync(partial)
        place = self.directory / name.directory_name(manifest.step)
        if place.exists():
            self._remove(place)
        partial.rename(place)
        _sync(self.directory)

    def _superfluous(self) -> Iterable[Path]:
        for step, path in self._whole()[: -self.keep_last]:
            if self.keep_every is None or step % self.keep_every:
                yield path

    def _remove(self, checkpoint: Path) -> None:
        removed = name.removal_name(checkpoint)
        if removed.exists():
            shutil.rmtree(removed)
        checkpoint.rename(removed)
        shutil.rmtree(removed)

    def _whole(self) -> list[tuple[int, Path]]:
        return named_whole(self.directory)

    def _newest(self) -> Manifest | None:
        if self.directory.is_dir():
            for path in self.directory.iterdir():
                if name.is_remains(path):
                    shutil.rmtree(path)
        damaged: dict[Path, str] = {}
        for _, path in reversed(self._whole()):
            try:
                manifest = Manifest.read(path)
            except (Damaged, OSError) as error:
                damaged[path] = str(error)
                continue
            for each, why in damaged.items():
                _set_aside(each, why, manifest.step)
            return manifest
        if damaged:
            listed = "\n  ".join(f"{path.name}: {why}" for path, why in damaged.items())
            raise CheckpointError(
                f"no checkpoint in {self.directory} is whole:\n  {listed}\n"
                "Restore one from a copy, or use --restart to start from step 0."
            )
        return None


def named_whole(directory: Path) -> list[tuple[int, Path]]:
    """Return the step and the path of each directory named as a checkpoint, oldest first."""
    if not directory.is_dir():
        return []
    named = ((name.step_of(path), path) for path in directory.iterdir())
    return sorted((step, path) for step, path in named if step is not None)


def restore(directory: Path, tensors: Mapping[str, Tensor], *, part: str = "") -> None:
    """Read a checkpoint into `tensors`, by name; only its tensors that begin with `part`.

    Raises CheckpointError, and changes nothing, if they do not fit.
    """
    found = {key: each for key, each in shapes_in(directory).items() if key.startswith(part)}
    _require_fit(directory, tensors, found)
    read(directory, tensors)


def _processes() -> Processes:
    """Return this job's processes in a separate group, so that messages do not mix with training's.

    All processes must call this.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return Processes()
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    return Processes(dist.get_rank(), dist.get_world_size(), group)


def _set_aside(path: Path, why: str, step: int) -> None:
    aside = name.damaged_name(path)
    if aside.exists():
        shutil.rmtree(aside)
    path.rename(aside)
    _LOG.warning(
        "%s is damaged: %s. ffcore renamed it to %s; the newest whole checkpoint is of step %d.",
        path, why, aside.name, step,
    )  # fmt: skip


def _differs(
    part: str, tensors: Mapping[str, Tensor], found: Mapping[str, tuple[int, ...]]
) -> bool:
    """Whether a checkpoint has an auxiliary network of other names or shapes."""
    if not part.startswith("auxiliary/"):
        return False
    here = {key: tuple(each.shape) for key, each in tensors.items() if part_of(key) == part}
    return here != {key: shape for key, shape in found.items() if part_of(key) == part}


def _require_fit(
    directory: Path, tensors: Mapping[str, Tensor], found: Mapping[str, tuple[int, ...]]
) -> None:
    expected = {key: tuple(each.shape) for key, each in tensors.items()}
    problems = [f"missing: {key}" for key in sorted(expected.keys() - found.keys())]
    problems += [f"unexpected: {key}" for key in sorted(found.keys() - expected.keys())]
    problems += [
        f"{key}: {found[key]} in the checkpoint, {expected[key]} in the recipe"
        for key in sorted(expected.keys() & found.keys())
        if found[key] != expected[key]
    ]
    if problems:
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CheckpointError(
            f"{directory} does not fit the networks of this recipe:\n  "
            + "\n  ".join(problems[:10])
            + more
        )


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
