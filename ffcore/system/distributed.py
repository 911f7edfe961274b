"""The processes of one job, started by torchrun, and tensors sharded over them.

Each process takes a part of the global batch. Draws are keyed by sample (ffcore/draws.py), so the
processes only share a seed. ffcore/training/parallelize.py describes "ddp" and "fsdp".
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
from torch.distributed.tensor import DTensor, distribute_tensor

PATIENCE = timedelta(days=30)
"""Time that a process waits for the others; if one fails, torchrun itself ends all."""

Value = TypeVar("Value")
Error = TypeVar("Error", bound=Exception)


class LostProcess(Exception):
    """Another process of the job has ended. The message is for the user."""


@attrs.frozen
class Processes:
    """This process among the processes of a job; by default the only one."""

    rank: int = 0
    size: int = 1
    group: Any = attrs.field(default=None, eq=False)
    """Process group for CPU communication; None for the default group."""

    @property
    def leads(self) -> bool:
        """Whether this is the leading process, of rank 0."""
        return self.rank == 0

    def agree(self, value: Value) -> Value:
        """Return the leading process's value in every process."""
        if self.size == 1:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]

    def any(self, value: bool) -> bool:
        """Return, in every process, whether `value` is true in any; communicates on the CPU."""
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
        """Wait for every process to call this."""
        if self.size > 1:
            dist.barrier()

    def alike(self, error: Error) -> Error:
        """Return an error that all processes raise, with a note of the leading process."""
        if self.size > 1:
            self._sign(error, 0)
        return error

    def _sign(self, error: Exception, rank: int) -> None:
        error.add_note(f"in process {rank} of {self.size}")

    def each(self, work: Callable[[], Value]) -> list[Value]:
        """Do `work` in every process; return all results, or raise the first error in all.

        So no process continues alone, or waits for one that has failed. A note names the error's
        process.
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
        """Do `work` in every process; return this one's result, or raise the first error in all."""
        mine: list[Value] = []
        self.each(lambda: mine.append(work()))
        return mine[0]

    def gather(self, value: Value) -> list[Value]:
        """Return every process's value, by rank, in the leading process; in others, []."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.leads else None
        dist.gather_object(value, values, dst=0, group=self.group)
        return values or []

    def first(self, work: Callable[[], Value]) -> Value:
        """Do `work` in the leading process; return its result, or raise its error, in all."""
        answers: list[Any] = self.each(work if self.leads else lambda: None)
        answer: Value = answers[0]
        return answer


def _outcome(work: Callable[[], Value]) -> tuple[Value | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001  it is raised in every process
        return None, error


def process_count() -> int:
    """Return the number of processes that torchrun started; 1 without torchrun.

    Raises LostProcess if only a part of torchrun's variables is set, or if they are not numbers.
    """
    found = {name: os.environ.get(name) for name in ("WORLD_SIZE", "RANK")}
    if found["WORLD_SIZE"] in (None, "1"):
        return 1
    if not all(value is not None and value.isdecimal() for value in found.values()):
        raise LostProcess(
            "the environment variables WORLD_SIZE and RANK must be whole numbers, found "
            f"{' and '.join(f'{name}={value}' for name, value in found.items())}: start the "
            "processes with torchrun, which sets both, or unset them for one process"
        )
    return int(str(found["WORLD_SIZE"]))


@contextmanager
def join_processes(device: str = "cpu") -> Iterator[Processes]:
    """Join the processes that torchrun started with this one, if it did.

    They use gloo for CPU tensors and NCCL for tensors on a CUDA `device`. Raises LostProcess if
    another process ends.
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
            f"process {rank} of {size} lost another process. That process's error is the cause; "
            "torchrun names it below. Use the same command to resume from what is on disk"
        ) from error
    finally:
        # A DistributedDataParallel that outlives the group ends it while it holds the interpreter
        # lock, which gloo's thread may need: a deadlock.
        gc.collect()
        dist.destroy_process_group()


def own_device(device: str) -> str:
    """Return this process's device: with several accelerators, each process has its own."""
    if device != "cuda" or process_count() == 1:
        return device
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return this process's part of each tensor, sharing its memory."""
    return [each.to_local() if isinstance(each, DTensor) else each for each in tensors]


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor without sharding; all processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(network: nn.Module) -> Mapping[str, Tensor]:
    """Return a network's state without sharding, on the CPU; all processes must call this."""
    return {name: whole(each).cpu() for name, each in network.state_dict().items()}


@torch.no_grad()
def load_whole_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `whole_state` returned, sharded or not; all processes must call this."""
    for name, target in network.state_dict().items():
        source = state[name].to(target.device)
        if isinstance(target, DTensor):
            source = distribute_tensor(source, target.device_mesh, target.placements)
        target.copy_(source)
