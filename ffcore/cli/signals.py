"""Signals that ask long work to stop."""

from __future__ import annotations

import os
import signal
from typing import Any, Self

from rich.console import Console

from ffcore.cli.exit_codes import ExitCode


class Signals:
    """The first signal asks a command to stop, and to keep what it has; a second ends it at once.

    SIGINT is Ctrl-C, SIGTERM what schedulers send, and SIGUSR1 what Slurm sends ahead of time if it
    is asked to (`--signal=USR1@120`): a request to stop like SIGTERM, and with its exit code.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.code = 0
        """The exit code that the signal means; 0 if none came."""
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
            # Not even for what is being written: half of a file or of a checkpoint does no harm.
            Console(stderr=True).show_cursor()
            os._exit(code)
        self.code = code
