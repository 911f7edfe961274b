"""The global state of a process, which a component must leave unchanged."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def _torch_random() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


def _set_torch_random(state: bytes) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def _numpy_random() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state(legacy=True)
    return (name, np.asarray(keys).tobytes(), *rest)


def _set_numpy_random(state: tuple[Any, ...]) -> None:
    name, keys, *rest = state
    np.random.set_state((name, np.frombuffer(keys, dtype=np.uint32), *rest))


_GLOBALS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "torch's random state": (_torch_random, _set_torch_random),
    "numpy's random state": (_numpy_random, _set_numpy_random),
    "Python's random state": (random.getstate, random.setstate),
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "whether algorithms are deterministic": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "the precision of matrix products": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
}


def state() -> dict[str, Any]:
    """Return the global values by name; they compare equal if nothing changed."""
    return {name: read() for name, (read, _) in _GLOBALS.items()}


def changes(before: dict[str, Any]) -> list[str]:
    """Return the names of the values that differ from `before`."""
    return [name for name, value in state().items() if value != before[name]]


@contextmanager
def restore() -> Iterator[None]:
    """Restore global state, so that one component's fault does not affect the next."""
    before = state()
    try:
        yield
    finally:
        for name in changes(before):
            _GLOBALS[name][1](before[name])


@contextmanager
def seed_torch(seed: int) -> Iterator[None]:
    """Seed torch's random state on the CPU, and restore it afterwards."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
