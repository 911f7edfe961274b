"""Checks of this machine and this installation, by trying each item.

for finding in examine():
    print(finding.topic, finding.name, finding.state, finding.found)

Nothing is trained, downloaded or left behind. `essential` marks what every run needs.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import attrs
import torch
from torch import Tensor, distributed
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from ffcore.flow.backend import Backend
from ffcore.flow.derivative import Derivative
from ffcore.plugins import Plugin, installed
from ffcore.plugins.errors import root_cause

State = Literal["works", "absent", "fails"]


@attrs.frozen(kw_only=True)
class Finding:
    """One examined item."""

    name: str
    state: State
    found: str
    topic: str = ""
    """Its topic, which `examine` adds."""
    advice: str = ""
    """What to do if it does not work."""
    essential: bool = False
    """Whether every run needs it."""

    @property
    def fails(self) -> bool:
        """Whether ffcore cannot run here because of it."""
        return self.essential and self.state != "works"


Findings = Iterator[Finding]

LIBRARIES = {
    "diffusers": ("diffusers", "latents to images: decoder sd-vae", "'ffcore[vae]'"),
    "huggingface_hub": ("huggingface_hub", "files named hf://…", "'ffcore[hub]'"),
    "tensorboard": ("tensorboard", "tracker tensorboard", "'ffcore[tracking]'"),
    "wandb": ("wandb", "tracker wandb", "'ffcore[tracking]'"),
    "scikit-learn": ("sklearn", "digits as data", "'ffcore[digits]'"),
    "hypothesis": ("hypothesis", "strategies for plugins' tests", "'ffcore[testing]'"),
    "jaxtyping": ("jaxtyping", "shapes, checked in plugins' tests", "'ffcore[testing]'"),
    "jvp-flash-attention": ("jvp_flash_attention", "forward mode, for networks of your own", ""),
}
"""By distribution: the module to import, its purpose, and the extra that installs it."""

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
LEAST_SPACE = 1e9
"""Bytes on the disk below which a run is likely to fill it."""


def examine(*, thorough: bool = False) -> Findings:
    """Examine everything, in the order of a report; `thorough` compiles, which takes a minute."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    probes: dict[str, Callable[[], Findings]] = {
        "versions": _versions,
        "devices": _devices,
        "precision": lambda: _precision(device),
        "plugins": _plugins,
        "libraries": _libraries,
        "attention": lambda: _attention(device),
        "derivative": lambda: _derivatives(device),
        "compile": lambda: _compilation(device, thorough),
        "processes": _processes,
        "files": _files,
    }
    for topic, probe in probes.items():
        try:
            with warnings.catch_warnings(action="ignore"):
                found = list(probe())
        except Exception as error:  # noqa: BLE001 - any error of a probe is a finding
            found = [Finding(name="all", state="fails", found=root_cause(error), essential=True)]
        yield from (attrs.evolve(each, topic=topic) for each in found)


def _versions() -> Findings:
    cuda = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    rows = {
        "ffcore": version("ffcore"),
        "Python": platform.python_version(),
        "torch": f"{torch.__version__}, {cuda}",
        "platform": platform.platform(),
    }
    for name, found in rows.items():
        yield Finding(name=name, state="works", found=found)


def _devices() -> Findings:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{os.cpu_count()} cores, {_size(total)}; threads of torch: {torch.get_num_threads()}"
    yield Finding(name="cpu", state="works", found=found)
    if not torch.cuda.is_available():
        built = "torch sees no GPU" if torch.version.cuda else "this torch is built without CUDA"
        yield Finding(name="cuda", state="absent", found=built)
    for index in range(torch.cuda.device_count()):
        yield _cuda(index)


