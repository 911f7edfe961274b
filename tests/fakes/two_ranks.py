"""What each of two ranks does in `tests/checkpoint/test_ranks.py`, which starts them."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from distillations import joint
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from ffcore.checkpoint import CheckpointError, Checkpoints
from ffcore.checkpoint.contents import tensors_of
from ffcore.checkpoint.snapshot import Snapshot
from ffcore.distill import Distillation
from ffcore.parallel import Processes


def alone() -> Distillation:
    return joint()


def ddp() -> Distillation:
    """Every rank has every network whole."""
    run = joint()
    run.lay_out(Processes(dist.get_rank(), 2), "ddp")
    return run


def fsdp() -> Distillation:
    """Each rank has its part of every tensor; some parts are empty."""
    run = joint()
    run.lay_out(Processes(dist.get_rank(), 2), "fsdp")
    return run


KINDS: dict[str, Callable[[], Distillation]] = {"alone": alone, "ddp": ddp, "fsdp": fsdp}


def expected(name: str, shape: torch.Size) -> Tensor:
    """Numbers that depend on a tensor's name alone."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator)


def fill(run: Distillation) -> None:
    """Let every tensor hold its numbers, and the run stand at step 3."""
    for name, each in tensors_of(run).items():
        whole = expected(name, each.shape)
        if isinstance(each, DTensor):
            each.copy_(distribute_tensor(whole, each.device_mesh, each.placements))
        else:
            each.copy_(whole)
    run.step_index = 3


def wrong(run: Distillation) -> list[str]:
    """The tensors that do not hold their numbers."""
    names = []
    for name, each in tensors_of(run).items():
        whole = each.full_tensor() if isinstance(each, DTensor) else each
        if not torch.equal(whole, expected(name, whole.shape)):
            names.append(name)
    return names


def reads(directory: Path, kind: str) -> None:
    """Restore a checkpoint, whoever wrote it, and find every number."""
    run, checkpoints = KINDS[kind](), Checkpoints(directory)
    assert wrong(run)
    manifest = checkpoints.newest()
    assert manifest is not None
    checkpoints.restore(manifest, run)
    assert run.step_index == 3
    assert wrong(run) == []


def writes(directory: Path, kind: str) -> None:
    """Save what `fill` fills in."""
    run = KINDS[kind]()
    fill(run)
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(run)


def _joins(rank: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)


def exchanges(rank: int, port: int, folder: Path, kind: str, others: list[str]) -> None:
    """Read what others wrote, write it anew, read that."""
    _joins(rank, port)
    for other in others:
        reads(folder / other, kind)
    writes(folder / kind, kind)
    reads(folder / kind, kind)
    dist.destroy_process_group()


def fails(rank: int, port: int, directory: Path) -> None:
    """One rank's failure is that of both."""
    _joins(rank, port)
    run = fsdp()
    fill(run)
    checkpoints = Checkpoints(directory)
    checkpoints.save(run)
    checkpoints.wait()
    write = Snapshot.write

    def full(snapshot: Snapshot) -> list[str]:
        write(snapshot)
        raise OSError(28, "No space left on device")

    if rank == 1:
        Snapshot.write = full  # type: ignore[method-assign]
    run.step_index = 4
    checkpoints.save(run)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.wait()
    bias = dict(run.student.named_parameters())["body.enter.bias"]
    local = bias.detach().to_local()  # type: ignore[operator]
    if rank == 1:
        local[-1] = torch.nan
    with pytest.raises(CheckpointError, match=r"student/body\.enter\.bias hold NaN"):
        checkpoints.save(run)
    assert [path.name for path in directory.iterdir()] == ["step-00000003"]
    dist.barrier()
    if rank == 0:
        (directory / "step-00000003" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing"):
        checkpoints.newest()
    dist.destroy_process_group()
