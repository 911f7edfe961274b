"""Kill a run again and again, and see whether it ends where it would have ended.

    python benchmarks/faults/kill.py    # the digits run, killed 100 times: 15 minutes
    python benchmarks/faults/kill.py --recipe gaussian.toml --kills 5

One run is left alone. Another is killed with SIGKILL and started again, until it has been killed
so often, and then left to end. A third of the kills come at a random moment of a life; a third as
soon as a checkpoint is seen to be written or removed; a third at one of the system calls by which a
checkpoint is synced, renamed or removed. A life that none of these has ended dies at its own hand
after SPAN steps, so that the run never ends before its time, however fast the machine is. Both runs
must end in the same student, average, networks and moments, bit for bit, and in the same metrics.
Exits with 1 where they do not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
import torch._dynamo  # every optimizer imports it; so no life has to
from safetensors.torch import load_file
from torch import Tensor

from ffcore.recipe import Recipe, load_recipe
from ffcore.run.stages import run
from ffcore.training.loop import Report

EVERY = 2
"""Steps between two checkpoints, and between two lines of metrics."""
SPAN = 4
"""Steps that a life makes at most; so many does a run have for each time that it is killed."""
CALLS = {"fsync": (os, "fsync", 8), "rename": (Path, "rename", 2), "unlink": (os, "unlink", 6)}
"""Where a checkpoint's protocol can be cut: the call, and how often it comes in two checkpoints."""


def short(name: str, kills: int) -> Recipe:
    """Return a recipe that is cut to as many steps as there are kills to survive."""
    overrides = [
        f"training.steps={SPAN * kills + 10}",
        "training.batch=32",
        f"training.log_every={EVERY}",
        f"training.checkpoint_every={EVERY}",
        "training.threads=1",
        "evaluation.enabled=false",
    ]
    return load_recipe(name, overrides)


class Mortal:
    """An observer that kills its own process once a life has made SPAN steps."""

    def __init__(self) -> None:
        self.last: int | None = None

    def say(self, text: str) -> None:
        """Do nothing."""

    def report(self, report: Report) -> None:
        """Count the steps from the first report on, which comes EVERY steps after the start."""
        if self.last is None:
            self.last = report.step - EVERY + SPAN
        if report.step >= self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def progress(self, what: str, done: int, total: int) -> None:
        """Do nothing."""


def life(work: Callable[[], object], aim: Callable[[int], object]) -> bool:
    """Do `work` in a process of its own, at which `aim` shoots; return whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    aim(child)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a life ended by itself, and in an error")
    return os.WIFSIGNALED(status)


def shoot(child: int) -> None:
    """Kill a process that may have ended."""
    if _lives(child):
        os.kill(child, signal.SIGKILL)


def at_a_moment(seconds: float) -> Callable[[int], None]:
    """Shoot after so long."""

    def aim(child: int) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and _lives(child):
            time.sleep(0.002)
        shoot(child)

    return aim


def when_there_is(directory: Path, ending: str, seconds: float) -> Callable[[int], None]:
    """Shoot so long after a name of this ending is seen."""

    def aim(child: int) -> None:
        while _lives(child):
            if any(each.endswith(ending) for each in names(directory)):
                time.sleep(seconds)
                shoot(child)
                return

    return aim


def names(directory: Path) -> list[str]:
    """Return what is in a directory, if it is there."""
    return [each.name for each in directory.iterdir()] if directory.is_dir() else []


def newest(directory: Path) -> int:
    """Return the step of the newest checkpoint, 0 where there is none."""
    return max((int(each[5:]) for each in names(directory) if each.startswith("step-")), default=0)


@attrs.frozen
class Pace:
    """How long a life takes to its first checkpoint, and from one to the next, in seconds."""

    start: float
    interval: float

    @staticmethod
    def of(work: Callable[[], object], directory: Path) -> Pace:
        """Let a life go by, and watch; where too little was seen, guess: the pace only aims."""
        seen: list[float] = []
        begun, before = time.monotonic(), 0

        def watch(child: int) -> None:
            nonlocal before
            while _lives(child):
                if (step := newest(directory)) > before:
                    seen.append(time.monotonic() - begun)
                    before = step
                time.sleep(0.002)

        life(work, watch)
        if len(seen) < 2:
            return Pace(time.monotonic() - begun, 0.1)
        return Pace(seen[0], (seen[-1] - seen[0]) / (len(seen) - 1))


def _lives(child: int) -> bool:
    """Whether a child has not ended, which leaves it to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def kill_at_call(name: str, count: int) -> None:
    """Let this process kill itself instead of making a call the `count`-th time."""
    owner, attribute, _ = CALLS[name]
    plain, made = getattr(owner, attribute), 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal made
        made += 1
        if made == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments, **options)

    setattr(owner, attribute, counted)


