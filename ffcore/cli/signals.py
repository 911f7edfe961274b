"""Signals that stop long work."""

from __future__ import annotations

import os
import signal
from typing import Any, Self

from rich.console import Console

from ffcore.cli.exit_codes import ExitCode


class Signals:
    """The first signal stops a command after it has saved its work; a second ends it at once.

    SIGINT is Ctrl-C. Schedulers send SIGTERM, and Slurm can send SIGUSR1 ahead of time
    (`--signal=USR1@120`). SIGUSR1 acts like SIGTERM and gives the same exit code.

    Args:
        waits_for: what the command does before it stops; the first signal prints it at once.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, waits_for: str) -> None:
        self.waits_for = waits_for
        self.code = 0
        """The exit code of the signal; 0 if none came."""
        self.before: dict[int, Any] = {}

    def stop(self) -> bool:
        """Return whether a signal came."""
        return self.code != 0

    def __enter__(self) -> Self:
        for number in self.NUMBERS:
            self.before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: object) -> None:
        del frame
        code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
        if self.code:
            # This does not wait for writes: a half-written file or checkpoint does no harm.
            Console(stderr=True).show_cursor()
            os._exit(code)
        self.code = code
        if os.environ.get("RANK", "0") == "0":
            # Not through a stream: the signal may have come while that one was printing.
            text = f"stopping: waiting for {self.waits_for}. A second Ctrl-C stops at once."
            os.write(2, f"\n{text}\n".encode())
