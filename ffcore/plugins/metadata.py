"""The entry points of installed distributions, read so that a damaged one does not affect others.

The standard library's `entry_points()` fails if one file of one distribution is malformed. Here
each distribution is read separately. If several have the same name, the first on the path counts,
as for an import.
"""

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import PurePath

import attrs

from ffcore.plugins.errors import root_cause


@attrs.frozen(kw_only=True)
class Entry:
    """An entry point in one of ffcore's groups, of any interface version, with its distribution."""

    distribution: str
    version: str
    group: str = ""
    name: str = ""
    value: str = ""
    damage: str | None = None
    """Why the distribution's entry points cannot be read, if so; it then has only this `Entry`."""


def canonical(distribution: str) -> str:
    """A distribution's name in the normal form of package indexes."""
    return re.sub(r"[-_.]+", "-", distribution).strip().lower()


def entries() -> Iterator[Entry]:
    """Every entry point whose group is `ffcore` or begins with `ffcore.`."""
    seen: set[str] = set()
    for found in distributions():
        text = _entry_points_text(found)
        if "[ffcore" not in text:
            continue
        name, version = _name_and_version(found)
        if canonical(name) in seen or _is_shadowed(name, text):
            continue
        seen.add(canonical(name))
        yield from _entries_of(found, Entry(distribution=name, version=version, name=name))


def _entries_of(found: Distribution, blank: Entry) -> Iterator[Entry]:
    try:
        points = [each for each in found.entry_points if re.match(r"ffcore(\.|$)", each.group)]
    except Exception as error:  # noqa: BLE001 - which ones depends on the version of Python
        damage = (
            f"entry_points.txt is damaged; its lines must be name = module: {root_cause(error)}"
        )
        yield attrs.evolve(blank, damage=damage)
        return
    for each in points:
        yield attrs.evolve(blank, group=each.group, name=each.name, value=each.value)


def _entry_points_text(found: Distribution) -> str:
    try:
        return found.read_text("entry_points.txt") or ""
    except UnicodeDecodeError as error:
        return error.object.decode(errors="replace")


def _name_and_version(found: Distribution) -> tuple[str, str]:
    """Name and version from METADATA, or from the folder's name if METADATA cannot be read."""
    folder = PurePath(str(getattr(found, "_path", "unknown"))).stem  # name-version.dist-info
    name, _, version = folder.partition("-")
    try:
        written = found.metadata
        return str(written["Name"] or name), str(written["Version"] or version or "unknown")
    except Exception:  # noqa: BLE001 - which ones depends on the version of Python
        return name, version or "unknown"


def _is_shadowed(name: str, text: str) -> bool:
    """Whether another distribution of this name comes before it on the path."""
    try:
        return _entry_points_text(distribution(name)) != text
    except (PackageNotFoundError, ValueError):  # ValueError: an empty name
        return False
