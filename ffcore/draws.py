"""Random numbers without state.

A stable hash of (seed, purpose, step, block) seeds every draw. A block is a fixed run of samples
of the *global* batch. A rank or a micro-batch generates the blocks that overlap its slice. So a
sample gets the same numbers on any number of ranks, with or without accumulation, after a resume,
and on every device, because the CPU draws. A new purpose does not change the others.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable

import attrs
import torch
from torch import Tensor

BLOCK = 32
"""Samples of the global batch that share one generator."""


@attrs.frozen
class Draws:
    """Named random streams for the samples [start, stop) of the global batch at one step."""

    seed: int
    step: int
    start: int
    stop: int
    device: str = "cpu"
    scope: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.stop - self.start

    def named(self, *names: str | int) -> Draws:
        """Return the streams of a sub-purpose, independent of these even for equal purposes."""
        return attrs.evolve(self, scope=(*self.scope, *map(str, names)))

    def __getitem__(self, part: slice) -> Draws:
        """Return the streams of a contiguous part of these samples."""
        start, stop, stride = part.indices(len(self))
        if stride != 1:
            raise ValueError(f"draws can only be sliced contiguously, found a stride of {stride}")
        return attrs.evolve(self, start=self.start + start, stop=self.start + max(start, stop))

    def first(self, count: int) -> Draws:
        """Return the streams of the first `count` samples of the global batch."""
        return attrs.evolve(self, start=0, stop=count)

    def normal(self, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw N(0, 1): Float[len, *shape], float32."""
        return self._draw(purpose, lambda g: torch.randn(BLOCK, *shape, generator=g))

    def uniform(self, purpose: str) -> Tensor:
        """Draw from [0, 1): Float[len], float32."""
        return self._draw(purpose, lambda g: torch.rand(BLOCK, generator=g))

    def logit_normal(self, purpose: str, location: float, scale: float) -> Tensor:
        """Draw sigmoid(location + scale · normal(purpose)): Float[len]."""
        # Per block: a vectorised sigmoid rounds the last few numbers of a tensor differently.
        return self._draw(
            purpose, lambda g: (location + scale * torch.randn(BLOCK, generator=g)).sigmoid()
        )

    def integers(self, purpose: str, high: int) -> Tensor:
        """Draw from {0, …, high − 1}: Int[len]."""
        return self._draw(purpose, lambda g: torch.randint(high, (BLOCK,), generator=g))

    def _draw(self, purpose: str, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        first, last = self.start // BLOCK, max(self.start, self.stop - 1) // BLOCK
        blocks = [draw(self._generator(purpose, block)) for block in range(first, last + 1)]
        offset = first * BLOCK
        drawn = torch.cat(blocks)[self.start - offset : self.stop - offset]
        # Does not synchronise with the device; `drawn` stays alive until it is copied.
        return drawn.to(self.device, non_blocking=True)

    def _generator(self, purpose: str, block: int) -> torch.Generator:
        key = repr((self.seed, self.scope, purpose, self.step, block)).encode()
        number = int.from_bytes(hashlib.sha256(key).digest()[:8], "little") >> 1
        return torch.Generator().manual_seed(number)


def epochs(seed: int, start: int, stop: int, count: int) -> Tensor:
    """Return positions [start, stop) of an endless sequence of epochs: Int[stop - start], CPU.

    Each epoch is a permutation of {0, …, count − 1}, from the seed and the epoch's number.
    """
    first, last = start // count, max(start, stop - 1) // count
    orders = torch.cat([_order(seed, epoch, count) for epoch in range(first, last + 1)])
    return orders[start - first * count : stop - first * count]


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Tensor:
    generator = Draws(seed, epoch, 0, 0)._generator("order of an epoch", 0)
    return torch.randperm(count, generator=generator)
