"""Unfinished work: a directory beside its future output, locked by one command.

The unfinished work of `NAME` is in `.NAME.partial` with its conditions, so that only the same work
resumes it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

from ffcore.sample.sampler import SampleError
from ffcore.system.files import hold_directory, parse_json, write_text

_CONDITIONS = "conditions.json"
_UNCOMPARED = ("source",)
"""Conditions that may differ in the same work: the name of a source."""


@attrs.frozen
class Partial:
    """The directory of one piece of work."""

    directory: Path

    @staticmethod
    def beside(out: Path) -> Partial:
        """Return that of the output `out`."""
        return Partial(out.with_name(f".{out.name}.partial"))

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Create the directory and lock it against other processes.

        Raises SampleError if another process has locked it, or if it is a link: what is in it would
        be deleted elsewhere.
        """
        if self.directory.is_symlink():
            raise SampleError(
                f"{self.directory} is a link to {self.directory.resolve()}, but ffcore keeps "
                "unfinished work in a folder of its own: remove the link"
            )
        with ExitStack() as stack:
            try:
                stack.enter_context(hold_directory(self.directory))
            except BlockingIOError:
                raise SampleError(f"{self.directory} is in use by another process") from None
            yield

    def conditions(self) -> dict[str, Any] | None:
        """Return the conditions of the work there; None if there is none or it was abandoned."""
        try:
            found = parse_json((self.directory / _CONDITIONS).read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def begin(self, conditions: Mapping[str, Any]) -> None:
        """Empty the directory and write the conditions of new work."""
        self._empty()
        write_text(self.directory / _CONDITIONS, json.dumps(conditions, indent=2) + "\n")

    def remove(self) -> None:
        """Remove the directory; the conditions first, since the rest is void without them."""
        (self.directory / _CONDITIONS).unlink(missing_ok=True)
        self._empty()
        self.directory.rmdir()

    def _empty(self) -> None:
        for path in self.directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the conditions that differ between two pieces of work, one per line."""
    return [
        f"{name}: {there.get(name)} there, {wanted.get(name)} here"
        for name in sorted(there.keys() | wanted.keys())
        if there.get(name) != wanted.get(name) and name not in _UNCOMPARED
    ]
