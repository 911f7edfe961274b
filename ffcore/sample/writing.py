"""Sampling to disk: in chunks, in one process or several, resumable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffcore.sample.chunks import Chunks
from ffcore.sample.output import Arrays, Output, output
from ffcore.sample.partial import differences
from ffcore.sample.sampler import (
    CHUNK,
    Request,
    SampleError,
    Sampler,
    to_uint8,
    whole_number,
)
from ffcore.system.distributed import Processes
from ffcore.system.faults import require_disk, writable


class StoppedSampling(Exception):
    """Sampling stopped on request; its samples are saved."""

    def __init__(self, done: int, number: int) -> None:
        super().__init__(f"stopped after {done} of {number} samples; the same command resumes it")


def silent(done: int, number: int) -> None:
    """Report no progress."""
    del done, number


def write_samples(
    sampler: Sampler,
    asked: Request,
    path: Path,
    *,
    batch: int = 64,
    overwrite: bool = False,
    processes: Processes | None = None,
    progress: Callable[[int, int], None] = silent,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Generate the samples of a request and save them at `path` with their record.

    An interrupted sampling under the same conditions resumes.

    Args:
        sampler: generates them.
        asked: the request.
        path: .npz, .png, or a folder; see `output`.
        batch: number of samples at a time, at most CHUNK; affects them only with dopri5.
        overwrite: replace an earlier sampling's files at `path` once the new ones are whole.
        processes: that share the work; by default only this one.
        progress: gets (number done, total), counting those of an interrupted sampling.
        stop: called after each batch; True stops the sampling.

    Raises SampleError, and changes nothing, if they cannot be saved at `path`; StoppedSampling;
    the errors of the sampler.
    """
    batch = whole_number("batch", batch, 1, CHUNK)
    processes = processes or Processes()
    place = output(path, sampler.shape, asked.number, images=sampler.makes_images)
    one = math.prod(sampler.shape) * (1 if sampler.makes_images else 4)
    copies = 2 if isinstance(place, Arrays) else 1  # the chunks, and the file that is made of them
    what, fewer = f"{asked.number} samples", "Write fewer samples, or into another folder."
    require_disk(path.absolute().parent, asked.number * one * copies, what, fewer)
    conditions = sampler.record(asked, batch)
    chunks = Chunks.beside(place.path, asked.number)
    with writable(path.absolute().parent, "the samples", remedy=""), ExitStack() as stack:
        missing: list[int] | None = None
        try:
            if processes.leads:
                stack.enter_context(chunks.partial.hold())
                _prepare(place, chunks, conditions, overwrite)
                missing = chunks.missing()
        finally:  # the other processes learn of an error too; the leading one raises it
            missing = processes.agree(missing)
        if missing is None:
            return
        progress(chunks.stored(), asked.number)
        for index in missing[processes.rank :: processes.size]:
            _make(sampler, asked, chunks, index, batch, progress, stop)
        processes.wait()
        if processes.leads:
            progress(asked.number, asked.number)
            chunks.place()
            record = conditions | sampler.of_each(asked)
            place.put(_stoppable(chunks, stop), asked.number, record, chunks.directory)
            chunks.partial.remove()


def _prepare(place: Output, chunks: Chunks, conditions: dict[str, Any], overwrite: bool) -> None:
    """Prepare the chunks to resume or to begin; raise SampleError if neither is possible."""
    if overwrite:
        place.check_overwriting()
    there = chunks.partial.conditions()
    changed = [] if there is None else differences(there, conditions)
    if changed and not overwrite and chunks.stored():
        raise SampleError(
            f"{chunks.directory} holds an interrupted sampling under other conditions:\n  "
            + "\n  ".join(changed)
            + "\n--overwrite deletes it"
        )
    occupied = place.occupied()
    ours = there is not None and not changed and chunks.placing
    if occupied is not None and not (overwrite or ours):
        raise SampleError(f"{occupied} exists: choose another path, or use --overwrite")
    if there is None or changed:
        chunks.partial.begin(conditions)


def _make(
    sampler: Sampler,
    asked: Request,
    chunks: Chunks,
    index: int,
    batch: int,
    progress: Callable[[int, int], None],
    stop: Callable[[], bool],
) -> None:
    """Generate the missing samples of a chunk and store it."""
    start, end = chunks.span(index)
    begun = chunks.read_begun(index)
    parts = [] if begun is None else [begun]
    done = start + sum(map(len, parts))
    others = chunks.stored() - (done - start)
    while done < end:
        if stop():
            if parts:
                chunks.put(index, np.concatenate(parts))
            raise StoppedSampling(others + done - start, asked.number)
        images = sampler.images(asked, done, min(end, done + batch))
        parts.append(_as_stored(images, sampler.makes_images))
        done += len(images)
        progress(others + done - start, asked.number)
    chunks.put(index, np.concatenate(parts))


def _as_stored(images: Tensor, are_images: bool) -> NDArray[Any]:
    """Return decoded samples as they are saved."""
    kept = to_uint8(images) if are_images else images.to(torch.float32)
    return kept.contiguous().numpy()


def _stoppable(chunks: Chunks, stop: Callable[[], bool]) -> Iterator[NDArray[Any]]:
    for chunk in chunks:
        if stop():
            raise StoppedSampling(chunks.number, chunks.number)
        yield chunk
