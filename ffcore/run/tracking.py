"""A run's trackers: they receive its metrics and pictures, and cannot end it.

with Tracking(folder, "digits", recipe, print) as tracking:
    tracking.add([("tensorboard", tracker)])
    tracking.begin(0)
    tracking.track(50, {"loss": 0.3})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from ffcore.interfaces import Tracker
from ffcore.plugins.place import describe_error


class Tracking(AbstractContextManager["Tracking"]):
    """Passes metrics and pictures to trackers; drops one that fails, with one warning.

    Only the leading process has trackers.

    Args:
        folder: for their files; created if there is a tracker.
        run: the name of the run.
        recipe: resolved, as TOML would hold it.
        say: takes a warning.
    """

    def __init__(
        self, folder: Path, run: str, recipe: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        self.waiting: list[tuple[str, Tracker]] = []
        """Trackers not yet opened."""
        self.active: list[tuple[str, Tracker]] = []
        self.folder, self.run, self.recipe, self.say = folder, run, recipe, say

    def add(self, trackers: Iterable[tuple[str, Tracker]]) -> None:
        """Add trackers, each with its name for warnings."""
        self.waiting.extend(trackers)

    def begin(self, step: int) -> None:
        """Open the trackers of a run after `step` steps."""
        self.active, self.waiting = self.waiting, []

        def open_tracker(tracker: Tracker) -> None:
            self.folder.mkdir(exist_ok=True)
            tracker.open(self.folder, self.run, self.recipe, step)

        self._call(open_tracker)

    def track(self, step: int, numbers: Mapping[str, float]) -> None:
        """Pass on the numbers measured after `step` steps."""
        self._call(lambda tracker: tracker.track(step, numbers))

    def show(self, step: int, name: str, picture: Path) -> None:
        """Pass on a picture."""
        self._call(lambda tracker: tracker.show(step, name, picture))

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        closing, self.active = self.active, []
        for name, tracker in closing:
            try:
                tracker.close(finished=kind is None)
            except Exception as failure:  # noqa: BLE001 - a stranger's tracker may raise anything
                self._warn(name, "may have lost the last numbers", failure)

    def _call(self, news: Callable[[Tracker], None]) -> None:
        kept = []
        for name, tracker in self.active:
            try:
                news(tracker)
            except Exception as failure:  # noqa: BLE001 - a stranger's tracker may raise anything
                self._warn(name, "is no longer used", failure)
                with suppress(Exception):
                    tracker.close(finished=False)
            else:
                kept.append((name, tracker))
        self.active = kept

    def _warn(self, name: str, outcome: str, failure: Exception) -> None:
        self.say(f"tracker {name!r} failed and {outcome}: {describe_error(failure)}")
        self.say("The run continues without it; metrics.jsonl holds every number.")
