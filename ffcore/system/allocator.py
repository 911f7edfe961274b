"""Keeps freed CPU memory for the next step.

Every step allocates and frees the same gigabytes. By default, glibc returns much of them to the
system after a step, and the system must clear every page again. This takes a sixth of a SiT-S/2's
step (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_LARGE = 2**25
"""Larger blocks, in bytes, are still returned: glibc's own threshold grows to this at most."""
_NEVER = 2**31 - 1

_inside = False


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep freed memory in this process within this block, and return it at the end.

    Does nothing if the C library is not glibc, if you set a variable MALLOC_… or preload a library,
    or if already active.
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
        library.mallopt(_TRIM, 2 * _LARGE)  # glibc's own value after a large block
        library.malloc_trim(0)
