"""Several processes on one sampling, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import attrs
import torch.distributed as dist

PATIENCE = timedelta(days=30)
"""How long a process waits for the others: torchrun itself ends all where one has failed."""

Value = TypeVar("Value")


@attrs.frozen
class Processes:
    """This process among those that share a sampling; by itself the only one."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that keeps the books."""
        return self.rank == 0

    def agree(self, value: Value) -> Value:
        """Return the leading process's value in every process."""
        if self.size == 1:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun started together with this one, if it did.

    They talk through gloo, on the CPU.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes()
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def own_device(device: str) -> str:
    """Return the device of this process: of several accelerators, each process takes its own."""
    if device != "cuda" or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
