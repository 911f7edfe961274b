"""Errors for missing memory, disk space or directories, with what to change."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}

FEWER = ", or keep fewer checkpoints (training.keep_last, training.keep_every)"
"""What makes a run need less of the disk."""


class OutOfMemory(Exception):
    """There is not enough memory. The message is for the user."""


class Unwritable(OSError):
    """A directory cannot be written. The message is for the user."""


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Raise OutOfMemory if this machine cannot hold so many bytes at all, before the work begins.

    Args:
        needed: the fewest bytes that the work must hold in memory at once.
        what: what needs them; the message begins with it.
        remedy: sentence that says what the user can do.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > total:
        raise OutOfMemory(
            f"{what}: needs {_bytes(needed)} of memory, and this machine has {_bytes(total)}. "
            f"{remedy}"
        )


def require_disk(directory: Path, needed: int, what: str, remedy: str) -> None:
    """Raise Unwritable if so many bytes are not free at `directory`, before the work begins.

    Args:
        directory: of the result; it may not exist yet.
        needed: bytes to write.
        what, remedy: as of `require_memory`.
    """
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise Unwritable(
            f"{what}: needs {_bytes(needed)} of disk, and {_bytes(free)} are free at {place}. "
            f"{remedy}"
        )


def _bytes(number: int) -> str:
    power = min(5, max(0, (len(str(number)) - 1) // 3))
    return f"{number / 1000**power:,.3g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB')[power]}"


@contextmanager
def enough_memory(where: str, remedy: str) -> Iterator[None]:
    """Raise OutOfMemory if memory runs out in this block, on the CPU or on an accelerator.

    Args:
        where: what needed the memory; the message begins with it.
        remedy: sentence that says what the user can do.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not _is_of_memory(error):
            raise
        raise OutOfMemory(f"{where}: out of memory. {_amount(error)}{remedy}") from error


@contextmanager
def writable(directory: Path, what: str, remedy: str = FEWER) -> Iterator[None]:
    """Raise Unwritable, with the reason, if `what` cannot be written into `directory`.

    Args:
        directory: to write into.
        what: the message begins with it.
        remedy: what the user can do on a full disk, beside making room.
    """
    try:
        yield
    except Unwritable:
        raise
    except OSError as error:
        why = _why(directory, error, remedy)
        raise Unwritable(f"{what} could not be written: {why}") from error


def _why(directory: Path, error: OSError, remedy: str) -> str:
    if not directory.exists():
        return f"{directory} no longer exists"
    if error.errno == errno.ENOENT and error.filename:
        return f"{Path(error.filename).parent} no longer exists"
    if error.errno in _FULL:
        free = shutil.disk_usage(directory).free
        return (
            f"{error.strerror} ({free / 1e6:,.1f} MB are free at {directory}). Free some space"
            f"{remedy}. Then use the same command to continue"
        )
    if error.errno in _FORBIDDEN:
        return f"{error.strerror}: {error.filename or directory}"
    return str(error)


def _is_of_memory(error: Exception) -> bool:
    # The CPU's allocator has no error type of its own.
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _amount(error: Exception) -> str:
    """Return torch's sentence with the requested amount, if there is one."""
    for sentence in str(error).replace("\n", " ").replace(": ", ". ").split(". "):
        if "tried to allocate" in sentence.lower():
            return f"{sentence[0].upper()}{sentence[1:].rstrip('.')}. "
    return ""
