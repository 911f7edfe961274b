"""Charts: points stand where their numbers say."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from ffcore.report.chart import Line, chart, short, thin

SVG = "{http://www.w3.org/2000/svg}"


def parsed(drawn: str | None) -> ET.Element:
    assert drawn is not None
    return ET.fromstring(drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def ticks(drawn: str | None, kind: str) -> dict[float, float]:
    """The places of an axis' labels, by their numbers."""
    across = {"x": "x", "y": "y"}[kind]
    return {
        float(each.text or ""): float(each.get(across, ""))
        for each in parsed(drawn).iter(f"{SVG}text")
        if each.get("class") == kind
    }


def points(drawn: str | None, index: int = 0) -> list[tuple[float, float]]:
    lines = [each for each in parsed(drawn).iter() if "line" in each.get("class", "").split()]
    pairs = re.findall(r"[ML]([\d.]+) ([\d.]+)", lines[index].get("d", ""))
    return [(float(x), float(y)) for x, y in pairs]


@pytest.mark.parametrize("values", [(1.0, 2.0, 4.0), (0.001, 0.1, 10.0), (-1.0, 0.5, 2.0)])
def test_points_stand_at_the_ticks_of_their_values(values):
    """Linear where values span little, logarithmic where they are positive and span much."""
    drawn = chart("loss", [Line(label="a", points=[*zip((0, 50, 100), values, strict=True)])])
    xs, ys = ticks(drawn, "x"), ticks(drawn, "y")
    logarithmic = values[0] > 0 and values[-1] / values[0] > 8
    scale = math.log if logarithmic else float
    (low, at_low), (high, at_high) = sorted(ys.items())[0], sorted(ys.items())[-1]
    for (x, y), step, value in zip(points(drawn), (0, 50, 100), values, strict=True):
        share = (scale(value) - scale(low)) / (scale(high) - scale(low))
        assert y == pytest.approx(at_low - 4 + share * (at_high - at_low), abs=0.3)
        assert x == pytest.approx(xs[0] + step / 100 * (xs[100] - xs[0]), abs=0.1)


@pytest.mark.parametrize("scale", [1e-9, 0.013, 1.0, 480.0, 3e7])
@pytest.mark.parametrize("span", [1.0, 1.3, 7.0, 9.0, 300.0, 1e9])
def test_every_axis_has_a_few_labels_within_the_picture(scale, span):
    drawn = chart("x", [Line(label="a", points=[(1, scale), (2, scale * span)])])
    labels = [each for each in parsed(drawn).iter(f"{SVG}text") if each.get("class") == "y"]
    assert 2 <= len(labels) <= 9
    assert all(0 < float(each.get("y", "")) < 200 for each in labels)
    assert len({each.text for each in labels}) == len(labels)
    assert all(0 <= y <= 220 and 48 <= x <= 344 for x, y in points(drawn))


def test_a_line_is_broken_where_a_number_is_not_finite():
    numbers = [1.0, 2.0, math.nan, 3.0, math.inf, 4.0, 5.0]
    drawn = chart("x", [Line(label="a", points=[*enumerate(numbers)])])
    assert len(points(drawn)) == 5
    assert drawn is not None
    path = re.search(r'class="line c0 d0" d="([^"]*)"', drawn)
    assert path is not None
    assert re.sub(r"[^MLh]", "", path.group(1)) == "MLMhML"


def test_what_has_no_finite_number_is_not_drawn():
    assert chart("x", [Line(label="a", points=[(1, math.nan)]), Line(label="b", points=[])]) is None


def test_many_points_are_thinned_without_losing_a_peak():
    many = [(step, 1.0) for step in range(100_000)]
    many[61_803] = (61_803, 99.0)
    many[31_415] = (31_415, -99.0)
    few = thin(many)
    assert len(few) <= 700
    assert {(61_803, 99.0), (31_415, -99.0)} <= {*few}
    assert [*few] == sorted(few)
    assert thin(many[:600]) == many[:600]


def test_labels_are_short():
    assert [short(v) for v in (0.0, 0.05, 250, 1000, 40_000, 400_000, 2_000_000)] == [
        "0", "0.05", "250", "1000", "40k", "400k", "2M",
    ]  # fmt: skip


def test_what_is_said_of_a_chart_is_escaped():
    line = Line(label='"><script>', points=[(1, 1.0), (2, 2.0)])
    label = parsed(chart("<b>", [line])).get("aria-label")
    assert label == '<b> over step: "><script> ends at 2'
