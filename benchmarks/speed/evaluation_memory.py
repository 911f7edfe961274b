"""What `ffd evaluate` takes, by the number of samples: memory, and where its time goes.

    python benchmarks/speed/evaluation_memory.py runs/digits

Each row is a process of its own, on one thread, against the shipped statistics of the digits
teacher. The moments of the Fréchet distance are streamed, so the memory should not grow with the
number of samples. With --keep, also the distances that keep features, against the file of samples
that a first process writes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

REFERENCE = "ffcore_digits:reference.safetensors"
MIB = 1024
"""In the kibibytes that the system counts in."""


@click.command()
@click.argument("run")
@click.option("--number", "-n", "numbers", multiple=True, type=int, default=(5_000, 50_000))
@click.option("--keep", is_flag=True, help="Also with features kept.")
def main(run: str, numbers: tuple[int, ...], keep: bool) -> None:
    """Evaluate RUN with so many samples, and print what it took."""
    print("| samples | metrics | MiB | seconds: samples | features | statistics |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            row(run, "-n", str(number), "-r", REFERENCE, "-m", "fd,classes")
        for number in numbers if keep else ():
            file = Path(folder) / f"{number}.npz"
            command("sample", run, "-n", str(number), "--seed", "1", "-o", str(file))
            row(run, "-n", str(number), "-r", str(file), "-m", "fd,is,kid,pr")


def row(*arguments: str) -> None:
    """Print the row of one evaluation."""
    text, peak = command("evaluate", *arguments, "-f", "digits", "--json")
    found = json.loads(text)
    seconds = " | ".join(f"{each:.1f}" for each in found["seconds"].values())
    number = found["conditions"]["samples"]["number"]
    print(f"| {number} | {arguments[-1]} | {peak / MIB:.0f} | {seconds} |", flush=True)


def command(*arguments: str) -> tuple[str, int]:
    """Run ffd; return what it printed, and the most memory that it held, in KiB."""
    with subprocess.Popen(
        [sys.executable, "-m", "ffcore", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"ffd {' '.join(arguments)} ended with {process.returncode}")
    return text, usage.ru_maxrss


if __name__ == "__main__":
    main()
