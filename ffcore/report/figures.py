"""The figures of a page: ranked distances, training curves and trajectory errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from ffcore.report.chart import Line, chart
from ffcore.report.record import Record
from ffcore.report.summary import Comparable, differences, error_conditions

COLOURS = 6
"""Number of colours on the page; more runs repeat them."""
_CURVES: dict[str, Sequence[str]] = {
    "loss": ["loss"],
    "gaps, RMS": ["gap_prediction", "gap_correction"],
    "gap by δ, relative to the velocity": ["gap_to_0.25", "gap_to_0.5", "gap_to_0.75", "gap_to_1"],
    "λ": ["lambda"],
    "gradient norm": ["gradient_norm"],
}
_SPEED = "samples per second"
_UNSHOWN = ("seconds/", "interval/")
_TITLES = {
    "online_excess": "excess loss of g_ψ on fresh samples",
    "online_slope": "⟨g_ψ − u, v_N − u⟩ / ‖g_ψ − u‖²",
    "measure/frechet": "Fréchet distance while training",
    "measure/energy": "energy distance while training",
    "measure/sharpness": "sharpness while training",
    "measure/coverage": "coverage while training",
    "measure/class": "worst class while training",
    "measure/accuracy": "class accuracy while training",
}
_KNOWN = {
    "step",
    "steps_per_second",
    "samples_per_second",
    "seconds_left",
    "memory_peak",
    "skipped",
}


@attrs.frozen(kw_only=True)
class Panel:
    """A chart and its lines."""

    title: str
    drawn: str
    lines: Sequence[Line]


@attrs.frozen
class Mark:
    """A row of the ranking: a distance."""

    label: str
    value: float
    kind: str
    """"student", "euler" or "floor"."""
    colour: int = 0
    place: float = 0.0
    """Its position, from 0 at the near end to 1."""


def ladder(group: Comparable, records: Sequence[Record]) -> list[Mark]:
    """Return all distances of a group, the nearest to the teacher first.

    Args:
        group: of comparable runs, with the same baselines.
        records: all runs of the page, for names and colours.
    """
    students: list[Mark] = []
    baselines: dict[str, Mark] = {}
    for record in group.records:
        assert record.evaluation is not None
        distances = record.evaluation.distances[group.space]
        for steps, value in distances.student.items():
            made = f"{steps} step{'s' if steps > 1 else ''}"
            if len(records) == 1:
                label = f"student, {made}"
            else:
                label = record.name if steps == 1 else f"{record.name}, {made}"
            students.append(Mark(label, value, "student", records.index(record) % COLOURS))
        for steps, value in distances.euler.items():
            baselines.setdefault(f"euler {steps}", Mark(f"teacher, {steps} Euler", value, "euler"))
        baselines.setdefault("floor", Mark("noise floor", distances.floor, "floor"))
    marks = sorted([*students, *baselines.values()], key=lambda each: each.value)
    low, high = marks[0].value, marks[-1].value
    return [attrs.evolve(each, place=_place(each.value, low, high)) for each in marks]


def _place(value: float, low: float, high: float) -> float:
    """Return the position of a value between two others, logarithmic if they are positive."""
    if low > 0:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low or 1.0)


def curves(records: Sequence[Record]) -> list[Panel]:
    """Return the charts of all training metrics."""
    measured = dict.fromkeys(name for each in records for line in each.metrics for name in line)
    shown = {name for names in _CURVES.values() for name in names} | _KNOWN
    others = [name for name in measured if name not in shown and not name.startswith(_UNSHOWN)]
    panels = _CURVES | {_title(name): [name] for name in others}
    panels |= {_SPEED: ["samples_per_second"]}
    found = [_panel(title, names, records) for title, names in panels.items()]
    return [each for each in found if each is not None]


def _title(name: str) -> str:
    """Return the title of a metric: loss_online is the loss of the network "online"."""
    if name in _TITLES:
        return _TITLES[name]
    for start, words in {
        "loss_": "loss of the {} network",
        "gradient_norm_": "gradient norm of the {} network",
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
            what = name.removeprefix("gap_").replace("to_", "δ up to ") if len(names) > 1 else ""
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


def error_panel(records: Sequence[Record]) -> Panel | None:
    """Return the chart of trajectory errors by δ; None if no run has any."""
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
