"""Errors for missing memory, disk space or directories, with what to change."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}


class OutOfMemory(Exception):
    """There is not enough memory. The message is for the user."""


class Unwritable(OSError):
    """A directory cannot be written. The message is for the user."""


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
def writable(directory: Path, what: str) -> Iterator[None]:
    """Raise Unwritable, with the reason, if `what` cannot be written into `directory`."""
    try:
        yield
    except Unwritable:
        raise
    except OSError as error:
        raise Unwritable(f"{what} could not be written: {_why(directory, error)}") from error


def _why(directory: Path, error: OSError) -> str:
    if not directory.exists():
        return f"{directory} no longer exists"
    if error.errno == errno.ENOENT and error.filename:
        return f"{Path(error.filename).parent} no longer exists"
    if error.errno in _FULL:
        free = shutil.disk_usage(directory).free
        return (
            f"{error.strerror} ({free / 1e6:,.1f} MB are free at {directory}). Free some space, or "
            "keep fewer checkpoints (training.keep_last, training.keep_every). Then use the same "
            "command to continue"
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
