"""The record of a run in its directory, finished or not.

A report only reads files: it recomputes nothing and needs no plugin.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs

from ffcore.system.files import parse_json

# As `ffcore.run.directory` calls them, which imports torch; a test compares.
RECIPE, PROVENANCE, METRICS = "recipe.toml", "provenance.json", "metrics.jsonl"
EVALUATION, STUDENT, CHECKPOINTS = "evaluation.json", "student.safetensors", "checkpoints"
PREVIEWS, SAMPLES, REPORT = "previews", "samples.png", "report.html"
TEXTS = "conditions.json"
VERIFICATION, VERIFICATION_PICTURE = "verify.json", "verify.png"
ALARMS = "alarms.jsonl"

_PNG = b"\x89PNG\r\n\x1a\n"
Value = TypeVar("Value")


class ReportError(Exception):
    """A directory cannot be reported on. The message is for the user."""


@attrs.frozen
class Picture:
    """A PNG."""

    content: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Its width and height, in pixels."""
        return int.from_bytes(self.content[16:20]), int.from_bytes(self.content[20:24])


@attrs.frozen(kw_only=True)
class Distances:
    """Fréchet distances to the teacher in one feature space, as an evaluation stores them."""

    floor: float
    euler: Mapping[int, float]
    student: Mapping[int, float]
    """By the number of steps, 1 first."""


@attrs.frozen(kw_only=True)
class Verdict:
    """What a student's sampling is worth, as an evaluation stores it."""

    sentence: str
    """Without a full stop."""
    high: float | None
    """Largest number of the teacher's Euler steps; None without a bound."""


@attrs.frozen(kw_only=True)
class Evaluation:
    """The evaluation at the end of a run."""

    verdict: Mapping[int, Verdict]
    """By the number of steps."""
    measures: Mapping[str, Mapping[str, Any]]
    """Standings by the name of the features, then of the measure, as JSON values."""
    distances: Mapping[str, Distances]
    trajectory_error: Mapping[float, float]
    trajectories: int
    """Number of noises behind each trajectory error."""
    identity: Mapping[str, Any]
    """The conditions of the numbers."""
    best: Mapping[str, Any] | None = None
    """If the student is the best of several: its step, the measure, and its value in training."""


@attrs.frozen(kw_only=True, eq=False)
class Record:
    """A run, finished or not."""

    name: str
    directory: Path
    recipe: Mapping[str, Any]
    recipe_text: str
    provenance: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    evaluation: Evaluation | None
    has_student: bool
    saved: int
    """The step of the newest checkpoint; 0 without one."""
    previews: Mapping[int, Picture]
    """The student's samples, by the step."""
    teachers: Picture | None
    """The teacher's samples, from the same noise."""
    samples: Picture | None
    texts: Sequence[str]
    """The texts of the conditions of all pictures, in the order of their images."""
    verification: Mapping[str, Any] | None
    verification_picture: Picture | None
    alarms: Sequence[str] = ()
    """Alarms of the run, the first one first; sentences without a full stop."""
    damaged: Sequence[str] = ()
    """Files that cannot be used, with the reason; sentences without a full stop."""

    @property
    def steps(self) -> int:
        """Number of steps of the whole run."""
        return int(self.recipe["training"]["steps"])

    @property
    def step(self) -> int:
        """Number of recorded steps."""
        reported = [int(line["step"]) for line in self.metrics[-1:]]
        return max([self.saved, *reported])

    @property
    def finished(self) -> bool:
        """Whether there is a student after the recipe's last step."""
        return self.has_student and self.step >= self.steps

    @property
    def missing(self) -> list[str]:
        """The parts that are missing from the report of a finished run, as sentences."""
        found = []
        if not self.finished:
            state = f"{self.step:,} of {self.steps:,} steps are recorded"
            found.append(f"Training has not finished: {state}. The same ffd run resumes it.")
        if not self.metrics:
            found.append(f"There are no curves: {METRICS} is empty.")
        if self.evaluation is not None and not self.finished:
            found.append("The evaluation is for an earlier student, after fewer steps.")
        if self.evaluation is None:
            off = self.recipe.get("evaluation", {}).get("enabled") is False
            why = "it comes after training"
            if off:
                why = "the recipe switches it off"
            elif self.finished:
                why = "the same ffd run makes it"
            found.append(f"There is no evaluation: {why}.")
        if not self.previews:
            found.append("There are no samples from training: the run has no previews.")
        return [*found, *(f"{each}." for each in self.damaged)]


def read_records(directories: Sequence[Path]) -> list[Record]:
    """Return the records of runs; runs with the same name are named by their paths.

    Raises ReportError for anything but a run directory, and if its recipe or provenance is damaged;
    the record lists other damaged files.
    """
    counts = Counter(each.absolute().name for each in directories)
    names = [each.absolute().name for each in directories]
    return [
        _read(each, name if counts[name] == 1 else str(each))
        for each, name in zip(directories, names, strict=True)
    ]


