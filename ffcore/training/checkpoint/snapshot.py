"""A copy of training's tensors in host memory, written to disk and read back.

This uses the planner and the safetensors writer and reader of PyTorch's distributed checkpoint.
Each process writes its own shards, and one process writes what all hold. Any number of processes
can read what any other number wrote. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, WriteItem

from ffcore.system.distributed import Processes

FILE_SIZE = 64 * 2**20
"""Most bytes in a file. Training stands still while the writer builds a file in memory."""


class _Copies(DefaultSavePlanner):
    """A planner that gives the writer copies, made when the plan is complete.

    They reuse the previous checkpoint's memory: allocating new memory takes longer than filling it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: dict[Any, Tensor] = {}

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        """Copy the tensors that this process writes."""
        plan = super().finish_plan(new_plan)
        before, self.copies = self.copies, {}
        for item in plan.items:
            source = super().resolve_data(item)
            assert isinstance(source, Tensor)
            copy = before.get(item.index)
            if copy is None or copy.shape != source.shape or copy.dtype != source.dtype:
                copy = torch.empty(source.shape, dtype=source.dtype, pin_memory=source.is_cuda)
            self.copies[item.index] = copy.copy_(source.detach(), non_blocking=True)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        """Return the copy."""
        return self.copies[write_item.index]


class Snapshot:
    """Copies of tensors, made in the training thread and written in another."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.planner = _Copies()
        self.writer: HuggingFaceStorageWriter | None = None
        self.plan: SavePlan | None = None

    def take(self, directory: Path, tensors: Mapping[str, Tensor]) -> None:
        """Agree on what each process writes into `directory`, and copy this process's part.

        Every process must pass tensors of the same names. They may be DTensors.
        """
        files = _files(tensors, FILE_SIZE * self.processes.size)
        self.writer = HuggingFaceStorageWriter(str(directory), files, save_distributed=True)
        self.planner.set_up_planner(dict(tensors), is_coordinator=self.processes.leads)
        self.writer.set_up_storage_writer(self.processes.leads)
        local = self.writer.prepare_local_plan(self.planner.create_local_plan())
        plans, _ = self.planner.create_global_plan(self.processes.each(lambda: local))
        plans = self.writer.prepare_global_plan(plans)
        self.plan = self.planner.finish_plan(plans[self.processes.rank])

    def write(self) -> list[str]:
        """Write this process's files and sync them; return their names."""
        assert self.writer is not None
        assert self.plan is not None
        written = self.writer.write_data(self.plan, self.planner).wait()
        return sorted({each.storage_data.relative_path for each in written})


def shapes_in(directory: Path) -> dict[str, tuple[int, ...]]:
    """Return the full shapes of all tensors in a checkpoint, by name."""
    found = HuggingFaceStorageReader(str(directory)).read_metadata().state_dict_metadata
    return {
        name: tuple(each.size)
        for name, each in found.items()
        if isinstance(each, TensorStorageMetadata)
    }


def read(directory: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read a checkpoint into `tensors`; of a DTensor, read this process's share."""
    reader, planner = HuggingFaceStorageReader(str(directory)), DefaultLoadPlanner()
    found = reader.read_metadata()
    planner.set_up_planner(dict(tensors), found, is_coordinator=True)
    reader.set_up_storage_reader(found, True)
    plan = planner.finish_plan(reader.prepare_local_plan(planner.create_local_plan()))
    with torch.no_grad():
        reader.read_data(plan, planner).wait()


def _files(tensors: Mapping[str, Tensor], size: int) -> dict[str, int]:
    """Return each tensor's file number, from 1; a file has at most `size` bytes.

    A larger tensor gets a file of its own.
    """
    files: dict[str, int] = {}
    index, filled = 1, 0
    for name, tensor in tensors.items():
        if filled and filled + tensor.nbytes > size:
            index, filled = index + 1, 0
        files[name], filled = index, filled + tensor.nbytes
    return files
