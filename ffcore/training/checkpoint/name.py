"""The names of a checkpoint: half-written, whole, half-removed or damaged."""

from __future__ import annotations

import re
from pathlib import Path

_WHOLE = re.compile(r"step-(\d{8,})")
_REMAINS = re.compile(r"\.step-\d{8,}\.(partial|removed)")
_DAMAGED = re.compile(r"step-\d{8,}\.damaged")


def directory_name(step: int) -> str:
    """Return the name of the checkpoint of a step; names sort as steps do."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int | None:
    """Return the step in the name of a whole checkpoint; None for any other name."""
    found = _WHOLE.fullmatch(path.name)
    return int(found[1]) if found else None


def partial(path: Path) -> Path:
    """Return the name of a checkpoint until it is whole."""
    return path.with_name(f".{path.name}.partial")


def removal_name(path: Path) -> Path:
    """Return the name of a checkpoint while it is being removed."""
    return path.with_name(f".{path.name}.removed")


def damaged_name(path: Path) -> Path:
    """Return the name of a damaged checkpoint."""
    return path.with_name(f"{path.name}.damaged")


def is_remains(path: Path) -> bool:
    """Whether a killed process left this half-written or half-removed."""
    return _REMAINS.fullmatch(path.name) is not None


def foreign(directory: Path) -> list[str]:
    """Return the names in the checkpoints' directory that are not names of checkpoints."""
    known = (_WHOLE, _REMAINS, _DAMAGED)
    return sorted(
        path.name
        for path in directory.iterdir()
        if not any(each.fullmatch(path.name) for each in known)
    )
