"""The page: one HTML file that loads nothing from the network, with pictures and charts inside.

This module collects the content, and page.html arranges it. The template escapes everything but
ffcore's own charts.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import jinja2

from ffcore.report.advice import advice
from ffcore.report.figures import COLOURS, curves, error_panel, ladder
from ffcore.report.record import Picture, Record
from ffcore.report.summary import (
    comparables,
    cost,
    differing_keys,
    keys,
    method,
)

_LISTED = 12
"""Most numbers of a verification to show."""


def page(records: Sequence[Record], *, written: datetime | None = None) -> str:
    """Return the report of runs as HTML, several side by side.

    Args:
        records: at least one.
        written: the date; by default now.
    """
    folder = files("ffcore.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "data": _data, "number": _number, "value": _value, "duration": _duration,
        "size": _size, "sentence": _sentence, "estimate": _estimate,
    }  # fmt: skip
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    groups = comparables(records)
    return template.render(
        records=records,
        style=(folder / "page.css").read_text(encoding="utf-8"),
        written=written or datetime.now(UTC),
        ffcore=version("ffcore"),
        method=method,
        advice=advice,
        colour=lambda record: records.index(record) % COLOURS,
        groups=groups,
        ladder=lambda group: ladder(group, records),
        steps_in=_steps_in,
        error=error_panel(records),
        panels=curves(records),
        costs=[cost(each) for each in records],
        sections=_sections(records),
        different=differing_keys(records) if len(records) > 1 else {},
        keys=_all_keys(records),
        verified=_verification,
        packages=_packages(records),
    )


# Tables


def _steps_in(group: Sequence[Record], space: str) -> dict[str, list[int]]:
    """Return the numbers of steps of student and teacher that any run measured."""
    measured = [each.evaluation.distances[space] for each in group if each.evaluation]
    return {
        "student": sorted({steps for each in measured for steps in each.student}),
        "euler": sorted({steps for each in measured for steps in each.euler}),
    }


def _all_keys(records: Sequence[Record]) -> dict[str, list[Any]]:
    trees = [keys(each.recipe) for each in records]
    return {
        name: [tree.get(name) for tree in trees]
        for name in dict.fromkeys(name for tree in trees for name in tree)
    }


def _sections(records: Sequence[Record]) -> list[str]:
    """Return the sections of a step that any run reports, "the rest" last."""
    found = [each for each in map(cost, records) if each is not None]
    names = dict.fromkeys(name for each in found for name in each.sections)
    return sorted(names, key=lambda name: name == "the rest")


def _packages(records: Sequence[Record]) -> dict[str, list[str]]:
    """Return the versions of each run, by package."""
    found: dict[str, list[str]] = {}
    for index, record in enumerate(records):
        versions = {name: record.provenance.get(name) for name in ("ffcore", "python", "torch")}
        for each in record.provenance.get("components", []):
            if each.get("distribution"):
                versions[each["distribution"]] = each.get("version")
        for name, each in versions.items():
            found.setdefault(name, [""] * len(records))[index] = str(each or "")
    return found


def _verification(record: Record) -> dict[str, str]:
    """Return the main numbers of a verification; if its form is unknown, its single values."""
    facts = keys(record.verification or {})
    plain = {
        name: _value(value)
        for name, value in facts.items()
        if isinstance(value, bool | int | float | str) and name != "schema" and len(str(value)) < 80
    }
    return _verified_mainly(record.verification or {}) or dict([*plain.items()][:_LISTED])


def _verified_mainly(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the results of `ffd verify` at δ = 1, over noise levels and for classes, if any."""
    facts: dict[str, Any] = {"student after step": _at(found, "conditions", "student", "step")}
    for name, title in (("trajectory", "trajectory error"), ("identity", "identity residual")):
        facts[f"{title} at δ = 1, median"] = _at(found, name, "1.0", "relative", "median")
    for whose, title in (("student", "student's samples"), ("control", "teacher's own samples")):
        levels = _at(found, "noising", whose) or {}
        gaps = {r: _at(levels, r, "errors", "absolute", "rms") for r in levels}
        known = {r: gap for r, gap in gaps.items() if isinstance(gap, float)}
        if known:
            worst = max(known, key=lambda r: known[r])
            facts[f"largest noising gap of the {title}, at r = {worst}"] = known[worst]
    for name in _at(found, "classes") or {}:
        for whose in ("student", "teacher"):
            share = _at(found, "classes", name, whose)
            if isinstance(share, float):
                facts[f"class accuracy of the {whose}, by {name}"] = f"{share:.1%}"
    return {
        title: _number(value) if isinstance(value, float) else str(value)
        for title, value in facts.items()
        if value is not None
    }


def _at(tree: Any, *names: str) -> Any:
    """Return the value at a path in nested tables; None if there is none."""
    for name in names:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


# Words


def _data(picture: Picture) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.content).decode()}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _estimate(found: Mapping[str, float]) -> str:
    return f"{found['value']:.4g} ± {found['high'] - found['value']:.2g}"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _value(value: Any) -> str:
    """Return a recipe's value as TOML shows it."""
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
