"""Several processes on one job, as torchrun starts them, and one network spread over them.

Each process takes its part of the global batch; draws are keyed by sample (ffcore/draws.py), so
that a seed is all that they share. "ddp": every process holds every network whole, and gradients
are averaged (Li et al., 2006.15704). "fsdp": every network is cut into as many parts, and gathered
unit by unit when it is called (FSDP2; Zhao et al., 2304.11277). Both hook a network's `forward`.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import attrs
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

PATIENCE = timedelta(days=30)
"""How long a process waits for the others: torchrun itself ends all where one has failed."""

Value = TypeVar("Value")
Error = TypeVar("Error", bound=Exception)


class LostProcess(Exception):
    """Another process of the job has ended. One message, for a person."""


@attrs.frozen
class Processes:
    """This process among those that share a job; by default the only one."""

    rank: int = 0
    size: int = 1
    group: Any = attrs.field(default=None, eq=False)
    """Through which they agree, on the CPU; None for that of all."""

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

    def any(self, value: bool) -> bool:
        """Return whether `value` holds in any process, in every process; by way of the CPU."""
        if self.size == 1:
            return value
        holds = torch.tensor(int(value))
        dist.all_reduce(holds, dist.ReduceOp.MAX)
        return bool(holds)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, in every process."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            dist.barrier()

    def alike(self, error: Error) -> Error:
        """Return an error that all processes raise, with a note that it is the leading one's."""
        if self.size > 1:
            self._sign(error, 0)
        return error

    def _sign(self, error: Exception, rank: int) -> None:
        error.add_note(f"in process {rank} of {self.size}")

    def each(self, work: Callable[[], Value]) -> list[Value]:
        """Do `work` in every process; return all answers, or raise the first error in all of them.

        So none goes on alone, or waits for one that is gone. An error bears a note on whose it is.
        """
        if self.size == 1:
            return [work()]
        mine = _outcome(work)
        outcomes: list[Any] = [None] * self.size
        dist.all_gather_object(outcomes, mine, group=self.group)
        for rank, (_, error) in enumerate(outcomes):
            if error is not None:
                self._sign(error, rank)
                raise error from mine[1]
        return [answer for answer, _ in outcomes]

    def together(self, work: Callable[[], Value]) -> Value:
        """Do `work` in every process; return this one's answer, or raise the first error in all."""
        mine: list[Value] = []
        self.each(lambda: mine.append(work()))
        return mine[0]

    def gather(self, value: Value) -> list[Value]:
        """Return every process's value, by rank, in the leading one; in others nothing."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.leads else None
        dist.gather_object(value, values, dst=0, group=self.group)
        return values or []

    def first(self, work: Callable[[], Value]) -> Value:
        """Do `work` in the leading process; return its answer, or raise its error, in all."""
        answers: list[Any] = self.each(work if self.leads else lambda: None)
        answer: Value = answers[0]
        return answer


def _outcome(work: Callable[[], Value]) -> tuple[Value | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001  it is raised in every process
        return None, error


def process_count() -> int:
    """Return how many processes torchrun started together with this one; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def join_processes(device: str = "cpu") -> Iterator[Processes]:
    """Join the processes that torchrun started together with this one, if it did.

    They talk through gloo about what is on the CPU, and through NCCL about what is on a CUDA
    `device`. Raises LostProcess where another process has ended meanwhile.
    """
    if process_count() == 1:
        yield Processes()
        return
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    store, rank, size = next(rendezvous("env://"))
    # After a restart the store still has the addresses of the processes before.
    attempt = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE, world_size=size, rank=rank, store=attempt)
    try:
        yield Processes(rank, size)
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo/transport" in str(error)):
            raise
        raise LostProcess(
            f"process {rank} of {size} has lost another one, whose own error is the cause; "
            "torchrun names it below. The same command resumes from what is stored on the disk"
        ) from error
    finally:
        # A DistributedDataParallel that outlives the group ends it while it holds the interpreter,
        # for which gloo's thread may be waiting: neither would go on.
        gc.collect()
        dist.destroy_process_group()


def own_device(device: str) -> str:
    """Return the device of this process: of several accelerators, each process takes its own."""
    if device != "cuda" or process_count() == 1:
        return device
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return of each tensor the part that this process holds, sharing its memory."""
    return [each.to_local() if isinstance(each, DTensor) else each for each in tensors]


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor as it is without sharding; all processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(network: nn.Module) -> Mapping[str, Tensor]:
    """Return a network's state without sharding, on the CPU; all processes must call this."""
    return {name: whole(each).cpu() for name, each in network.state_dict().items()}
