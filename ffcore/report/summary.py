"""The numbers of a report: the main result, comparable runs, time and memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ffcore.report.advice import advice
from ffcore.report.record import Record

UNKNOWN = "unknown"
"""The fingerprint of a teacher without parameters; see interfaces.py."""
_LACKING = object()


def method(record: Record) -> str:
    """Return the objectives of a run, by their names."""
    found = [record.recipe.get(role) for role in ("predictor", "corrector")]
    return " + ".join(str(each["type"]) for each in found if isinstance(each, dict))


# Comparable runs


def space_conditions(record: Record, space: str) -> Mapping[str, Any]:
    """Return the conditions of the distances in a feature space.

    The numbers of Euler steps do not count, nor do other feature spaces.
    """
    assert record.evaluation is not None
    identity = record.evaluation.identity
    own = f"features {space}"
    names = [name for name in identity if name == own or not name.startswith("features ")]
    return {name: identity[name] for name in names if name != "euler"}


def error_conditions(record: Record) -> Mapping[str, Any]:
    """Return the conditions of the trajectory errors; sample counts and features do not matter."""
    assert record.evaluation is not None
    identity = record.evaluation.identity
    others = ("samples", "euler")
    return {
        name: value
        for name, value in identity.items()
        if name not in others and not name.startswith("features ")
    }


def differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the differences of two sets of conditions; none if their numbers are comparable."""
    found = [
        f"{name}: {_text(name, there)} there, {_text(name, here)} here"
        for name, there, here in _differing(first, other)
    ]
    if first.get("teacher") == UNKNOWN == other.get("teacher"):
        found.append("the teachers may differ: they have no parameters to identify them")
    if first.get("conditions") == UNKNOWN == other.get("conditions"):
        found.append("the conditions may differ: they have no fingerprints to identify them")
    return found


def _differing(first: Any, other: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the leaves that differ between two trees, with their dotted names."""
    for name in dict.fromkeys([*first, *other]):
        there, here = first.get(name, _LACKING), other.get(name, _LACKING)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            yield from _differing(there, here, f"{prefix}{name}.")
        elif there != here:
            yield f"{prefix}{name}", there, here


def _text(name: str, value: Any) -> str:
    if value is _LACKING:
        return "none"
    is_digest = isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)
    return str(value)[:12] if is_digest else str(value)


@attrs.frozen(kw_only=True, eq=False)
class Comparable:
    """Runs with comparable distances in a feature space."""

    space: str
    records: Sequence[Record]
    different: Sequence[str] = ()
    """Differences of their conditions from those of the first run measured in this space."""


def comparables(records: Sequence[Record]) -> list[Comparable]:
    """Return the groups of runs with comparable distances, by feature space."""
    found = []
    measured = [each for each in records if each.evaluation]
    for space in dict.fromkeys(name for each in measured for name in _spaces(each)):
        groups: list[list[Record]] = []
        for each in (record for record in measured if space in _spaces(record)):
            mine = space_conditions(each, space)
            for group in groups:
                if not differences(space_conditions(group[0], space), mine):
                    group.append(each)
                    break
            else:
                groups.append([each])
        first = space_conditions(groups[0][0], space)
        found += [
            Comparable(
                space=space,
                records=group,
                different=differences(first, space_conditions(group[0], space))
                if group is not groups[0]
                else (),
            )
            for group in groups
        ]
    return found


def _spaces(record: Record) -> Sequence[str]:
    return [] if record.evaluation is None else [*record.evaluation.distances]


# Recipes


def keys(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a recipe's keys and values, by dotted names."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= keys(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            for index, each in enumerate(value):
                found |= keys(each, f"{prefix}{name}[{index}].")
        else:
            found[f"{prefix}{name}"] = value
    return found


def differing_keys(records: Sequence[Record]) -> dict[str, list[Any]]:
    """Return the keys that differ between recipes, with each recipe's value or None."""
    trees = [keys(each.recipe) for each in records]
    names = dict.fromkeys(name for tree in trees for name in tree)
    found = {name: [tree.get(name) for tree in trees] for name in names}
    return {name: values for name, values in found.items() if values != [values[0]] * len(values)}


# Time


@attrs.frozen(kw_only=True)
class Cost:
    """Time and memory of a training, over all of its reports."""

    seconds: float
    """Seconds of training, without repeated steps."""
    samples_per_second: float
    sections: Mapping[str, float]
    """Mean seconds of a step by section, the longest first; the remainder is "the rest"."""
    memory_peak: int
    """In bytes."""
    skipped: int
    """Number of skipped steps, whose numbers were not finite."""


def cost(record: Record) -> Cost | None:
    """Return the cost of a run's training; None if no report has times."""
    total, images, before = 0.0, 0.0, 0
    sections: dict[str, float] = {}
    for line in record.metrics:
        if not line.get("steps_per_second"):  # a measurement, between two reports
            continue
        made, before = line["step"] - before, line["step"]
        seconds = made / line["steps_per_second"]
        total += seconds
        images += seconds * line.get("samples_per_second", 0.0)
        for name, each in line.items():
            if name.startswith("seconds/"):
                section = name.removeprefix("seconds/")
                sections[section] = sections.get(section, 0.0) + made * each
    if not total:
        return None
    of_a_step = {name: seconds / before for name, seconds in sections.items()}
    rest = total / before - sum(of_a_step.values())
    ordered = dict(sorted(of_a_step.items(), key=lambda each: -each[1]))
    return Cost(
        seconds=total,
        samples_per_second=images / total,
        sections=ordered | {"the rest": max(rest, 0.0)},
        memory_peak=max(int(line.get("memory_peak", 0)) for line in record.metrics),
        skipped=round(sum(line.get("skipped", 0) for line in record.metrics)),
    )


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Return a report's numbers, ready for JSON."""
    return {
        "runs": [_summary(each) for each in records],
        "not_comparable": [
            {
                "features": each.space,
                "runs": [record.name for record in each.records],
                "because": list(each.different),
            }
            for each in comparables(records)
            if each.different
        ],
        "recipes_differ_in": differing_keys(records),
    }


def _summary(record: Record) -> dict[str, Any]:
    evaluation = record.evaluation
    taken = cost(record)
    return {
        "name": record.name,
        "directory": str(record.directory),
        "step": record.step,
        "steps": record.steps,
        "finished": record.finished,
        "missing": record.missing,
        "alarms": list(record.alarms),
        "best": None if evaluation is None else evaluation.best,
        "verdict": None
        if evaluation is None
        else {steps: attrs.asdict(each) for steps, each in evaluation.verdict.items()},
        "advice": list(advice(record)),
        "measures": None if evaluation is None else dict(evaluation.measures),
        "distances": None
        if evaluation is None
        else {name: attrs.asdict(each) for name, each in evaluation.distances.items()},
        "trajectory_error": None if evaluation is None else dict(evaluation.trajectory_error),
        "conditions": None if evaluation is None else dict(evaluation.identity),
        "cost": None if taken is None else attrs.asdict(taken),
        "verification": record.verification,
    }
