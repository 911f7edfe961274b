"""Samples that are being made: on disk in chunks, so that what was made is not made again.

The chunks of an output `NAME` lie beside it in the directory `.NAME.partial`, with the conditions
under which they are made. A chunk is of CHUNK samples whatever the batch size, and is written whole
or not at all; so a process can be killed at any moment.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ffcore.files import write_text
from ffcore.sample.sampler import SampleError

CHUNK = 256
"""Samples in a chunk."""

_CONDITIONS, _PLACING = "conditions.json", "placing"
_UNCOMPARED = ("source",)
"""What may differ between two samplings that are the same: by which name a source was called."""


@attrs.frozen
class Chunks:
    """The chunks of one sampling."""

    directory: Path
    number: int
    """Samples in all."""

    @staticmethod
    def beside(out: Path, number: int) -> Chunks:
        """Return those of the output `out`, of so many samples."""
        return Chunks(out.with_name(f".{out.name}.partial"), number)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the directory, and hold it against other processes meanwhile.

        Raises SampleError where another process holds it.
        """
        held = self._open()
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is(held, self.directory):  # its last holder finished and took it away
                raise BlockingIOError
        except BlockingIOError:
            os.close(held)
            raise SampleError(f"{self.directory} is in use by another process") from None
        try:
            yield
        finally:
            with suppress(OSError):
                self.directory.rmdir()  # where nothing came of it
            os.close(held)

    def _open(self) -> int:
        self.directory.mkdir(parents=True, exist_ok=True)
        return os.open(self.directory, os.O_RDONLY)

    def conditions(self) -> dict[str, Any] | None:
        """Return the conditions of the chunks; None where there are none, or they were given up."""
        try:
            found = json.loads((self.directory / _CONDITIONS).read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def begin(self, conditions: Mapping[str, Any]) -> None:
        """Empty the directory, and write the conditions of the chunks to come."""
        self._empty()
        write_text(self.directory / _CONDITIONS, json.dumps(conditions, indent=2) + "\n")

    def place(self) -> None:
        """Note that from now on what stands in the output's place may be of these chunks."""
        (self.directory / _PLACING).touch()

    @property
    def placing(self) -> bool:
        """Whether `place` was called."""
        return (self.directory / _PLACING).exists()

    def remove(self) -> None:
        """Take the directory away: first the conditions, without which the rest is void."""
        (self.directory / _CONDITIONS).unlink(missing_ok=True)
        self._empty()
        self.directory.rmdir()

    def _empty(self) -> None:
        for path in self.directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def span(self, index: int) -> tuple[int, int]:
        """Return the first sample of a chunk, and the one after its last."""
        return index * CHUNK, min(self.number, (index + 1) * CHUNK)

    def missing(self) -> list[int]:
        """Return the chunks that are not whole yet."""
        return [i for i in range(-(-self.number // CHUNK)) if not self._whole(i).exists()]

    def stored(self) -> int:
        """Return how many samples there are, in whole chunks and in begun ones."""
        return sum(map(self._stored, range(-(-self.number // CHUNK))))

    def _stored(self, index: int) -> int:
        start, stop = self.span(index)
        if self._whole(index).exists():
            return stop - start
        try:
            begun = self.begun(index)
        except FileNotFoundError:  # its process has just made a whole chunk of it
            return stop - start
        return 0 if begun is None else len(begun)

    def begun(self, index: int) -> NDArray[Any] | None:
        """Return the first samples of a chunk that was left before its end."""
        path = self._begun(index)
        return np.load(path) if path.exists() else None

    def put(self, index: int, samples: NDArray[Any]) -> None:
        """Store a chunk, or the first samples of it."""
        start, stop = self.span(index)
        path = self._whole(index) if len(samples) == stop - start else self._begun(index)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, samples)
        partial.replace(path)
        if path == self._whole(index):
            self._begun(index).unlink(missing_ok=True)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield all chunks in the order of their samples, each mapped from the disk."""
        for index in range(-(-self.number // CHUNK)):
            yield np.load(self._whole(index), mmap_mode="r")

    def _whole(self, index: int) -> Path:
        return self.directory / f"{index:06}.npy"

    def _begun(self, index: int) -> Path:
        return self.directory / f"{index:06}.begun.npy"


def differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Say in which conditions two samplings differ, one line for each."""
    return [
        f"{name}: {there.get(name)} there, {wanted.get(name)} here"
        for name in sorted(there.keys() | wanted.keys())
        if there.get(name) != wanted.get(name) and name not in _UNCOMPARED
    ]


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
