"""A moment of training in host memory, on its way to the disk; and back.

PyTorch's distributed checkpoint does the work, through its planner and its safetensors writer and
reader: each process writes its own shards, one of them what all hold alike, and any number of
processes reads what any other number wrote. Nothing is pickled on the disk.
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
"""Most bytes in a file. While the writer builds one in memory, training stands still."""


class _Copies(DefaultSavePlanner):
    """A planner that gives copies to the writer, made when the plan is complete.

    The copies reuse the memory of the previous checkpoint: getting new memory from the system takes
    longer than filling it.
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
    """Copies of tensors, taken in the training thread and written in another."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.planner = _Copies()
        self.writer: HuggingFaceStorageWriter | None = None
        self.plan: SavePlan | None = None

    def take(self, directory: Path, tensors: Mapping[str, Tensor]) -> None:
        """Decide among the processes which one writes what into `directory`, and copy it.

        Every process gives tensors of the same names, which may be DTensors.
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
    """Return the shapes of all tensors that a checkpoint holds, whole, by name."""
    found = HuggingFaceStorageReader(str(directory)).read_metadata().state_dict_metadata
    return {
        name: tuple(each.size)
        for name, each in found.items()
        if isinstance(each, TensorStorageMetadata)
    }


def read(directory: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read a checkpoint into `tensors`, this process's share of each where it is a DTensor."""
    reader, planner = HuggingFaceStorageReader(str(directory)), DefaultLoadPlanner()
    found = reader.read_metadata()
    planner.set_up_planner(dict(tensors), found, is_coordinator=True)
    reader.set_up_storage_reader(found, True)
    plan = planner.finish_plan(reader.prepare_local_plan(planner.create_local_plan()))
    with torch.no_grad():
        reader.read_data(plan, planner).wait()


def _files(tensors: Mapping[str, Tensor], size: int) -> dict[str, int]:
    """Return the file of each tensor, counted from 1; no file has more bytes than `size`.

    A larger tensor has a file of its own.
    """
    files: dict[str, int] = {}
    index, filled = 1, 0
    for name, tensor in tensors.items():
        if filled and filled + tensor.nbytes > size:
            index, filled = index + 1, 0
        files[name], filled = index, filled + tensor.nbytes
    return files
