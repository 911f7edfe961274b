"""Pictures of a run: samples beside the teacher's from the same noise, previews, the curves."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

POINTS = 1000
"""Samples in a scatter plot, which vectors get instead of rows of images."""
CONDITIONS = "conditions"
"""The name of a preview's conditions in its PNG."""

_INK, _MUTED = "#1b1b1b", "#6b6b6b"
_BLUE, _ORANGE = "#1f5fbf", "#c2571a"
_LINES = (
    {"color": _BLUE, "marker": "o"},
    {"color": _ORANGE, "marker": "s", "linestyle": "--"},
    {"color": _MUTED, "marker": "^", "linestyle": ":"},
)
"""Line styles, distinct in colour, marker and dashes."""
_SMALLEST, _LARGEST = 64, 128
"""Pixels along a side of an image in a preview."""
_COLUMNS, _GAP = 10, 4
_LETTERS_ABOVE, _LINES_ABOVE = 13, 3
"""Most letters in a line, and most lines, of the text above a column."""
_PLANE, _DOT = 320, 4
"""Pixels along a side of a scatter plot in a preview; thirds of one from a dot's middle out."""


def draw_samples(path: Path, rows: Mapping[str, Tensor], texts: Sequence[str] = ()) -> None:
    """Write the rows as a PNG: images in [−1, 1] as a grid, vectors as scatter plots.

    Args:
        path: of the PNG.
        rows: samples by the name of their row.
        texts: one to stand above each column of images; vectors have no columns.
    """
    rows = {name: row.cpu() for name, row in rows.items()}
    first = next(iter(rows.values()))
    if first.ndim == 4 and first.shape[1] in (1, 3):
        _draw_images(path, rows, texts)
    elif first.ndim == 4:
        # Latents: without a decoder, their first channel shows whether anything is learnt.
        _draw_images(path, {name: row[:, :1] for name, row in rows.items()}, texts)
    else:
        _draw_points(path, {name: row.flatten(1) for name, row in rows.items()})


