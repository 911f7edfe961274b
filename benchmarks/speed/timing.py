"""What the benchmarks of speed share: taking turns, and the memory of a backward."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ffcore.draws import Draws
from ffcore.evaluate.metrics import declare_torchvision_operators


def seconds(work: Callable[[], object], device: str = "cpu") -> float:
    """Return how long `work` takes, until the device has done it."""
    _wait(device)
    begun = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    cases: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu", *, warm: int = 1
) -> dict[str, list[float]]:
    """Return the seconds of each case by round; they take turns, so that noise meets all alike.

    The first `warm` rounds do not count.
    """
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(warm + rounds):
        for name, work in cases.items():
            taken[name].append(seconds(work, device))
    return {name: each[warm:] for name, each in taken.items()}


def own_process(*command: str) -> float:
    """Return the number that a script of ours prints, in a process of its own."""
    run = subprocess.run((sys.executable, *command), capture_output=True, text=True, check=True)
    return float(run.stdout)


def apart(found: Iterable[Tensor | None], wanted: Iterable[Tensor | None]) -> float:
    """Return ‖found − wanted‖ / ‖wanted‖ of all tensors together.

    Where one is missing, as the gradient of what is not trained, so must be the other.
    """
    pairs = []
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            pairs.append((one, other))
    off, whole = (
        torch.stack([each.norm() for each in these]).norm()
        for these in ([a - b for a, b in pairs], [b for _, b in pairs])
    )
    return float(off / whole)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module) -> None:
    """Move an average towards a network, one tensor at a time, as it is commonly written."""
    for kept, new in zip(average.parameters(), network.parameters(), strict=True):
        kept.mul_(0.9999).add_(new, alpha=1 - 0.9999)


class Saved:
    """The bytes that are kept for backward passes: now, and at most.

    A storage counts once, from when it is first kept until the last graph that keeps it is gone.
    The parameters and buffers of `networks` do not count.
    """

    def __init__(self, *networks: nn.Module) -> None:
        tensors = [each for one in networks for each in (*one.parameters(), *one.buffers())]
        self.own = {each.untyped_storage().data_ptr() for each in tensors}
        self.holders: dict[int, int] = {}
        self.now = self.most = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count what is kept meanwhile."""
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: _Kept(self, tensor), lambda kept: kept.tensor
        ):
            yield

    def keep(self, place: int, size: int) -> None:
        """Count a storage, unless it is kept already."""
        self.holders[place] = self.holders.get(place, 0) + 1
        if self.holders[place] == 1:
            self.now += size
            self.most = max(self.most, self.now)

    def drop(self, place: int, size: int) -> None:
        """Leave one that keeps a storage out."""
        self.holders[place] -= 1
        if not self.holders[place]:
            self.now -= size


class _Kept:
    """A tensor that a graph keeps."""

    def __init__(self, saved: Saved, tensor: Tensor) -> None:
        self.tensor, self.saved = tensor, None
        found = _storage(tensor)
        if found is None:
            return
        self.place, self.size = found
        self.saved = None if self.place in saved.own else saved
        if self.saved is not None:
            self.saved.keep(self.place, self.size)

    def __del__(self) -> None:
        if self.saved is not None:
            self.saved.drop(self.place, self.size)


def _storage(tensor: Tensor) -> tuple[int, int] | None:
    """Return where a tensor's memory is, and its bytes; None where it has none."""
    functorch: Any = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):  # within torch.func.jvp
        tensor = functorch.get_unwrapped(tensor)
    if tensor._is_zerotensor():  # the tangent of a weight
        return None
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


class Peak(TorchDispatchMode):
    """The most bytes that tensors made meanwhile take at once, in passes without gradient.

    What a kernel takes for itself does not count.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.saved = Saved()

    @property
    def most(self) -> int:
        """In bytes."""
        return self.saved.most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, and count what it returns for as long as it is there."""
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else (found,):
            place = _storage(each) if isinstance(each, Tensor) else None
            if place is not None:
                self.saved.keep(*place)
                weakref.finalize(each, self.saved.drop, *place)
        return found


@torch.no_grad()
def wake(*networks: nn.Module, spread: float = 0.1) -> None:
    """Give numbers to what starts at zero, so that a new network answers with something."""
    for index, parameter in enumerate(each for one in networks for each in one.parameters()):
        if not parameter.any():
            noise = Draws(0, 0, 0, 1).named("wake", index).normal("weight", tuple(parameter.shape))
            parameter.add_(spread * noise[0].to(parameter))


def outside(variable: str, file: str, name: str) -> ModuleType | str:
    """Import a file of somebody else's code from the folder that an environment variable names.

    Returns why not, where it cannot be had: the row is left out then, and that is said.
    """
    folder = os.environ.get(variable)
    if not folder:
        return f"{variable} names no folder with {file}"
    path = Path(folder) / file
    if not path.is_file():
        return f"{path}, of {variable}, is not there"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    for attempt in range(2):
        try:
            spec.loader.exec_module(module)
            return module
        except (ImportError, RuntimeError) as error:
            if attempt or "torchvision::nms" not in str(error):
                return f"{path} cannot be imported: {error}"
            declare_torchvision_operators()
            for each in [each for each in sys.modules if each.split(".")[0] == "timm"]:
                del sys.modules[each]
    raise AssertionError


def table(*columns: str) -> Callable[..., None]:
    """Print the head of a table in Markdown; return what prints a row."""

    def row(*cells: Any) -> None:
        print(f"| {' | '.join(map(str, cells))} |", flush=True)

    row(*columns)
    row(*("---" for _ in columns))
    return row


def machine(device: str = "cpu") -> str:
    """Say where this is measured."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{torch.get_num_threads()} CPU threads, torch {torch.__version__}"
