"""The samples of an evaluation: made as they are needed, or read from storage.

Whichever it is, they are what `ffd sample` keeps: images of 8 bits, or arrays of float32. So a
student and the file of its samples have the same numbers. What a run measures at its end is drawn
in another way, and not rounded: see `prior`.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from ffcore.evaluate.stored import LABELS, EvaluationError, Stored, open_stored
from ffcore.export import is_export, is_run
from ffcore.flow.solver import Method
from ffcore.sample import CHUNK, Labelling, Request, Sampler, to_uint8
from ffcore.sample.load import load_sampler, load_teacher_sampler

NUMBER = 50_000
"""Default number of samples, as in published FIDs."""
_SEEDS = 2**63


class Samples(ABC):
    """Samples in order, in little memory."""

    number: int
    shape: tuple[int, ...]
    """*S of one sample: (C, H, W) of an image."""
    record: dict[str, Any]
    """All that they depend on, as far as known, as JSON values."""
    labels: list[int] | None
    """The class that each was asked for, if known."""
    chunk: int = CHUNK
    """Samples in a chunk; an evaluation can stop and resume between two chunks."""

    @abstractmethod
    def between(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield the samples [start, stop), Float[n, *S] at a time.

        `start` is the first of a chunk, and no yielded piece spans two chunks.
        """

    def __iter__(self) -> Iterator[Tensor]:
        """Yield all samples."""
        return self.between(0, self.number)


def pieces(start: int, stop: int, batch: int) -> Iterator[tuple[int, int]]:
    """Cut [start, stop) into pieces of at most `batch`, none of which spans two chunks."""
    for first in range(start, stop, CHUNK):
        last = min(stop, first + CHUNK)
        yield from ((begin, min(last, begin + batch)) for begin in range(first, last, batch))


class Made(Samples):
    """Samples that a sampler makes, at most `batch` at a time."""

    def __init__(self, sampler: Sampler, asked: Request, batch: int = CHUNK) -> None:
        self.sampler = sampler
        self.asked = asked
        self.batch = batch
        self.number = asked.number
        self.shape = sampler.shape
        self.record = sampler.record(asked, batch)
        self.labels = sampler.drawn_labels(asked)

    def between(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield them; see Samples. Raises NotFinite for one that is not finite."""
        for first, last in pieces(start, stop, self.batch):
            made = self.sampler.images(self.asked, first, last)
            yield from_uint8(to_uint8(made)) if self.sampler.makes_images else made.float()


class Kept(Samples):
    """Samples on the disk, the first `number` of them if it is given."""

    def __init__(self, stored: Stored, number: int | None = None) -> None:
        if number is not None and number > stored.number:
            raise EvaluationError(
                f"{stored.path} holds {stored.number} samples, and {number} are asked for"
            )
        self.stored = stored
        self.number = stored.number if number is None else number
        self.shape = stored.shape
        found = stored.record or {}
        labels = found.get("label_of_each") or stored.labels
        self.labels = None if labels is None else labels[: self.number]
        self.record = {
            "source": str(stored.path),
            "fingerprint": None,
            "seed": None,
            "labels": None if stored.labels is None else _digest(stored.labels[: self.number]),
            "guidance": None,
            "nfe": "unknown",
            "decoder": None,
            **{name: each for name, each in found.items() if name != "label_of_each"},
            "number": self.number,
            "shape": list(self.shape),
            "content": stored.fingerprint(),
        }

    def between(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield them; see Samples. Raises EvaluationError for one that is not finite."""
        for chunk in self.stored.between(start, stop):
            rows = torch.from_numpy(chunk)
            yield from_uint8(rows) if self.stored.images else rows.float()


def from_uint8(images: Tensor) -> Tensor:
    """Return images Float[N, C, H, W] in [−1, 1] of UInt8[N, H, W, C]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


@attrs.frozen(kw_only=True)
class Making:
    """How to make samples; None means the source's default."""

    number: int | None = None
    seed: int | None = None
    labels: Labelling | None = None
    guidance: float | None = None
    steps: int | None = None
    """Of a student, or of a teacher's solver."""
    solver: Method | None = None
    teacher: bool = False
    """Whether the teacher of a recipe or run is meant, not a student."""
    batch: int = CHUNK
    device: str = "auto"

    def refuse(self, *names: str) -> None:
        """Raise EvaluationError if any of these is given for stored samples."""
        given = [name for name in names if getattr(self, name) not in (None, False)]
        if given:
            raise EvaluationError(
                f"{', '.join(given)}: these samples are stored and not made, so "
                "this cannot be chosen; leave it out"
            )


def open_samples(source: str, asked: Making) -> Samples:
    """Return the samples of a source.

    Args:
        source: an .npz, a folder of images, a run directory, an export, a student's file; a recipe
            or a run where the teacher is meant.
        asked: how they are made. Of stored samples only `number` can be given: the first ones.

    Raises EvaluationError for files that hold no such samples; what load_sampler and its request
    do.
    """
    if (stored := _open_if_stored(source)) is not None:
        asked.refuse("teacher", "solver", "steps")
        return Kept(stored, asked.number)
    if asked.teacher:
        sampler = load_teacher_sampler(
            source, method=asked.solver, steps=asked.steps, device=asked.device
        )
    else:
        sampler = load_sampler(source, device=asked.device)
    request = sampler.request(
        NUMBER if asked.number is None else asked.number,
        seed=asked.seed or 0,
        labels=asked.labels,
        guidance=asked.guidance,
        steps=None if asked.teacher else asked.steps,
    )
    return Made(sampler, request, asked.batch)


def is_kept(source: str) -> bool:
    """Whether a source holds stored samples."""
    path = Path(source)
    if path.is_dir():
        return not is_run(path) and not is_export(path)
    return path.suffix.lower() in (".npz", ".png", ".jpg", ".jpeg")


def same_samples(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two records are of the same samples, or of some of the same."""
    if a.get("content") is not None and a.get("content") == b.get("content"):
        return True
    made = ("fingerprint", "seed", "labels", "guidance", "solver", "nfe", "decoder", "shape")
    known = all(each.get(name) is not None for each in (a, b) for name in ("fingerprint", "seed"))
    return known and all(a.get(name) == b.get(name) for name in made)


def other_noise(samples: Samples) -> int:
    """Return a seed for samples that have nothing in common with these."""
    seed = samples.record["seed"]
    return ((0 if seed is None else int(seed)) + 1) % _SEEDS


def _digest(labels: list[int]) -> str:
    """Return a digest that identifies these labels."""
    return f"{LABELS} {hashlib.sha256(json.dumps(labels).encode()).hexdigest()[:12]}"


def _open_if_stored(source: str) -> Stored | None:
    return open_stored(Path(source)) if is_kept(source) else None