def survive(
    recipe: Recipe, directory: Path, pace: Pace, kills: int, chance: random.Random
) -> Counter[str]:
    """Run a recipe to its end through so many kills; return what they hit."""
    checkpoints = directory / "checkpoints"
    hit: Counter[str] = Counter()
    while hit["kills"] < kills:
        aim, work = _plan(recipe, directory, pace, chance, hit["kills"] % 3)
        assert life(work, aim), "a life has outlived its span"
        hit["kills"] += 1
        left = names(checkpoints)
        hit["half-written"] += any(each.endswith(".partial") for each in left)
        hit["half-removed"] += any(each.endswith(".removed") for each in left)
        if sys.stdout.isatty():
            print(f"\r{hit['kills']} kills, step {newest(checkpoints)} ", end="", flush=True)
    print()
    life(lambda: run(recipe, directory), lambda child: None)
    return hit


def _plan(
    recipe: Recipe, directory: Path, pace: Pace, chance: random.Random, kind: int
) -> tuple[Callable[[int], object], Callable[[], object]]:
    """Return how the next life is shot at, and what it does."""

    def train() -> object:
        return run(recipe, directory, observer=Mortal())

    if kind == 0:
        return at_a_moment(chance.uniform(0, pace.start + 4 * pace.interval)), train
    if kind == 1:
        ending = chance.choice([".partial", ".removed"])
        delay = chance.uniform(0, 0.02 if ending == ".partial" else 0.001)
        return when_there_is(directory / "checkpoints", ending, delay), train
    name = chance.choice(list(CALLS))
    count = chance.randint(1, CALLS[name][2])

    def cut() -> object:
        kill_at_call(name, count)
        return train()

    return lambda child: None, cut


def final(directory: Path) -> dict[str, Tensor]:
    """Return every tensor that a run ended with."""
    newest = max((directory / "checkpoints").glob("step-*"))
    files = [*newest.glob("*.safetensors"), directory / "student.safetensors"]
    return {f"{file.name}/{name}": each for file in files for name, each in load_file(file).items()}


def metrics(directory: Path) -> list[dict[str, float]]:
    """Return the lines of a run's metrics, without its speed, its memory and its times."""
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    others = ("_per_second", "seconds_left", "memory_peak")
    return [
        {k: v for k, v in each.items() if not k.endswith(others) and not k.startswith("seconds/")}
        for each in lines
    ]


def main() -> None:
    """Do what the module says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="digits.toml")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = short(arguments.recipe, arguments.kills)
    folder = Path(tempfile.mkdtemp(prefix="kill-"))
    pace = Pace.of(lambda: run(recipe, folder / "whole"), folder / "whole" / "checkpoints")
    hit = survive(recipe, folder / "parts", pace, arguments.kills, random.Random(arguments.seed))
    whole, parts = final(folder / "whole"), final(folder / "parts")
    same = whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)
    same_metrics = metrics(folder / "whole") == metrics(folder / "parts")
    print(
        f"{arguments.recipe}, {recipe.training.steps} steps: {hit['kills']} kills, "
        f"{hit['half-written']} left a half-written checkpoint, {hit['half-removed']} a "
        f"half-removed one; {len(whole)} tensors {'equal' if same else 'DIFFER'}, "
        f"metrics {'equal' if same_metrics else 'DIFFER'}"
    )
    if not (same and same_metrics):
        raise SystemExit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
