"""Stored latents. Memory holds one batch, and maps one shard while it is read.

A shard is a safetensors file of `latents` [n, *S] and `labels` [n]. The samples are in the order of
the shards' names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ffcore.draws import Draws
from ffcore.interfaces import Condition, DataError, DataSource, Teacher, class_condition

TENSORS = ("latents", "labels")
FLOATS = ("F32", "F16", "BF16")
INTEGERS = ("I64", "I32", "I16", "I8", "U8")


@attrs.frozen
class Shard:
    """A shard; it is only open while it is read."""

    path: Path
    size: int
    """Number of samples."""

    @staticmethod
    def of(path: Path, sample_shape: tuple[int, ...]) -> Shard:
        """Read a file's header.

        Raises DataError if it is not a shard, and ValueError for samples of another shape.
        """
        with _open(path) as file:
            found = set(file.keys())
            if found != set(TENSORS):
                raise DataError(f"{path} holds {_list(found)}; a shard must hold {_list(TENSORS)}")
            latents, labels = (file.get_slice(name) for name in TENSORS)
            size, *shape = latents.get_shape() or (0,)
            kinds = latents.get_dtype(), labels.get_dtype()
        if tuple(shape) != sample_shape:
            raise ValueError(
                f"{path}: latents are {tuple(shape)}, but the teacher's samples are {sample_shape}"
            )
        if labels.get_shape() != [size]:
            raise DataError(f"{path} has {size} latents, but labels {labels.get_shape()}")
        for name, kind, possible in zip(TENSORS, kinds, (FLOATS, INTEGERS), strict=True):
            if kind not in possible:
                raise DataError(f"{path}: {name} are {kind} (possible: {', '.join(possible)})")
        return Shard(path, size)

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latents of these rows in float32, and their labels.

        Raises DataError if a latent is not finite.
        """
        with _open(self.path) as file:
            latents, labels = (file.get_slice(name) for name in TENSORS)
            found = torch.cat([latents[row : row + 1].float() for row in rows.tolist()])
            label = torch.cat([labels[row : row + 1].long() for row in rows.tolist()])
        finite = found.flatten(1).isfinite().all(1)
        if not finite.all():
            raise DataError(f"{self.path}: row {int(rows[~finite][0])} of latents is not finite")
        return found, label


class StoredLatents(DataSource):
    """The samples of all shards, by index.

    Raises DataError for a file that is not a shard. Raises ValueError without shards, for samples
    that do not have the teacher's shape, and for a teacher whose conditions are not labels.
    """

    def __init__(self, paths: Sequence[Path], teacher: Teacher, scale: float = 1.0) -> None:
        self.sample_shape, self.conditions = teacher.sample_shape, teacher.conditions
        self.scale = scale
        if not paths:
            raise ValueError("there are no shards")
        self.shards = [Shard.of(path, self.sample_shape) for path in paths]
        self.ends = torch.tensor([shard.size for shard in self.shards]).cumsum(0)
        class_condition(self.conditions, torch.zeros(0, dtype=torch.int64))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        """Return latents and their labels; see DataSource."""
        del draws
        which = torch.searchsorted(self.ends, indices, right=True)
        samples = torch.empty(len(indices), *self.sample_shape)
        labels = torch.empty(len(indices), dtype=torch.int64)
        for number in which.unique().tolist():
            shard, places = self.shards[number], (which == number).nonzero().squeeze(1)
            rows = indices[places] - (self.ends[number] - shard.size)
            samples[places], labels[places] = shard.read(rows)
            try:
                class_condition(self.conditions, labels[places])
            except ValueError as error:
                raise DataError(f"{shard.path}: {error}") from None
        return self.scale * samples, class_condition(self.conditions, labels)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}") from None


def _list(names: Sequence[str] | set[str]) -> str:
    return " and ".join(map(repr, sorted(names))) or "nothing"
