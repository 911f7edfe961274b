"""Output formats of samples: one picture, one file of arrays, a folder of pictures.

Each is assembled from chunks in a temporary folder, in little memory, and moved into place whole.
A record of the conditions is saved with it: without a record, its numbers cannot be compared with
others.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ffcore.sample.sampler import SampleError
from ffcore.system.files import write_text

GRID_LIMIT = 400
"""Most images in one picture."""

_GAP, _WHITE = 2, 255
_SMALLEST = 64
"""Pixels per side to which a picture enlarges smaller images, by a whole factor."""
_RECORD = "samples.json"
_OTHER_FORMATS = {".jpg", ".jpeg", ".webp", ".gif", ".npy", ".pt", ".zip", ".tar", ".json"}


class Output(ABC):
    """A path and a format for samples."""

    path: Path

    @property
    @abstractmethod
    def record(self) -> Path:
        """The file of the samples' conditions."""

    def occupied(self) -> Path | None:
        """Return the path that already exists there, if any."""
        return next((path for path in (self.path, self.record) if path.exists()), None)

    @abstractmethod
    def check_overwriting(self) -> None:
        """Raise SampleError if the path holds anything but the output of a sampling."""

    @abstractmethod
    def put(
        self,
        samples: Iterable[NDArray[Any]],
        number: int,
        conditions: Mapping[str, Any],
        aside: Path,
    ) -> None:
        """Write all samples and their record.

        Args:
            samples: chunks of them in order, UInt8[n, H, W, C] of images.
            number: of all samples.
            conditions: the record.
            aside: an existing folder on the same file system, for unfinished files.
        """


@attrs.frozen
class _OneFile(Output):
    path: Path

    @property
    def record(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def check_overwriting(self) -> None:
        for path in (self.path, self.record):
            if path.exists() and not path.is_file():
                raise SampleError(f"{path} is not a file: choose another path")

    def put(
        self,
        samples: Iterable[NDArray[Any]],
        number: int,
        conditions: Mapping[str, Any],
        aside: Path,
    ) -> None:
        whole = aside / f"whole{self.path.suffix}"
        self._write(whole, samples, number)
        whole.replace(self.path)
        write_text(self.record, _conditions_text(conditions))

    @abstractmethod
    def _write(self, path: Path, samples: Iterable[NDArray[Any]], number: int) -> None: ...


class Arrays(_OneFile):
    """An .npz for ADM's evaluation: `arr_0`, in the order of the samples.

    UInt8[N, H, W, C] for images, Float32[N, *S] for anything else. The file's bytes depend only on
    the samples.
    """

    def _write(self, path: Path, samples: Iterable[NDArray[Any]], number: int) -> None:
        entry = zipfile.ZipInfo("arr_0.npy")  # dated 1980, whenever it is written
        entry.external_attr = 0o644 << 16
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
            archive.open(entry, "w", force_zip64=True) as file,
        ):
            for index, chunk in enumerate(samples):
                if index == 0:
                    header = np.lib.format.header_data_from_array_1_0(chunk[:0])
                    header["shape"] = (number, *chunk.shape[1:])
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(chunk).data.cast("B"))


class Grid(_OneFile):
    """One PNG with all images in rows; small ones are enlarged, pixel by pixel."""

    def _write(self, path: Path, samples: Iterable[NDArray[Any]], number: int) -> None:
        _picture(grid(np.concatenate(list(samples)))).save(path)


@attrs.frozen
class Folder(Output):
    """A folder of PNGs 000000.png, 000001.png, …, and the record among them."""

    path: Path

    @property
    def record(self) -> Path:
        """Within the folder."""
        return self.path / _RECORD

    def occupied(self) -> Path | None:
        """Return the folder, unless it is empty; see Output."""
        if not self.path.is_dir():
            return super().occupied()
        return self.path if any(self.path.iterdir()) else None

    def check_overwriting(self) -> None:
        """Raise SampleError for a folder that holds anything else; see Output."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise SampleError(f"{self.path} is a file; the samples need a folder")
        foreign = sorted(
            path.name
            for path in self.path.iterdir()
            if path.name != _RECORD and not re.fullmatch(r"\d{6,}\.png", path.name)
        )
        if foreign:
            raise SampleError(
                f"{self.path} holds files that are not a sampling's ({', '.join(foreign[:5])}): "
                "choose another folder"
            )

    def put(
        self,
        samples: Iterable[NDArray[Any]],
        number: int,
        conditions: Mapping[str, Any],
        aside: Path,
    ) -> None:
        """Write the folder aside, then put it in place; see Output."""
        del number
        whole, old = aside / "whole", aside / "old"
        for path in (whole, old):
            shutil.rmtree(path, ignore_errors=True)
        whole.mkdir()
        index = 0
        for chunk in samples:
            for image in chunk:
                _picture(image).save(whole / f"{index:06}.png")
                index += 1
        write_text(whole / _RECORD, _conditions_text(conditions))
        if self.path.exists():
            self.path.rename(old)
        whole.rename(self.path)


def output(path: Path, shape: tuple[int, ...], number: int, *, images: bool) -> Output:
    """Return the output for the suffix of `path`: .npz, .png, or none for a folder.

    Args:
        path: to write to.
        shape: of one decoded sample.
        number: of the samples.
        images: whether they are images.

    Raises SampleError if such samples cannot be saved in this format.
    """
    if path.name in ("", ".."):
        path = path.resolve()
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return Arrays(path)
    if suffix in _OTHER_FORMATS:
        raise SampleError(
            f"{path}: samples are saved as .npz, as one .png, or in a folder, not as {suffix}"
        )
    if not images:
        what = f"vectors of {shape[0]} numbers" if len(shape) == 1 else f"arrays of {shape}"
        decoder = "" if len(shape) == 1 else ", or name a [decoder] that turns them into images"
        raise SampleError(f"these samples are {what}, not images: write them to NAME.npz{decoder}")
    if suffix != ".png":
        return Folder(path)
    if number > GRID_LIMIT:
        raise SampleError(
            f"one picture shows at most {GRID_LIMIT} images, found {number}: write them to a "
            f"folder ({path.with_suffix('')}) or to {path.with_suffix('.npz')}"
        )
    return Grid(path)


def grid(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return UInt8[H', W', C]: images UInt8[N, H, W, C] in rows, in about a square, on white."""
    number, height, width, channels = images.shape
    factor = max(1, _SMALLEST // max(height, width))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    columns = math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    high, wide = height * factor + _GAP, width * factor + _GAP
    canvas = np.full((rows * high + _GAP, columns * wide + _GAP, channels), _WHITE, np.uint8)
    for index, image in enumerate(images):
        top, left = _GAP + index // columns * high, _GAP + index % columns * wide
        canvas[top : top + high - _GAP, left : left + wide - _GAP] = image
    return canvas


def _picture(image: NDArray[np.uint8]) -> Image.Image:
    """Return a picture of UInt8[H, W, C]: grey for one channel, else RGB."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _conditions_text(conditions: Mapping[str, Any]) -> str:
    """Return JSON with one condition a line: there may be as many labels as samples."""
    lines = (f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in conditions.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"
