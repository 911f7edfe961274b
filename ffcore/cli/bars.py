"""Progress of long work: bars on a terminal, one plain line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

PLAIN_SECONDS = 10.0
"""Seconds between two lines of progress if the output is no terminal."""


class Bars:
    """One bar for each phase of the work, beside lines of text.

    Args:
        console: to print to; a quiet one shows nothing.
        told: `time.monotonic()` of the last line of progress, which delays the first one.
    """

    def __init__(self, console: Console, told: float = 0.0) -> None:
        self.console = console
        self.told = told
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=14),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[news]}"),
            console=console,
            disable=not console.is_terminal or console.quiet,
        )
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False)

    def advance(self, phase: str, done: int, total: int, news: str) -> None:
        """Show the progress of a phase, with a short text."""
        if self.console.is_terminal:
            if phase not in self.tasks:
                self.tasks[phase] = self.progress.add_task(phase, total=total, news=news)
            self.progress.update(self.tasks[phase], completed=done, total=total, news=news)
            return
        now = time.monotonic()
        if done < total and now - self.told < PLAIN_SECONDS:
            return
        self.told = now
        self.say(f"{phase} {done}/{total} {news}")
