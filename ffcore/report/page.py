"""The page: one HTML file that asks nothing of the network, with pictures and charts within.

What is on it is gathered here, and laid out by page.html, where everything is escaped but the
charts that are made here.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import attrs
import jinja2

from ffcore.report.chart import Line, chart
from ffcore.report.record import Picture, Record
from ffcore.report.summary import (
    Comparable,
    answer,
    comparables,
    cost,
    differences,
    differing_keys,
    error_conditions,
    keys,
    method,
)

COLOURS = 6
"""Of the page; more runs take them again."""
_LISTED = 12
"""Numbers of a verification that are shown at most."""


@attrs.frozen(kw_only=True)
class Panel:
    """A chart with what its lines are."""

    title: str
    drawn: str
    lines: Sequence[Line]


@attrs.frozen(kw_only=True)
class Mark:
    """A row of a ladder: a distance, and where it is from 0 at the near end to 1."""

    label: str
    value: float
    place: float
    kind: str
    """"student", "euler" or "floor"."""
    colour: int = 0


def page(records: Sequence[Record], *, written: datetime | None = None) -> str:
    """Return the report of runs as HTML, those of several side by side.

    Args:
        records: at least one.
        written: when; now, if not told.
    """
    folder = files("ffcore.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "data": _data, "number": _number, "value": _value, "duration": _duration, "size": _size,
    }  # fmt: skip
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    groups = comparables(records)
    return template.render(
        records=records,
        style=(folder / "page.css").read_text(encoding="utf-8"),
        written=written or datetime.now(UTC),
        ffcore=version("ffcore"),
        method=method,
        answer=answer,
        colour=lambda record: records.index(record) % COLOURS,
        groups=groups,
        ladder=lambda group: _ladder(group, records),
        steps_in=_steps_in,
        error=_error_panel(records),
        panels=_curves(records),
        costs=[cost(each) for each in records],
        sections=_sections(records),
        different=differing_keys(records) if len(records) > 1 else {},
        keys=_all_keys(records),
        verified=_verified,
        packages=_packages(records),
    )


# The answer


def _ladder(group: Comparable, records: Sequence[Record]) -> list[Mark]:
    """Return all distances of a group, the nearest to the teacher first."""
    found: list[tuple[str, float, str, int]] = []
    baselines: dict[str, tuple[str, float, str, int]] = {}
    for record in group.records:
        assert record.evaluation is not None
        distances = record.evaluation.distances[group.space]
        colour = records.index(record) % COLOURS
        for steps, value in distances.student.items():
            if len(records) == 1:
                label = f"student, {_steps(steps)}"
            else:
                label = record.name if steps == 1 else f"{record.name}, {_steps(steps)}"
            found.append((label, value, "student", colour))
        for steps, value in distances.euler.items():
            label = f"teacher, {steps} Euler"
            baselines.setdefault(label, (label, value, "euler", 0))
        baselines.setdefault("floor", ("noise floor", distances.floor, "floor", 0))
    found = sorted([*found, *baselines.values()], key=lambda each: each[1])
    low, high = found[0][1], found[-1][1]
    return [
        Mark(label=label, value=value, place=_place(value, low, high), kind=kind, colour=colour)
        for label, value, kind, colour in found
    ]


def _place(value: float, low: float, high: float) -> float:
    """Return where a value is between two others, by their logarithms if they have any."""
    if low > 0:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low or 1.0)


def _steps(number: int) -> str:
    return f"{number} step{'s' if number > 1 else ''}"


def _steps_in(group: Sequence[Record], space: str) -> dict[str, list[int]]:
    """Return the numbers of steps in which student and teacher were measured by any run."""
    measured = [each.evaluation.distances[space] for each in group if each.evaluation]
    return {
        "student": sorted({steps for each in measured for steps in each.student}),
        "euler": sorted({steps for each in measured for steps in each.euler}),
    }


# Charts


_CURVES: dict[str, Sequence[str]] = {
    "loss": ["loss"],
    "gaps, RMS": ["gap_prediction", "gap_correction"],
    "λ": ["lambda"],
    "norm of the gradient": ["gradient_norm"],
}
_SPEED = "images per second"
_KNOWN = {"step", "steps_per_second", "images_per_second", "seconds_left", "memory_peak", "skipped"}


def _curves(records: Sequence[Record]) -> list[Panel]:
    """Return the charts of all that was measured while training."""
    told = dict.fromkeys(name for each in records for line in each.metrics for name in line)
    shown = {name for names in _CURVES.values() for name in names} | _KNOWN
    others = [name for name in told if name not in shown and not name.startswith("seconds/")]
    panels = _CURVES | {_title(name): [name] for name in others}
    panels |= {_SPEED: ["images_per_second"]}
    found = [_panel(title, names, records) for title, names in panels.items()]
    return [each for each in found if each is not None]


def _title(name: str) -> str:
    """Return what a metric is called: loss_online is the loss of a network called so."""
    for start, words in {
        "loss_": "loss of the {} network",
        "gradient_norm_": "norm of the {} network's gradient",
    }.items():
        if name.startswith(start):
            return words.format(name.removeprefix(start))
    return name.replace("_", " ")


def _panel(title: str, names: Sequence[str], records: Sequence[Record]) -> Panel | None:
    lines = []
    for index, record in enumerate(records):
        for kind, name in enumerate(names):
            points = [(line["step"], float(line[name])) for line in record.metrics if name in line]
            if not points:
                continue
            what = name.removeprefix("gap_") if len(names) > 1 else ""
            whose = record.name if len(records) > 1 else ""
            alone = len(records) == 1
            lines.append(
                Line(
                    label=", ".join(filter(None, (whose, what))) or title,
                    points=points,
                    colour=(kind if alone else index) % COLOURS,
                    dashes=kind,
                )
            )
    drawn = chart(title, lines)
    return None if drawn is None else Panel(title=title, drawn=drawn, lines=lines)


def _error_panel(records: Sequence[Record]) -> Panel | None:
    measured = [each for each in records if each.evaluation]
    lines = []
    for record in measured:
        assert record.evaluation is not None
        apart = differences(error_conditions(measured[0]), error_conditions(record))
        name = record.name if len(records) > 1 else "student"
        lines.append(
            Line(
                label=f"{name} (not comparable)" if apart and record is not measured[0] else name,
                points=[*record.evaluation.trajectory_error.items()],
                colour=records.index(record) % COLOURS,
            )
        )
    drawn = chart("relative error of the flow map", lines, along="duration δ")
    return None if drawn is None else Panel(title="", drawn=drawn, lines=lines)


# Tables


def _all_keys(records: Sequence[Record]) -> dict[str, list[Any]]:
    trees = [keys(each.recipe) for each in records]
    return {
        name: [tree.get(name) for tree in trees]
        for name in dict.fromkeys(name for tree in trees for name in tree)
    }


def _sections(records: Sequence[Record]) -> list[str]:
    """Return the sections of a step that any run tells, the rest last."""
    found = [each for each in map(cost, records) if each is not None]
    names = dict.fromkeys(name for each in found for name in each.sections)
    return sorted(names, key=lambda name: name == "the rest")


def _packages(records: Sequence[Record]) -> dict[str, list[str]]:
    """Return the versions that each run was made with, by what they are of."""
    found: dict[str, list[str]] = {}
    for index, record in enumerate(records):
        told = {name: record.provenance.get(name) for name in ("ffcore", "python", "torch")}
        for each in record.provenance.get("components", []):
            if each.get("distribution"):
                told[each["distribution"]] = each.get("version")
        for name, each in told.items():
            found.setdefault(name, [""] * len(records))[index] = str(each or "")
    return found


def _verified(record: Record) -> dict[str, str]:
    """Return the first of what a verification says in single values, whatever its form."""
    told = keys(record.verification or {})
    plain = {
        name: _value(value)
        for name, value in told.items()
        if isinstance(value, bool | int | float | str) and name != "schema" and len(str(value)) < 80
    }
    return dict([*plain.items()][:_LISTED])


# Words


def _data(picture: Picture) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.content).decode()}"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _value(value: Any) -> str:
    """Return a recipe's value as a reader knows it from TOML."""
    match value:
        case None:
            return "–"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            return f"{{ {', '.join(f'{name} = {_value(each)}' for name, each in value.items())} }}"
    return str(value)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    if minutes < 100:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 6000 else f"{minutes / 1440:.1f} days"


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
