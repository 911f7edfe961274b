"""A tracker that keeps a diary, and one that fails at a call."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ffcore.interfaces import Context, Tracker
from ffcore.keys import key


class Diary(Tracker):
    """One line of JSON for whatever it is told."""

    def open(self, folder: Path, run: str, recipe: Mapping[str, Any], step: int) -> None:
        self.path = folder / "diary.jsonl"
        self.write({"open": run, "step": step, "recipe": recipe})

    def track(self, step: int, numbers: Mapping[str, float]) -> None:
        self.write({"track": step, "numbers": numbers})

    def show(self, step: int, name: str, picture: Path) -> None:
        self.write({"show": name, "step": step, "bytes": picture.stat().st_size})

    def close(self, *, finished: bool) -> None:
        self.write({"close": finished})

    def write(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


class Failing(Diary):
    """Writes its diary, but for what it fails at: as a full disk would have it."""

    def __init__(self, at: str) -> None:
        self.at = at

    def write(self, line: Mapping[str, Any]) -> None:
        if self.at in line:
            raise OSError(28, "No space left on device")
        super().write(line)


@attrs.frozen(kw_only=True)
class DiaryTable:
    """A diary."""

    def build(self, context: Context) -> Tracker:
        del context
        return Diary()


@attrs.frozen(kw_only=True)
class FailingTable:
    """A diary that cannot be kept."""

    at: str = key("track", help="the call that fails")

    def build(self, context: Context) -> Tracker:
        del context
        return Failing(self.at)
