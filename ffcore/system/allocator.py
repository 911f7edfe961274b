"""What becomes of memory on the CPU that was freed: it stays, for the step that comes next.

Every step takes and frees the same gigabytes. By default glibc returns much of them to the system
at the end of a step, which then clears each page again: a sixth of the time of a SiT-S/2's step
(docs/performance.md).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_LARGE = 2**25
"""Blocks above this, in bytes, are returned all the same: the limit of what glibc learns."""
_NEVER = 2**31 - 1

_inside = False


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Let freed memory stay with this process meanwhile, and give it back at the end.

    Does nothing where the C library is not glibc, where its user says by a variable MALLOC_… or a
    preloaded library how memory is to be taken, and within itself.
    """
    global _inside
    library = ctypes.CDLL(None) if os.name == "posix" else None
    chosen = any(name.startswith("MALLOC_") for name in os.environ) or "LD_PRELOAD" in os.environ
    glibc = all(hasattr(library, name) for name in ("mallopt", "malloc_trim"))
    if library is None or not glibc or chosen or _inside:
        yield
        return
    library.mallopt(_MMAP, _LARGE)
    library.mallopt(_TRIM, _NEVER)
    _inside = True
    try:
        yield
    finally:
        _inside = False
        library.mallopt(_TRIM, 2 * _LARGE)  # what it learns, once it has seen a large block
        library.malloc_trim(0)
