"""How long a command takes to begin: process time over that of `python -c pass`.

    python benchmarks/speed/start.py [--rounds 9]

User and system time of a process of its own, the least of so many; commands take turns.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import click
from timing import table

RECIPES = Path(__file__).parents[2] / "recipes"
FFD = (sys.executable, "-m", "ffcore")


def cpu(command: tuple[str, ...]) -> float:
    """Return the process time of a command in seconds; raises CalledProcessError where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def imports_torch(command: tuple[str, ...]) -> bool:
    """Return whether a command of ours imports torch."""
    told = subprocess.run(
        (sys.executable, "-X", "importtime", *command[1:]), capture_output=True, text=True
    )
    return any(line.rsplit("|")[-1].strip() == "torch" for line in told.stderr.splitlines())


@click.command()
@click.option("--rounds", default=9, show_default=True)
def main(rounds: int) -> None:
    """Measure, and print a table."""
    recipes = sorted(each.name for each in RECIPES.glob("*.toml"))
    commands = {
        "ffd --help": (*FFD, "--help"),
        "ffd list-plugins": (*FFD, "list-plugins"),
        **{f"ffd validate {name}": (*FFD, "validate", name) for name in recipes},
    }
    nothing = (sys.executable, "-c", "pass")
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, command in {"": nothing, **commands}.items():
            taken.setdefault(name, []).append(cpu(command))
    least = {name: min(each) for name, each in taken.items()}
    print(f"# Start: process time, over the {least['']:.3f} s of python -c pass\n")
    row = table("", "s", "imports torch")
    for name, command in commands.items():
        torch = "yes" if imports_torch(command) else "no"
        row(name, f"{least[name] - least['']:.3f}", torch)


if __name__ == "__main__":
    main()
