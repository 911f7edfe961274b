"""Line charts as SVG with the colours of the page, light or dark.

The view is 360 units wide, about the pixels of a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import attrs

Point = tuple[float, float]

_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 16, 10, 34
_MOST = 600
"""Most points of a line; of a longer one, each section keeps its minimum and maximum."""
_PIECES = 5
"""Approximate number of intervals on an axis."""


@attrs.frozen(kw_only=True)
class Line:
    """A line of a chart."""

    label: str
    points: Sequence[Point]
    colour: int = 0
    """Which of the page's colours."""
    dashes: int = 0
    """0: none."""

    @property
    def last(self) -> float | None:
        """The last value."""
        return self.points[-1][1] if self.points else None


@attrs.frozen(kw_only=True)
class _Axis:
    low: float
    high: float
    logarithmic: bool

    @staticmethod
    def over(values: Sequence[float], *, fit: bool) -> _Axis:
        """Return the axis of these values; with `fit` from just below them, else from 0.

        It is logarithmic if they are positive and span more than a factor of 8.
        """
        low, high = min(values), max(values)
        if fit and low > 0 and high / low > 8:
            return _Axis(low=low / 1.1, high=high * 1.1, logarithmic=True)
        margin = (high - low or abs(high) or 1.0) * 0.06
        start = 0.0 if low >= 0 and (not fit or low < 0.6 * high) else low - margin
        return _Axis(low=start, high=high + margin if fit else high, logarithmic=False)

    def place(self, value: float) -> float:
        """Return the position of a value, from 0 at the low end to 1."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return round values on the axis."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            fine = [m * 10.0**d for d in decades for m in (1, 2, 5)]
            coarse = [10.0**d for d in decades]
            inside = [each for each in fine if self.low <= each <= self.high]
            if len(inside) > 2 * _PIECES:
                inside = [each for each in coarse if self.low <= each <= self.high]
            return inside[:: 1 + len(inside) // (2 * _PIECES)]
        raw = (self.high - self.low) / _PIECES
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [step * index for index in range(first, last + 1)]


def chart(title: str, lines: Sequence[Line], *, along: str = "step") -> str | None:
    """Return a chart of lines over `along`; None without any finite point.

    Args:
        title: what is drawn, for those who hear it.
        lines: points that are not finite are left out, and the line is broken there.
        along: what the horizontal axis is.
    """
    finite = [p for line in lines for p in line.points if _fine(*p)]
    if not finite:
        return None
    across = _Axis.over([x for x, _ in finite], fit=False)
    up = _Axis.over([y for _, y in finite], fit=True)

    def x(value: float) -> float:
        return _LEFT + across.place(value) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - up.place(value) * (_HEIGHT - _TOP - _BOTTOM)

    label = f"{title} over {along}: {', '.join(_describe(line) for line in lines)}"
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">']
    for value in up.ticks():
        parts.append(f'<path class="rule" d="M{_LEFT} {y(value):.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(
            f'<text class="y" x="{_LEFT - 6}" y="{y(value) + 4:.1f}">{short(value)}</text>'
        )
    bottom = _HEIGHT - _BOTTOM
    for value in across.ticks():
        parts.append(f'<path class="tick" d="M{x(value):.1f} {bottom}v4"/>')
        parts.append(f'<text class="x" x="{x(value):.1f}" y="{bottom + 16}">{short(value)}</text>')
    parts.append(
        f'<text class="along" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}">{escape(along)}</text>'
    )
    parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{_WIDTH - _RIGHT}"/>')
    for line in lines:
        drawn = _path([(x(a), y(b)) if _fine(a, b) else None for a, b in thin(line.points)])
        parts.append(f'<path class="line c{line.colour} d{line.dashes}" d="{drawn}"/>')
    return "".join([*parts, "</svg>"])


def thin(points: Sequence[Point]) -> Sequence[Point]:
    """Return few enough points to draw, with every peak and every trough among them."""
    if len(points) <= _MOST:
        return points
    width = math.ceil(2 * len(points) / _MOST)
    found: list[Point] = []
    for start in range(0, len(points), width):
        stretch = [p for p in points[start : start + width] if _fine(*p)] or [points[start]]
        low = min(stretch, key=lambda each: each[1])
        high = max(stretch, key=lambda each: each[1])
        found += sorted({low, high})
    return found


def short(value: float) -> str:
    """Return a number for an axis: 250, 40k, 0.05."""
    value = float(f"{value:.6g}")
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (abs(value) >= size and letter == "M"):
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _describe(line: Line) -> str:
    return f"{line.label} ends at {line.last:.3g}" if line.last is not None else line.label


def _fine(*values: float) -> bool:
    return all(map(math.isfinite, values))


def _path(points: Sequence[Point | None]) -> str:
    """Return the commands of a line through points, broken at None; a point alone is a dot."""
    commands, before = [], None
    for index, point in enumerate(points):
        if point is not None:
            commands.append(f"{'L' if before else 'M'}{point[0]:.1f} {point[1]:.1f}")
            after = points[index + 1] if index + 1 < len(points) else None
            if before is None and after is None:
                commands.append("h0.1")
        before = point
    return "".join(commands)
