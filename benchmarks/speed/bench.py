"""The benchmarks of speed on this machine's CPU, one after the other, into one file of tables.

    python benchmarks/speed/bench.py [runs/bench.md]

What a row needs and the machine has not, somebody else's code or a GPU, is left out, and that is
said. The file is written at the end, whole or not at all. Beside each ratio stand its quartiles;
what other work on the machine has made too noisy to quote is marked (ratio.py): measure it again.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from timing import machine

from ffcore.system.files import write_text

HERE = Path(__file__).parent
COMMANDS = (
    "start.py --rounds 5",
    "step.py --case digits --rounds 41 --threads 1 --derivative finite-difference",
    "step.py --case digits --rounds 41 --threads 1",
    "step.py --case S/2@128 --rounds 7 --set training.batch=16",
    "derivative.py --case digits --case S/2@128 --rounds 5",
    "meanflow.py --rounds 5",
    "sampling.py",
    "growth.py --rounds 5",
)


def told(*command: str) -> str:
    """Run a command, hand on what it prints line by line, and return it all.

    Raises CalledProcessError where it fails.
    """
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return "".join(lines)


def main(out: Path) -> None:
    """Measure everything, and write the file."""
    begun = time.perf_counter()
    parts = [f"{machine()}\n"]
    for number, command in enumerate(COMMANDS, 1):
        print(f"\n[{number}/{len(COMMANDS)}] benchmarks/speed/{command}\n", flush=True)
        script, *options = command.split()
        tables = told(sys.executable, str(HERE / script), *options)
        parts.append(f"    python benchmarks/speed/{command}\n\n{tables}")
    minutes = (time.perf_counter() - begun) / 60
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, "\n".join(parts))
    print(f"\n{minutes:.1f} minutes; all tables are in {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/bench.md"))