def _read(directory: Path, name: str) -> Record:
    _check(directory)
    text = _parse(directory / RECIPE, str)
    damaged: list[str] = []

    def read_if_whole(file: str, parse: Callable[[Path], Value]) -> Value | None:
        """Return the content of a file; None if it is missing or damaged."""
        path = directory / file
        try:
            return parse(path) if path.exists() else None
        except ReportError as error:
            damaged.append(str(error))
            return None

    previews = [
        read_if_whole(f"{PREVIEWS}/{each.name}", lambda path: (_step(path), _picture(path)))
        for each in sorted((directory / PREVIEWS).glob("step-*.png"))
    ]
    return Record(
        name=name,
        directory=directory,
        recipe=_parse(directory / RECIPE, _recipe),
        recipe_text=text,
        provenance=_parse(directory / PROVENANCE, _provenance),
        metrics=read_if_whole(METRICS, lambda path: _parse(path, _lines)) or [],
        evaluation=read_if_whole(EVALUATION, lambda path: _parse(path, _evaluation)),
        has_student=(directory / STUDENT).is_file(),
        saved=max(map(_step, (directory / CHECKPOINTS).glob("step-*[0-9]")), default=0),
        previews=dict(sorted(each for each in previews if each is not None)),
        teachers=read_if_whole(f"{PREVIEWS}/teacher.png", _picture),
        samples=read_if_whole(SAMPLES, _picture),
        texts=read_if_whole(f"{PREVIEWS}/{TEXTS}", lambda path: _parse(path, _texts)) or (),
        verification=read_if_whole(VERIFICATION, lambda path: _parse(path, _mapping)),
        verification_picture=read_if_whole(VERIFICATION_PICTURE, _picture),
        alarms=read_if_whole(ALARMS, lambda path: _parse(path, _alarms)) or (),
        damaged=damaged,
    )


def _check(directory: Path) -> None:
    if not directory.is_dir():
        found = "is a file" if directory.exists() else "does not exist"
        raise ReportError(f"{directory} {found}: a report needs the directory of an ffd run")
    lacking = [each for each in (RECIPE, PROVENANCE) if not (directory / each).is_file()]
    if lacking:
        raise ReportError(
            f"{directory} is not a run directory: it has no {' and no '.join(lacking)}. A report "
            "needs a directory that ffd run wrote"
        )


def _parse(path: Path, parse: Callable[[str], Value]) -> Value:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}") from None
    except KeyError as error:
        raise ReportError(f"{path} is damaged: it lacks {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ReportError(f"{path} is damaged: {error}") from None


def _recipe(text: str) -> Mapping[str, Any]:
    tree = tomllib.loads(text)
    for role in ("teacher", "student"):
        str(tree[role]["type"])
    for table, name in (("training", "batch"), ("guidance", "scale"), ("guidance", "range")):
        str(tree[table][name])
    int(tree["training"]["steps"])
    return tree


def _provenance(text: str) -> Mapping[str, Any]:
    found = _mapping(text)
    for each in found["components"]:
        str(each["role"]), str(each["type"]), str(each["plugin"]), str(each["distribution"])
    for each in found["changes"]:
        int(each["after_step"]), list(each["changed"])
    return found


def _mapping(text: str) -> Mapping[str, Any]:
    found = parse_json(text)
    if not isinstance(found, dict):
        raise TypeError(f"must be an object, found {type(found).__name__}")
    return found


def _lines(text: str) -> list[Mapping[str, Any]]:
    """Return the lines of the metrics; during a run the last one may be incomplete."""
    found: list[Mapping[str, Any]] = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if line.endswith("\n"):
            try:
                entry = _mapping(line)
                numbers = {name: float(value) for name, value in entry.items()}
                found.append(numbers | {"step": int(entry["step"])})
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"line {number}, {error}") from None
    return found


def _alarms(text: str) -> list[str]:
    found = [parse_json(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [f"at step {int(each['step']):,}, {each['sentence']}" for each in found]


def _texts(text: str) -> list[str]:
    found = parse_json(text)
    if not isinstance(found, list):
        raise TypeError(f"must be an array, found {type(found).__name__}")
    return [str(each) for each in found]


def _evaluation(text: str) -> Evaluation:
    found = _mapping(text)
    if "distances" in found and "verdict" not in found:
        raise ValueError("it is from an earlier ffcore; the same ffd run evaluates again")
    return Evaluation(
        verdict={
            int(steps): Verdict(
                sentence=str(each["sentence"]),
                high=None if each["high"] is None else float(each["high"]),
            )
            for steps, each in found["verdict"].items()
        },
        measures={
            str(features): {str(name): _standing(each) for name, each in measures.items()}
            for features, measures in found["measures"].items()
        },
        trajectories=int(found["trajectories"]),
        distances={
            str(name): Distances(
                floor=float(each["floor"]),
                euler=_by_steps(each["euler"]),
                student={1: float(each["student"])} | _by_steps(each["student_steps"]),
            )
            for name, each in found["distances"].items()
        },
        trajectory_error={
            float(d): float(e["value"])
            for d, e in found["trajectory_error"].items()
            if e is not None  # the teacher moves nothing
        },
        identity=dict(found["identity"]),
        best=_best(found.get("best")),
    )


def _best(found: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if found is None:
        return None
    kept = {"step": int(found["step"]), "measure": str(found["measure"])}
    return kept | {"value": float(found["value"])}


def _standing(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a standing, by whole numbers of steps, with its numbers checked."""

    def estimate(each: Mapping[str, Any]) -> dict[str, float]:
        return {name: float(each[name]) for name in ("value", "low", "high")}

    return {
        "title": str(found["title"]),
        "floor": estimate(found["floor"]),
        "euler": {int(steps): estimate(each) for steps, each in found["euler"].items()},
        "student": {int(steps): estimate(each) for steps, each in found["student"].items()},
        "worth": {
            int(steps): dict(each, text=str(each["text"])) for steps, each in found["worth"].items()
        },
    }


def _by_steps(found: Mapping[str, Any]) -> dict[int, float]:
    return dict(sorted((int(steps), float(value)) for steps, value in found.items()))


def _picture(path: Path) -> Picture:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}") from None
    if not content.startswith(_PNG) or len(content) < 24:
        raise ReportError(f"{path} is damaged: it is not a PNG")
    return Picture(content)


def _step(path: Path) -> int:
    try:
        return int(path.stem.removeprefix("step-"))
    except ValueError:
        raise ReportError(f"{path} has no step in its name") from None
