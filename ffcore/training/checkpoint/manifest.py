"""The manifest of a checkpoint: its contents, with digests to check them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import attrs

from ffcore.system.files import file_digest, parse_json
from ffcore.training.checkpoint.name import directory_name

MANIFEST = "manifest.json"
FORMAT = 1


class CheckpointError(Exception):
    """This run cannot resume from its checkpoints. The message is for the user."""


class Damaged(Exception):
    """A checkpoint differs from what was written. The message says how."""


@attrs.frozen(kw_only=True)
class Manifest:
    """The description of a checkpoint."""

    step: int
    """Number of steps made."""
    run: dict[str, str]
    """What the training depends on, by name: digests of the recipe, the teacher, …"""
    ranks: int
    """Number of processes that wrote it. Any number may read it."""
    files: dict[str, dict[str, Any]]
    """The `bytes` and the `sha256` of each file, by name."""

    def to_json(self) -> str:
        """Return the manifest's text, which ends with its own digest."""
        fields = {"format": FORMAT, **attrs.asdict(self)}
        return json.dumps({**fields, "sha256": _digest(fields)}, indent=2) + "\n"

    @staticmethod
    def read(directory: Path) -> Manifest:
        """Read the manifest of a checkpoint and compare every file with it.

        Raises Damaged if anything differs, CheckpointError if a newer ffcore wrote it.
        """
        manifest = _parse(directory)
        present = {path.name for path in directory.iterdir()} - {MANIFEST}
        if missing := sorted(manifest.files.keys() - present):
            raise Damaged(f"{', '.join(missing)} is missing")
        if unknown := sorted(present - manifest.files.keys()):
            raise Damaged(f"{', '.join(unknown)} does not belong to it")
        for name, expected in manifest.files.items():
            _compare(directory / name, expected)
        return manifest


def describe_file(path: Path) -> dict[str, Any]:
    """Return a file's entry in the manifest."""
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def _compare(path: Path, expected: dict[str, Any]) -> None:
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise Damaged(f"{path.name} has {size} bytes instead of {expected['bytes']}")
    if file_digest(path) != expected["sha256"]:
        raise Damaged(f"{path.name} differs from what was written (SHA-256)")


def _parse(directory: Path) -> Manifest:
    path = directory / MANIFEST
    try:
        text = path.read_text()
        found = parse_json(text)
        digest, form = found.pop("sha256"), found.pop("format")
    except FileNotFoundError:
        raise Damaged(f"{MANIFEST} is missing") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Damaged(f"{MANIFEST} cannot be read: {error}") from None
    if digest != _digest({"format": form, **found}):
        raise Damaged(f"{MANIFEST} differs from what was written (SHA-256)")
    if form != FORMAT:
        raise CheckpointError(
            f"{directory} has checkpoint format {form}, but this ffcore reads {FORMAT}: "
            "use the ffcore that wrote it"
        )
    manifest = Manifest(**found)
    if text != manifest.to_json() or directory.name != directory_name(manifest.step):
        raise Damaged(f"{MANIFEST} differs from what was written")
    return manifest


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
