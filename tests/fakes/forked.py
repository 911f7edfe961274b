"""Programs in processes of their own, forked from one that has imported what they import."""

import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch.multiprocessing

from ffcore.cli import main

# It has done nothing else than to import.
multiprocessing.set_forkserver_preload(
    [
        "ffcore.cli",
        "ffcore.run.stages",
        "ffcore.evaluate",
        "matplotlib.figure",
        "torch._dynamo",
        "torch.distributed.fsdp",
    ]
)


def apart(work: Callable[..., None], *arguments: object, ranks: int = 2) -> None:
    """Run `work(rank, *arguments)` in processes such as torchrun starts; one is started plainly."""
    environment = dict(os.environ)
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            environment["MASTER_PORT"] = str(free.getsockname()[1])
        environment |= {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(ranks)}
    torch.multiprocessing.start_processes(
        _together, (environment, work, arguments), nprocs=ranks, start_method="forkserver"
    )


def _together(
    rank: int, environment: dict[str, str], work: Callable[..., None], arguments: Sequence[Any]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if "WORLD_SIZE" in environment:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    work(rank, *arguments)


@attrs.frozen
class Ended:
    """What a command has written, and the exit code of each of its processes."""

    codes: list[int]
    stdout: str
    stderr: str


def ffd(
    *arguments: str,
    ranks: int = 1,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    path: Path | None = None,
) -> Ended:
    """Run `ffd` as a program, in several processes as under torchrun if there are more ranks.

    Args:
        arguments: of the command.
        ranks: how many processes.
        folder: the one that it is called in; by default this process's.
        environment: variables beside this process's.
        path: where modules are looked for first.
    """
    with tempfile.TemporaryDirectory() as name:
        kept = Path(name)
        apart(_command, kept, arguments, folder, environment or {}, path, ranks=ranks)
        stdout, stderr, codes = (
            [(kept / f"{kind}-{rank}").read_text() for rank in range(ranks)]
            for kind in ("stdout", "stderr", "code")
        )
    return Ended([int(each) for each in codes], "".join(stdout), "".join(stderr))


def _command(
    rank: int,
    kept: Path,
    arguments: Sequence[str],
    folder: Path | None,
    environment: Mapping[str, str],
    path: Path | None,
) -> None:
    os.environ.update(environment)
    if folder is not None:
        os.chdir(folder)
    if path is not None:
        sys.path.insert(0, str(path))
    for number, name in ((1, "stdout"), (2, "stderr")):
        with (kept / f"{name}-{rank}").open("w") as file:
            os.dup2(file.fileno(), number)
    try:
        main(arguments, prog_name="ffd")
    except SystemExit as end:
        sys.stdout.flush()
        (kept / f"code-{rank}").write_text(str(int(end.code or 0)))