def _cuda(index: int) -> Finding:
    """Compute something; a run that names no device takes the first GPU."""
    try:
        torch.ones(8, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:
        return Finding(
            name=f"cuda:{index}",
            state="fails",
            found=root_cause(error),
            advice="leave it out by CUDA_VISIBLE_DEVICES",
            essential=index == 0,
        )
    return Finding(name=f"cuda:{index}", state="works", found=_gpu(index))


def _gpu(index: int) -> str:
    about = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    capability = f"capability {about.major}.{about.minor}"
    return f"{about.name}, {_size(free)} free of {_size(total)}, {capability}"


def _precision(device: str) -> Findings:
    if device == "cuda":
        capable = torch.cuda.get_device_capability() >= (8, 0)
        found = f"float32_matmul_precision is {torch.get_float32_matmul_precision()!r}"
        state: State = "works" if capable else "absent"
        yield Finding(name="TF32", state=state, found=found)
    weights = torch.ones(16, 16, device=device)
    with torch.autocast(device, torch.bfloat16):
        computed = weights @ weights
    native = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    slow = "" if native else "; slower than float32 here"
    yield Finding( name="bfloat16", state="works", found=f"{computed.dtype} by autocast{slow}"
    )  # fmt: skip


def _plugins() -> Findings:
    plugins = installed().plugins
    counts = Counter(plugin.state for plugin in plugins)
    own = [each for each in plugins if each.distribution == "ffcore"]
    lacking = [each.name for each in own if each.state in ("broken", "incompatible")]
    yield Finding(
        name="all",
        state="works" if own and not lacking else "fails",
        found=", ".join(f"{count} {state}" for state, count in counts.items()) or "none",
        advice="" if own and not lacking else "ffcore's own plugins are damaged: reinstall ffcore",
        essential=True,
    )
    for plugin in plugins:
        if plugin.state not in ("active", "disabled"):
            yield _inactive(plugin)


def _inactive(plugin: Plugin) -> Finding:
    return Finding(
        name=plugin.name,
        state="fails",
        found=f"{plugin.state}: {plugin.cause}",
        advice=f"from {plugin.origin}; recipes that do not use it still work",
    )


def _libraries() -> Findings:
    for distribution, (module, purpose, extra) in LIBRARIES.items():
        there = importlib.util.find_spec(module) is not None
        yield Finding(
            name=distribution,
            state="works" if there else "absent",
            found=f"{_version(distribution)}, {purpose}" if there else purpose,
            advice="" if there else f"pip install {extra or distribution}",
        )


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown version"


def _attention(device: str) -> Findings:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    query = torch.ones(1, 2, 64, 64, device=device, dtype=dtype)
    for name, kernel in KERNELS.items():
        done = [what for what, way in WAYS.items() if _runs(kernel, way, query)]
        yield Finding(
            name=name,
            state="works" if "forward" in done else "absent",
            found=", ".join(done)
            or f"not available for {str(dtype).removeprefix('torch.')} on {device}",
            essential=kernel is SDPBackend.MATH,
        )


def _attend(query: Tensor) -> Tensor:
    return scaled_dot_product_attention(query, query, query)


def _backward(query: Tensor) -> None:
    _attend(query.clone().requires_grad_()).sum().backward()


WAYS: dict[str, Callable[[Tensor], object]] = {
    "forward": _attend,
    "backward": _backward,
    "forward mode": lambda query: torch.func.jvp(_attend, (query,), (query,)),
}


def _runs(kernel: SDPBackend, way: Callable[[Tensor], object], query: Tensor) -> bool:
    try:
        with sdpa_kernel(kernel):
            way(query)
    except (RuntimeError, NotImplementedError):
        return False
    return True


def _derivatives(device: str) -> Findings:
    """Differentiate sin 3δ by every backend; the exact derivative is 3 cos 3δ."""
    delta = torch.linspace(0.1, 0.9, 5, device=device)
    ways: dict[str, Backend] = {
        "dual numbers": "dual",
        "jvp": "jvp",
        "finite differences": "finite-difference",
    }
    for name, backend in ways.items():
        found = Derivative(backend=backend)(
            lambda d: torch.sin(3 * d),
            (delta,),
            (torch.ones_like(delta),),
            value=torch.sin(3 * delta),
            room=(delta, 1 - delta),
        )
        error = float((found - 3 * torch.cos(3 * delta)).abs().max())
        yield Finding(
            name=name,
            state="works" if error < 0.01 else "fails",
            found=f"relative error {error / 3:.0e} in the derivative of a sine",
            essential=True,
        )


def _compilation(device: str, thorough: bool) -> Findings:
    if device == "cuda":
        there = importlib.util.find_spec("triton") is not None
        yield Finding(
            name="triton",
            state="works" if there else "absent",
            found=f"version {_version('triton')}" if there else "not installed",
            advice="" if there else "torch.compile needs it on a GPU: pip install triton",
        )
    trouble = _compiler_trouble()
    yield Finding(
        name="C++ compiler",
        state="fails" if trouble else "works",
        found=trouble or f"{_compiler()} builds with OpenMP and Python's headers",
        advice="torch.compile needs g++ (or the compiler in CXX) and Python's headers"
        if trouble
        else "",
    )
    if thorough:
        compiled = torch.compile(lambda x: 2 * torch.sin(x) + 1)
        x = torch.ones(8, device=device)
        off = float((compiled(x) - (2 * torch.sin(x) + 1)).abs().max())
        yield Finding(
            name="torch.compile",
            state="works" if off < 1e-5 else "fails",
            found=f"compiled a function; error {off:.0e}",
        )


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


def _compiler_trouble() -> str:
    """Return the problem with the compiler of torch.compile, or ""."""
    if shutil.which(_compiler()) is None:
        return f"{_compiler()} is not installed"
    include = f"-I{sysconfig.get_path('include')}"
    done = subprocess.run(
        [_compiler(), "-x", "c++", "-fsyntax-only", "-fopenmp", include, "-"],
        input="#include <cmath>\n#include <omp.h>\n#include <Python.h>\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return "" if done.returncode == 0 else done.stderr.strip().splitlines()[0]


def _processes() -> Findings:
    if not distributed.is_available():
        found = "this torch is built without torch.distributed"
        yield Finding(name="distributed", state="absent", found=found)
        return
    for name, device, there in (
        ("gloo", "cpu", distributed.is_gloo_available()),
        ("nccl", "cuda", distributed.is_nccl_available() and torch.cuda.is_available()),
    ):
        if there:
            yield _reduction(name, device)
        else:
            found = f"this torch lacks it, or there is no {device}"
            yield Finding(name=name, state="absent", found=found)


def _reduction(backend: str, device: str) -> Finding:
    """Sum over a group of one process, as DDP and FSDP do over several."""
    if distributed.is_initialized():
        found = f"in use: {distributed.get_world_size()} processes"
        return Finding(name=backend, state="works", found=found)
    try:
        store = distributed.HashStore()  # type: ignore[attr-defined] # public, in torch's manual
        distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        distributed.all_reduce(torch.ones(1, device=device))
    except RuntimeError as error:
        return Finding(name=backend, state="fails", found=root_cause(error))
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return Finding(name=backend, state="works", found="sums over one process")


def _files() -> Findings:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    yield Finding(
        name="disk space",
        state="works" if free > LEAST_SPACE else "fails",
        found=f"{_size(free)} free here",
        advice="" if free > LEAST_SPACE else "a run stores its checkpoints here: free some space",
    )
    trouble = _writing_trouble(here)
    yield Finding(
        name="this directory",
        state="fails" if trouble else "works",
        found=trouble or "can be written to and locked",
        advice="run elsewhere, or set ffd run --directory" if trouble else "",
        essential=True,
    )
    yield _hub()


def _writing_trouble(directory: Path) -> str:
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix=".ffd-doctor-") as made:
            (Path(made) / "file").write_text("text")
            held = os.open(made, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                os.close(held)
    except OSError as error:
        return f"{error.strerror or error}"
    return ""


def _hub() -> Finding:
    if importlib.util.find_spec("huggingface_hub") is None:
        return Finding(name="hub", state="absent", found="not installed")
    from huggingface_hub import constants

    offline = "offline by HF_HUB_OFFLINE; " if constants.HF_HUB_OFFLINE else ""
    found = f"{offline}cache {constants.HF_HUB_CACHE}"
    return Finding(name="hub", state="works", found=found)


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
