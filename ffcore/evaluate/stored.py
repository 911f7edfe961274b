"""Stored samples: the `arr_0` of an .npz, or a folder of pictures; read in chunks."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ffcore.interfaces import IMAGE_CHANNELS
from ffcore.sample import CHUNK
from ffcore.system.files import MissingFile, file_digest, parse_json

SAMPLES, LABELS = "arr_0", "arr_1"
"""The names of samples and labels in ADM's .npz files."""
_PICTURES = (".png", ".jpg", ".jpeg")
_RECORD = "samples.json"
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError)
"""Errors that reading a damaged zip archive raises."""


class EvaluationError(ValueError):
    """Samples or a reference cannot be measured in this way. The message is for the user."""


class Stored(ABC):
    """Stored samples."""

    path: Path
    number: int
    shape: tuple[int, ...]
    """Of one sample, (C, H, W) of images."""
    images: bool
    record: dict[str, Any] | None
    """The record that a sampling left beside them, if any."""
    labels: list[int] | None
    """The label of each, if the file has it."""

    @abstractmethod
    def between(self, start: int, stop: int) -> Iterator[NDArray[Any]]:
        """Yield the samples [start, stop) in order, at most CHUNK at a time.

        UInt8[n, H, W, C] of images, else floats [n, *S]. Raises EvaluationError for a sample
        that is not finite.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a digest of the content."""


def open_stored(path: Path) -> Stored:
    """Return the samples of an .npz or a folder. Raises EvaluationError if it has none."""
    if path.is_dir():
        return Folder(path)
    if path.suffix.lower() in _PICTURES:
        raise EvaluationError(
            f"{path} is a single picture: samples are an .npz, or a folder of pictures"
        )
    return Arrays(path)


class Arrays(Stored):
    """The samples of an .npz."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with members(path) as archive:
            names = sorted(_names(archive))
            if SAMPLES not in names:
                raise EvaluationError(
                    f"{path} holds no samples: it has no {SAMPLES}, only {', '.join(names)}"
                )
            with archive.open(f"{SAMPLES}.npy") as file:
                shape, dtype = _header(file, f"{path}: {SAMPLES}")
        self.number = shape[0]
        self.images = dtype == np.uint8
        _check_form(shape, dtype, path)
        self.shape = (shape[3], *shape[1:3]) if self.images else shape[1:]
        self._dtype = dtype
        self._row = shape[1:]
        self.record = _record_beside(path.with_name(f"{path.name}.json"), self)
        self.labels = _labels(path, self.number) if LABELS in names else None

    def between(self, start: int, stop: int) -> Iterator[NDArray[Any]]:
        """Yield them; see Stored."""
        size = int(np.prod(self._row)) * self._dtype.itemsize
        with members(self.path) as archive, archive.open(f"{SAMPLES}.npy") as file:
            _header(file, str(self.path))
            for begin in range(0, stop, CHUNK):
                count = min(CHUNK, stop - begin)
                found = _read(file, count * size, self.path)
                if begin < start:
                    continue  # a seek would skip the archive's own check
                rows = np.frombuffer(found, self._dtype).reshape(count, *self._row)
                yield rows if self.images else _finite(rows.astype(np.float32), begin, self.path)

    def fingerprint(self) -> str:
        """Return the digest of the file."""
        return file_digest(self.path)


class Folder(Stored):
    """A folder of pictures, in the order of their names."""

    images = True
    labels = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = sorted(each for each in path.iterdir() if each.suffix.lower() in _PICTURES)
        if not self.files:
            raise EvaluationError(
                f"{path} is not a run directory or an export, and holds no pictures "
                f"({', '.join(_PICTURES)})"
            )
        self.number = len(self.files)
        height, width, channels = _pixels(self.files[0]).shape
        self.shape = (channels, height, width)
        self.record = _record_beside(path / _RECORD, self)

    def between(self, start: int, stop: int) -> Iterator[NDArray[Any]]:
        """Yield them; see Stored. Raises EvaluationError if their sizes differ."""
        for begin in range(start, stop, CHUNK):
            files = self.files[begin : min(stop, begin + CHUNK)]
            yield np.stack([self._picture(file) for file in files])

    def _picture(self, file: Path) -> NDArray[np.uint8]:
        pixels = _pixels(file)
        channels, height, width = self.shape
        if pixels.shape != (height, width, channels):
            raise EvaluationError(
                f"{file.name} in {self.path} is {_size(pixels.shape)}, but {self.files[0].name} is "
                f"{_size((height, width, channels))}: all must have the same size"
            )
        return pixels

    def fingerprint(self) -> str:
        """Return a digest of all files, in order."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(file_digest(file).encode())
        return digest.hexdigest()


def members(path: Path) -> zipfile.ZipFile:
    """Open an .npz. Raises MissingFile if it does not exist, EvaluationError for other files."""
    if not path.is_file():
        raise MissingFile(f"no such file: {path.absolute()}")
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise EvaluationError(f"{path} cannot be read as an .npz: {error}") from None


def array_names(path: Path) -> set[str]:
    """Return the names of the arrays in an .npz."""
    with members(path) as archive:
        return _names(archive)


