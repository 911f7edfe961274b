"""Samples in progress: stored in chunks, so that an interrupted sampling resumes.

The chunks of an output are stored beside it; see Partial. Whatever the batch size, a chunk has
CHUNK samples. It is written whole or not at all, so a process can be killed at any moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ffcore.sample.partial import Partial
from ffcore.sample.sampler import CHUNK

_PLACING = "placing"


@attrs.frozen
class Chunks:
    """The chunks of one sampling."""

    partial: Partial
    number: int
    """Number of all samples."""

    @staticmethod
    def beside(out: Path, number: int) -> Chunks:
        """Return the chunks of the output `out`, which has `number` samples."""
        return Chunks(Partial.beside(out), number)

    @property
    def directory(self) -> Path:
        """The directory of the chunks."""
        return self.partial.directory

    def place(self) -> None:
        """Record that the output may now be made of these chunks."""
        (self.directory / _PLACING).touch()

    @property
    def placing(self) -> bool:
        """Whether `place` was called."""
        return (self.directory / _PLACING).exists()

    def span(self, index: int) -> tuple[int, int]:
        """Return the first sample of a chunk, and the one after its last."""
        return index * CHUNK, min(self.number, (index + 1) * CHUNK)

    def missing(self) -> list[int]:
        """Return the chunks that are not yet whole."""
        return [i for i in range(-(-self.number // CHUNK)) if not self._whole(i).exists()]

    def stored(self) -> int:
        """Return the number of stored samples, in whole and in begun chunks."""
        return sum(map(self._count, range(-(-self.number // CHUNK))))

    def _count(self, index: int) -> int:
        start, stop = self.span(index)
        if self._whole(index).exists():
            return stop - start
        try:
            begun = self.read_begun(index)
        except FileNotFoundError:  # its process has just completed the chunk
            return stop - start
        return 0 if begun is None else len(begun)

    def read_begun(self, index: int) -> NDArray[Any] | None:
        """Return the samples of an interrupted chunk; None if there are none."""
        path = self._begun_path(index)
        return np.load(path) if path.exists() else None

    def put(self, index: int, samples: NDArray[Any]) -> None:
        """Store a chunk, or its first samples."""
        start, stop = self.span(index)
        path = self._whole(index) if len(samples) == stop - start else self._begun_path(index)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            # np.save reports a full disk by numbers of bytes alone, without an error code.
            np.lib.format.write_array_header_1_0(
                file, np.lib.format.header_data_from_array_1_0(samples)
            )
            file.write(np.ascontiguousarray(samples).data.cast("B"))
        partial.replace(path)
        if path == self._whole(index):
            self._begun_path(index).unlink(missing_ok=True)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield all chunks in the order of their samples, each mapped from the disk."""
        for index in range(-(-self.number // CHUNK)):
            yield np.load(self._whole(index), mmap_mode="r")

    def _whole(self, index: int) -> Path:
        return self.directory / f"{index:06}.npy"

    def _begun_path(self, index: int) -> Path:
        return self.directory / f"{index:06}.begun.npy"