def _draw_images(path: Path, rows: Mapping[str, Tensor], texts: Sequence[str]) -> None:
    count, apart = len(next(iter(rows.values()))), 1.06
    titles = [_title(each) for each in texts]
    lines = max((each.count("\n") + 1 for each in titles if each), default=0)
    above = 0.04 + 0.09 * lines if lines else 0.0
    height = 0.66 * len(rows) + above
    figure, axes = _figure(len(rows), 1, width=1.0 + 0.62 * count, height=height)
    for (name, row), axis in zip(rows.items(), axes[:, 0], strict=True):
        for index, image in enumerate(row):
            pixels = ((image.clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy()
            place = (apart * index, apart * index + 1, 0, 1)
            axis.imshow(pixels, extent=place, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set(xlim=(0, apart * (count - 1) + 1), ylim=(0, 1))
        axis.set_axis_off()
        axis.text(-0.25, 0.5, name, ha="right", va="center", fontsize=8, color=_INK)
    for index, title in enumerate(titles):
        axes[0, 0].text(
            apart * index + 0.5, 1.05, title, ha="center", va="bottom", fontsize=5, color=_MUTED,
            parse_math=False,
        )  # fmt: skip
    left, top = 0.95 / (1.0 + 0.62 * count), 0.99 - above / height
    figure.subplots_adjust(left=left, right=0.995, top=top, bottom=0.01, hspace=0.06)
    _save(figure, path)


def _title(text: str) -> str:
    """Return a text in at most _LINES_ABOVE short lines."""
    lines = textwrap.wrap(text, _LETTERS_ABOVE)
    if len(lines) > _LINES_ABOVE:
        lines = [*lines[: _LINES_ABOVE - 1], f"{lines[_LINES_ABOVE - 1][: _LETTERS_ABOVE - 1]}…"]
    return "\n".join(lines)


def _draw_points(path: Path, rows: Mapping[str, Tensor]) -> None:
    figure, axes = _figure(1, len(rows), width=2.1 * len(rows), height=2.5)
    target = next(iter(rows.values()))
    for (name, row), axis in zip(rows.items(), axes[0], strict=True):
        for points, colour in ((target, "#c9c9c9"), (row, _BLUE)):
            second = points[:, 1] if points.shape[1] > 1 else 0 * points[:, 0]
            axis.scatter(points[:, 0], second, s=4, color=colour, linewidths=0)
        axis.set_title(name.replace("\n", ", "), fontsize=8, color=_INK)
        axis.tick_params(labelsize=6, colors=_MUTED)
        axis.set_aspect("equal", adjustable="datalim")
    _leave(figure, left=0.4, right=0.1, bottom=0.25, top=0.3, between=0.4)
    _save(figure, path)


def draw_preview(path: Path, samples: Tensor, behind: Tensor, conditions: str) -> None:
    """Write samples as a small PNG without text, for light and dark backgrounds.

    Args:
        path: of the PNG.
        samples: images in [−1, 1] become rows of them, vectors a scatter plot.
        behind: samples to draw behind vectors; they set the visible part of the plane.
        conditions: stored in the file.
    """
    from PIL.PngImagePlugin import PngInfo

    if samples.ndim == 4:
        drawn = _rows(samples if samples.shape[1] in (1, 3) else samples[:, :1])
    else:
        drawn = _scatter(samples.flatten(1), behind.flatten(1))
    kept = PngInfo()
    kept.add_text(CONDITIONS, conditions)
    _put(path, lambda partial: drawn.save(partial, format="png", pnginfo=kept))


def _rows(images: Tensor) -> Image:
    """Return images side by side, scaled to a visible size."""
    from PIL import Image

    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    cells = [Image.fromarray(each.squeeze(-1) if each.shape[-1] == 1 else each) for each in pixels]
    factor = -(-_SMALLEST // max(cells[0].size))
    cells = [each.resize((factor * each.width, factor * each.height), 0) for each in cells]
    for each in cells:
        each.thumbnail((_LARGEST, _LARGEST))
    wide, high = (side + _GAP for side in cells[0].size)
    columns = min(len(cells), _COLUMNS)
    size = (columns * wide - _GAP, -(-len(cells) // columns) * high - _GAP)
    whole = Image.new("RGBA", size)  # transparent between the images
    for index, each in enumerate(cells):
        whole.paste(each, (index % columns * wide, index // columns * high))
    return whole


def _scatter(points: Tensor, behind: Tensor) -> Image:
    """Return points over those behind, which fill five sixths of the picture."""
    from PIL import Image, ImageDraw

    fine = 3 * _PLANE  # and then made smaller, so that dots are round
    drawn = Image.new("RGBA", (fine, fine))
    pen = ImageDraw.Draw(drawn)
    low, high = behind[:, :2].amin(0), behind[:, :2].amax(0)
    middle, half = (low + high) / 2, float((high - low).max()) * 0.6 or 1.0
    for these, colour in ((behind, "#9c9c9c"), (points, "#3d80d6")):
        places = (fine * ((these[:, :2] - middle) / half + 1) / 2).clamp(-fine, 2 * fine)
        for place in places[places.isfinite().all(1)].tolist():
            x, y = place if len(place) == 2 else (place[0], fine / 2)
            pen.ellipse((x - _DOT, fine - y - _DOT, x + _DOT, fine - y + _DOT), fill=colour)
    return drawn.resize((_PLANE, _PLANE), Image.Resampling.BOX)


def draw_curves(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write the loss and the gaps over steps as a PNG.

    Args:
        path: of the PNG.
        history: the lines of a run's metrics, each with "step" and the metrics.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    panels = {
        "loss": ["loss"],
        "gap (RMS)": ["gap_prediction", "gap_correction"],
        "online network's loss": ["loss_online"],
    }
    present = {
        title: found
        for title, names in panels.items()
        if (found := [name for name in names if any(name in line for line in history)])
    }
    figure, axes = _figure(1, len(present), width=3.4 * len(present), height=2.5)
    for (title, names), axis in zip(present.items(), axes[0], strict=True):
        for name, colour in zip(names, (_BLUE, _ORANGE), strict=False):
            points = [(line["step"], line[name]) for line in history if name in line]
            label = name.removeprefix("gap_")
            marker = "o" if len(points) == 1 else None  # a line of one point shows nothing
            axis.plot(
                *zip(*points, strict=True),
                color=colour,
                linewidth=1.2,
                marker=marker,
                label=label,
            )
        axis.set_title(title, fontsize=9, color=_INK)
        axis.set_xlabel("step", fontsize=8, color=_MUTED)
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        few = high < 100 * low
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.25, which="both", linewidth=0.4)
        axis.tick_params(labelsize=7, colors=_MUTED, which="both")
        if len(names) > 1:
            axis.legend(fontsize=7, frameon=False)
    _leave(figure, left=0.6, right=0.15, bottom=0.45, top=0.3, between=0.75)
    _save(figure, path)


def draw_verification(path: Path, found: Mapping[str, Any]) -> None:
    """Write a student's errors over durations and noise levels as a PNG.

    Args:
        path: of the PNG.
        found: a verification as in JSON; see ffcore.verify.
    """
    noising = found["noising"]
    figure, axes = _figure(1, 3 if noising else 2, width=9.6 if noising else 6.6, height=2.9)
    panels = {
        "trajectory": ("Trajectory error", r"$\|f-\Phi\|\,/\,\|\Phi-z\|$"),
        "identity": ("Identity residual", r"$\|v_G-u\|\,/\,\|u\|$"),
    }
    for (name, (title, unit)), axis in zip(panels.items(), axes[0], strict=False):
        _draw_spread(axis, found[name])
        _label(axis, title, unit, r"duration $\delta$")
    if noising:
        axis = axes[0][2]
        _draw_gaps(axis, noising)
        _label(
            axis, "Noising gap", r"$\|v_N-u\|\,/\,\sqrt{d}$, root mean square", "noise level $r$"
        )
    figure.tight_layout()
    _save(figure, path)


def _draw_spread(axis: Any, errors: Mapping[str, Any]) -> None:
    """Draw the median and the band of relative errors over durations, if there are any."""
    rows = [(float(at), each["relative"]) for at, each in errors.items() if each["relative"]]
    at = [place for place, _ in rows]
    low, median, high = ([each[key] for _, each in rows] for key in ("low", "median", "high"))
    axis.fill_between(at, low, high, color=_BLUE, alpha=0.2, linewidth=0, label="10 to 90 %")
    axis.plot(at, median, color=_BLUE, linewidth=1.4, marker="o", markersize=3, label="median")


def _draw_gaps(axis: Any, noising: Mapping[str, Any]) -> None:
    """Draw the fitted gap of both, with the lower bound that holds for any fit."""
    for whose, colour, name in (
        ("student", _BLUE, "student"),
        ("control", _ORANGE, "teacher's own samples"),
    ):
        at = [float(r) for r in noising[whose]]
        gaps = list(noising[whose].values())
        fitted = [each["errors"]["absolute"]["rms"] for each in gaps]
        bound = [max(0.0, each["at_least"]) for each in gaps]
        axis.plot(at, fitted, color=colour, linewidth=1.4, marker="o", markersize=3, label=name)
        axis.plot(at, bound, color=colour, linewidth=1.2, linestyle="--", label="  at least")


def _label(axis: Any, title: str, unit: str, below: str) -> None:
    axis.set_title(title, fontsize=9, color=_INK)
    axis.set_xlabel(below, fontsize=8, color=_MUTED)
    axis.set_ylabel(unit, fontsize=8, color=_MUTED)
    axis.set_xlim(0, 1.03)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25, linewidth=0.4)
    axis.tick_params(labelsize=7, colors=_MUTED)
    axis.legend(fontsize=7, frameon=False)


def _save(figure: Any, path: Path) -> None:
    _put(path, lambda partial: figure.savefig(partial, format="png", dpi=150))


def _put(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    partial.replace(path)


@attrs.frozen(kw_only=True)
class Points:
    """A line of measured points: NFE, value and standard error."""

    nfe: Sequence[int]
    values: Sequence[float]
    errors: Sequence[float] | None = None
    end: str = ""
    """The text at the last point."""


def draw_against_nfe(path: Path, panels: Mapping[str, Mapping[str, Points]]) -> None:
    """Write values over NFE as a PNG.

    Args:
        path: of the PNG.
        panels: by the title, which says what is measured: lines by their name, the same in each.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    height = 2.6 * rows + 0.4
    figure, axes = _figure(rows, columns, width=3.4 * columns, height=height)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for (title, lines), axis in zip(panels.items(), axes.flat, strict=False):
        for (name, line), style in zip(lines.items(), _LINES, strict=False):
            axis.errorbar(
                line.nfe, line.values, yerr=line.errors, label=name, **style, linewidth=1.2,
                markersize=5, capsize=2, elinewidth=0.8,
            )  # fmt: skip
            axis.annotate(
                line.end, (line.nfe[-1], line.values[-1]), xytext=(0, -14), ha="center",
                textcoords="offset points", fontsize=7, color=style["color"],
            )  # fmt: skip
        axis.set_title(title, fontsize=8, color=_INK)
        axis.set_xlabel("NFE per image", fontsize=8, color=_MUTED)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_locator(LogLocator(base=2))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.25, linewidth=0.4)
        axis.tick_params(labelsize=7, colors=_MUTED, which="both")
        axis.margins(x=0.11, y=0.14)
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0.3 / height, 1, 1))
    figure.legend(handles, names, loc="lower center", ncols=len(names), fontsize=7, frameon=False)
    _save(figure, path)


def _leave(
    figure: Any, *, left: float, right: float, bottom: float, top: float, between: float
) -> None:
    """Leave inches free around one row of axes, and between them.

    matplotlib would measure every label for that, and so draw everything twice.
    """
    width, height = figure.get_size_inches()
    columns = len(figure.axes)
    inner = (width - left - right - (columns - 1) * between) / columns
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        bottom=bottom / height,
        top=1 - top / height,
        wspace=between / inner,
    )


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """Return a figure and its axes [rows, columns], without a window or global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)