def whole_array(path: Path, name: str) -> NDArray[Any]:
    """Return one array of an .npz, whole; never opens a pickle."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found: NDArray[Any] = file[name]
    except (ValueError, *_DAMAGE) as error:
        raise EvaluationError(f"{path}: {name} cannot be read: {error}") from None
    return found


def _names(archive: zipfile.ZipFile) -> set[str]:
    return {name.removesuffix(".npy") for name in archive.namelist()}


def _header(file: IO[bytes], what: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read an array's header from a file, up to its numbers."""
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(file)
    except ValueError as error:
        raise EvaluationError(f"{what} is not an array: {error}") from None
    except _DAMAGE as error:
        raise EvaluationError(f"{what} is damaged: {error}") from None
    if dtype.hasobject or fortran:
        kind = "of Python objects" if dtype.hasobject else "in Fortran order"
        raise EvaluationError(f"{what} is an array {kind}: save it as plain numbers in C order")
    return shape, dtype


def _labels(path: Path, number: int) -> list[int] | None:
    """Return the labels in the .npz of the samples, if they are whole numbers."""
    found = whole_array(path, LABELS)
    if not np.issubdtype(found.dtype, np.integer):
        return None
    if found.shape != (number,) or found.min() < 0:
        raise EvaluationError(
            f"{path}: {LABELS} is {found.dtype} of shape {found.shape}, but the labels of "
            f"{number} samples are as many whole numbers from 0. Leave out anything else"
        )
    return [int(each) for each in found]


def _check_form(shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> None:
    """Raise EvaluationError for arrays that are not samples, or images in another layout."""
    is_last = len(shape) == 4 and shape[-1] in IMAGE_CHANNELS
    is_first = len(shape) == 4 and shape[1] in IMAGE_CHANNELS
    said = f"{path}: {SAMPLES} is {dtype} of shape {shape}"
    if len(shape) < 2 or shape[0] < 2 or 0 in shape:
        raise EvaluationError(f"{said}: samples are [N, …], at least 2 of them")
    if dtype == np.uint8 and not is_last:
        turn = f": transpose it, {SAMPLES}.transpose(0, 2, 3, 1)" if is_first else ""
        raise EvaluationError(f"{said}, but images are [N, H, W, C] with 1 or 3 channels{turn}")
    if dtype != np.uint8 and not np.issubdtype(dtype, np.floating):
        raise EvaluationError(f"{said}: images are uint8, anything else float32")
    if dtype != np.uint8 and (is_last or is_first):
        raise EvaluationError(
            f"{said}, which look like images; images are uint8 from 0 to 255, [N, H, W, C]. "
            "Convert floats in [0, 1] by (255 * x).round().astype('uint8'), floats in [-1, 1] by "
            "(127.5 * (x + 1)).round().astype('uint8')"
        )


def _read(file: IO[bytes], size: int, path: Path) -> bytearray:
    """Read `size` bytes. Raises EvaluationError if the file is damaged or too short."""
    try:
        found = file.read(size)
    except _DAMAGE as error:
        raise EvaluationError(f"{path} is damaged: {error}") from None
    if len(found) < size:
        raise EvaluationError(f"{path} is cut short")
    return bytearray(found)


def _finite(rows: NDArray[Any], start: int, path: Path) -> NDArray[Any]:
    """Return the samples unchanged. Raises EvaluationError about the first that is not finite."""
    bad = ~np.isfinite(rows).all(tuple(range(1, rows.ndim)))
    if bad.any():
        raise EvaluationError(f"{path}: sample {start + int(bad.argmax())} holds NaN or infinity")
    return rows


def _pixels(file: Path) -> NDArray[np.uint8]:
    """Return UInt8[H, W, C] of a grey or an RGB picture."""
    try:
        with Image.open(file) as picture:
            if picture.mode not in ("L", "RGB"):
                raise EvaluationError(
                    f"{file} has mode {picture.mode}: convert it to 8-bit grey or RGB"
                )
            pixels = np.asarray(picture)
    except (OSError, Image.DecompressionBombError) as error:
        raise EvaluationError(f"{file} cannot be read as a picture: {error}") from None
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _size(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{width} × {height} of {channels} channel{'s' if channels > 1 else ''}"


def _record_beside(path: Path, stored: Stored) -> dict[str, Any] | None:
    """Return the record beside samples. Raises EvaluationError if it describes other samples."""
    try:
        found = parse_json(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read: {error}. Remove it, or fix it") from None
    if not isinstance(found, dict) or "number" not in found or "shape" not in found:
        raise EvaluationError(f"{path} is not a record of a sampling: remove it, or fix it")
    recorded, labels = (found["number"], found["shape"]), found.get("label_of_each")
    if recorded != (stored.number, list(stored.shape)) or len(labels or ()) not in (
        0,
        stored.number,
    ):
        raise EvaluationError(
            f"{path} describes {recorded[0]} samples of shape {recorded[1]}, but {stored.path} "
            f"holds {stored.number} of {list(stored.shape)}. Remove it; the conditions then count "
            "as unknown"
        )
    return found
