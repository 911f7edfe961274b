"""Two ranks, and what each of them does in a test."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from distillations import joint
from forked import apart
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from ffcore.interfaces import Batch, Gaps, Networks
from ffcore.system.distributed import Processes, join_processes, local
from ffcore.training.checkpoint import CheckpointError, Checkpoints
from ffcore.training.checkpoint.contents import tensors_of
from ffcore.training.checkpoint.snapshot import Snapshot
from ffcore.training.distillation import Distillation
from ffcore.training.finite import Diverged


def start(work: Callable[..., None], *arguments: object) -> None:
    """Run `work(rank, *arguments)` in two processes that have joined; raise what either raises."""
    apart(_join, work, arguments)


def _join(rank: int, work: Callable[..., None], arguments: Sequence[Any]) -> None:
    with join_processes():
        work(rank, *arguments)


def alone() -> Distillation:
    return joint()


def ddp() -> Distillation:
    """Every rank has every network whole."""
    run = joint()
    run.parallelize(Processes(dist.get_rank(), 2), "ddp")
    return run


def fsdp() -> Distillation:
    """Each rank has its part of every tensor; some parts are empty."""
    run = joint()
    run.parallelize(Processes(dist.get_rank(), 2), "fsdp")
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


def exchanges(rank: int, folder: Path, kind: str, others: list[str]) -> None:
    """Read what others wrote, write it anew, read that."""
    del rank
    for other in others:
        reads(folder / other, kind)
    writes(folder / kind, kind)
    reads(folder / kind, kind)


def fails(rank: int, directory: Path) -> None:
    """One rank's failure is that of both."""
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
    with pytest.raises(Diverged, match=r"NaN or infinity in student/body\.enter\.bias"):
        checkpoints.save(run)
    assert [path.name for path in directory.iterdir()] == ["step-00000003"]
    dist.barrier()
    if rank == 0:
        (directory / "step-00000003" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing"):
        checkpoints.newest()


def skips(rank: int, kind: str) -> None:
    """What is not finite in one rank leaves the step out in both."""
    run = KINDS[kind]()
    for _ in range(3):
        run.step()
    before = {name: each.clone() for name, each in tensors_of(run).items()}
    plain = run.objectives["prediction"].gaps

    def gaps(networks: Networks, batch: Batch) -> Gaps:
        found = plain(networks, batch)
        if rank == 1:
            found.gaps[0].gap[-1] = torch.nan
        return found

    run.objectives["prediction"].gaps = gaps  # type: ignore[method-assign]
    run.step()
    for name, each in tensors_of(run).items():
        here, there = local([each, before[name]])
        assert torch.equal(here, there), name
    with pytest.raises(
        Diverged, match=r"(?s)step 4: .*gap_prediction, .* the gradients of student/body"
    ):
        run.check()
