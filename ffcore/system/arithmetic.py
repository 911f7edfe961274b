"""Torch's number of threads and precision of matrix products."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def arithmetic(threads: int | None, *, tf32: bool) -> Iterator[None]:
    """Set threads and precision within this block.

    Args:
        threads: CPU threads; None for torch's default.
        tf32: whether float32 matrix products may round their factors to TensorFloat-32.

    Raises ValueError for more threads than there are CPUs.
    """
    cpus = os.cpu_count() or 1
    if threads is not None and threads > cpus:
        raise ValueError(f"threads is {threads}, but there are {cpus} CPUs")
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(threads or before[0])
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])
