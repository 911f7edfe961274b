"""Stored results, and whether two of them are comparable.

The source of the samples and their number of steps may differ, since you compare those. The number
of samples, seed, labels, guidance, decoder, features and reference must be the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ffcore.evaluate.reference import Reference
from ffcore.evaluate.samples import Samples
from ffcore.evaluate.stored import EvaluationError
from ffcore.interfaces import Features
from ffcore.system.files import parse_json
from ffcore.system.weights import fingerprint

SCHEMA = 1
_OF_SAMPLES = ("number", "seed", "labels", "conditions", "decoder", "shape")
_NAMES = ("source", "ffcore", "schema", "recipe")
"""What may differ between equal references: their names, and the program that made them."""
_UNKNOWN = "unknown"


def conditions(
    samples: Samples, reference: Reference, features: Sequence[Features]
) -> dict[str, Any]:
    """Return the conditions of the numbers, ready for JSON."""
    return {
        "samples": samples.record,
        "reference": dict(reference.record),
        "features": {each.name: fingerprint(each) for each in features},
        "versions": {name: version(name) for name in ("ffcore", "torch", "torch-fidelity")},
    }


def read_result(path: Path) -> dict[str, Any]:
    """Return a stored result. Raises EvaluationError if the file holds none."""
    try:
        found = parse_json(path.read_text())
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read as a result: {error}") from None
    if not isinstance(found, dict) or not {"conditions", "metrics"} <= found.keys():
        raise EvaluationError(f"{path} is not a result of ffd evaluate")
    if found.get("schema") != SCHEMA:
        raise EvaluationError(
            f"{path} has schema {found.get('schema')!r}; this ffcore reads {SCHEMA}"
        )
    return found


def check_comparable(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    """Raise EvaluationError, naming every difference, unless both are comparable.

    Args:
        old, new: `conditions`.
        path: where the old ones are stored.
    """
    if not old["features"].keys() & new["features"].keys():
        raise EvaluationError(
            f"{path} has no number to compare with: its features are "
            f"{', '.join(old['features'])}, those here are {', '.join(new['features'])}"
        )
    different = list(_differences(old, new))
    if different:
        raise EvaluationError(
            f"the numbers of {path} are not comparable with these; the conditions differ:\n  "
            + "\n  ".join(different)
        )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in _OF_SAMPLES:
        yield from _differs(f"samples' {name}", old["samples"].get(name), new["samples"].get(name))
    yield from _differs("samples' guidance", _scale(old["samples"]), _scale(new["samples"]))
    then, now = old["reference"], new["reference"]
    for name in sorted((then.keys() | now.keys()) - {*_NAMES}):
        yield from _differs(f"reference's {name}", then.get(name), now.get(name))
    for name in sorted(old["features"].keys() & new["features"].keys()):
        yield from _differs(f"network of {name}", old["features"][name], new["features"][name])


def _differs(what: str, old: Any, new: Any) -> Iterator[str]:
    if old != new:
        yield f"{what}: {_text(old)} there, {_text(new)} here"


def _text(value: Any) -> str:
    return _UNKNOWN if value is None else str(value)


def _scale(record: Mapping[str, Any]) -> Any:
    """Return γ only; its interval belongs to the teacher, or to the student's training."""
    return (record.get("guidance") or {}).get("scale")
