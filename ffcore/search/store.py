"""The directory of a search: numbers, their plot, the chosen images."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffcore.export import is_export, is_run
from ffcore.report.plots import POINTS, Points, draw_against_nfe, draw_samples
from ffcore.sample import Request, SampleError, Sampler, output, to_uint8
from ffcore.search.comparison import Arm, Comparison
from ffcore.system.files import write_text

RESULT, PLOT, EXAMPLES = "search.json", "search.png", "examples.png"
_EXAMPLES = 12
"""Images in a row."""


def check_free(out: Path, *, overwrite: bool) -> None:
    """Raise SampleError unless a search can be saved in the directory `out`."""
    place = out.absolute().parent
    if is_run(place) or is_export(place):
        raise SampleError(f"{place} is the directory of a run or an export: choose another path")
    if not place.is_dir():
        raise SampleError(f"the folder {place} does not exist: create it for the search")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out.is_dir() and (out / RESULT).is_file()):
        raise SampleError(f"{out} exists and is not an earlier search: choose another directory")
    foreign = sorted(path.name for path in out.iterdir() if not _is_ours(path.name))
    if foreign:
        raise SampleError(
            f"{out} holds files that are not a search's ({', '.join(foreign[:5])}): choose another "
            "directory"
        )
    if not overwrite:
        raise SampleError(f"{out} is an earlier search: choose another directory, or --overwrite")


def keep(
    out: Path,
    found: Comparison,
    student: Sampler,
    teacher: Sampler,
    result: Mapping[str, Any],
    *,
    batch: int = 64,
) -> None:
    """Write a directory, whole or not at all, in place of an earlier search.

    It holds `search.json`, `search.png`, `examples.png`, and best_of_N.npz for the largest N: the
    teacher's images in the format of `ffd sample`, with their record, which has the number of each
    image's noise.

    Args:
        out: the directory; see `check_free`.
        found: the results of this student and teacher.
        student, teacher: generate the images again.
        result: the content of search.json.
        batch: number of samples generated at a time.
    """
    most = max(found.chosen)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent) as folder:
        aside, whole = Path(folder), Path(folder) / "whole"
        whole.mkdir()
        write_text(whole / RESULT, json.dumps(result, indent=2) + "\n")
        draw(whole / PLOT, found)
        texts = _texts(found, teacher)
        draw_samples(whole / EXAMPLES, _examples(found, student, teacher), texts)
        _write(whole / f"best_of_{most}.npz", teacher, found.chosen[most], batch, aside)
        if out.exists():
            out.rename(aside / "old")
        whole.rename(out)


def draw(path: Path, found: Comparison) -> None:
    """Write a PNG of scores and distances against NFE."""
    first = found.rows[0].searched
    panels = {}
    for index, name in enumerate(first.scores):
        does = "judge" if index else "verifier"
        title = f"{name.rpartition(':')[2]} ({does}), mean ± standard error"
        panels[title] = _lines(found, partial(_mean, name))
    for name in first.features:
        panels[f"Fréchet distance ({name})"] = _lines(found, partial(_distance, name))
    draw_against_nfe(path, panels)


def _mean(name: str, arm: Arm) -> tuple[float, float | None]:
    return arm.scores[name].mean, arm.scores[name].error


def _distance(name: str, arm: Arm) -> tuple[float, None]:
    distance = arm.features[name].fd
    assert distance is not None
    return distance, None


def _lines(
    found: Comparison, value: Callable[[Arm], tuple[float, float | None]]
) -> dict[str, Points]:
    rows = found.rows
    arms = {
        "teacher from the best of N": [row.searched for row in rows],
        "teacher alone": [row.teacher for row in rows],
        "student's best of N": [row.student for row in rows],
    }
    points = {}
    for name, each in arms.items():
        measured = [value(arm) for arm in each]
        errors = [error for _, error in measured if error is not None]
        points[name] = Points(
            nfe=[arm.nfe for arm in each],
            values=[mean for mean, _ in measured],
            errors=errors or None,
            end=f"N = {rows[-1].candidates}" if "from" in name else "",
        )
    return points


def _examples(found: Comparison, student: Sampler, teacher: Sampler) -> dict[str, Any]:
    """Return rows of the first samples, with the same conditions in each row."""
    row, best = found.rows[-1], found.chosen[found.rows[-1].candidates]
    asked = found.chosen[1]
    count = min(asked.number, _EXAMPLES if teacher.makes_images else POINTS)
    alone = teacher.in_steps(row.teacher.steps)
    return {
        f"teacher alone\n{found.rows[0].searched.nfe} NFE": teacher.images(asked, 0, count),
        f"teacher alone\n{row.teacher.nfe} NFE": alone.images(asked, 0, count),
        f"best of {row.candidates}\n{row.searched.nfe} NFE": teacher.images(best, 0, count),
        f"student's\nbest, {row.student.nfe} NFE": student.images(best, 0, count),
    }


def _texts(found: Comparison, teacher: Sampler) -> list[str]:
    """Return the text of each condition of the examples, if they are images."""
    count = min(found.chosen[1].number, _EXAMPLES) if teacher.makes_images else 0
    if not count:
        return []
    return [*teacher.generator.conditions.texts(teacher.condition(found.chosen[1], 0, count))]


def _write(path: Path, sampler: Sampler, asked: Request, batch: int, aside: Path) -> None:
    place = output(path, sampler.shape, asked.number, images=sampler.makes_images)
    record = sampler.record(asked) | sampler.of_each(asked)
    place.put(_kept(sampler, asked, batch), asked.number, record, aside)


def _kept(sampler: Sampler, asked: Request, batch: int) -> Iterator[NDArray[Any]]:
    for start in range(0, asked.number, batch):
        images = sampler.images(asked, start, min(asked.number, start + batch))
        kept = to_uint8(images) if sampler.makes_images else images.float()
        yield np.ascontiguousarray(kept.numpy())


def _is_ours(name: str) -> bool:
    return name in (RESULT, PLOT, EXAMPLES) or (
        name.startswith("best_of_") and name.endswith((".npz", ".npz.json"))
    )
