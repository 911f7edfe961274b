"""A recipe from start to end, in a directory of its own.

    run(load_recipe("recipes/digits.toml"), Path("runs/digits"))

The directory holds the resolved recipe (recipe.toml, which runs as it is), provenance.json,
metrics.jsonl, checkpoint.safetensors, the student's average (student.safetensors), and after
the evaluation evaluation.json, samples.png and curves.png. Started again with the same recipe, a
run goes on where its last checkpoint stands; another recipe, or other files, are refused.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import attrs
import torch

from ffcore import checkpoint, picture
from ffcore.distill import Distillation
from ffcore.evaluate import Evaluation, Measurement, Reference, evaluate, identity, prior
from ffcore.guidance import Guided
from ffcore.interfaces import Context, Features, Student
from ffcore.recipe import Recipe, digest, load_recipe, provenance, to_toml
from ffcore.train import Report, train
from ffcore.weights import read_weights, write_weights

RECIPE, PROVENANCE, METRICS = "recipe.toml", "provenance.json", "metrics.jsonl"
CHECKPOINT, STUDENT = "checkpoint.safetensors", "student.safetensors"
EVALUATION, REFERENCE = "evaluation.json", "reference.safetensors"
SAMPLES, CURVES = "samples.png", "curves.png"
FILES = (
    RECIPE,
    PROVENANCE,
    METRICS,
    CHECKPOINT,
    STUDENT,
    EVALUATION,
    REFERENCE,
    SAMPLES,
    CURVES,
)


POINTS = 1000
"""Samples in a scatter plot, which vectors get instead of rows of images."""


class BuildError(Exception):
    """A recipe is well-formed, and its parts do not fit together."""


class RunDirectoryError(Exception):
    """A run directory holds something other than this run."""


class Observer(Protocol):
    """Who is told how a run goes."""

    def say(self, text: str) -> None:
        """Take a line of news."""

    def report(self, report: Report) -> None:
        """Take a training report."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Take the progress of the evaluation."""


class Silent:
    """An observer that tells nobody."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def report(self, report: Report) -> None:
        """Do nothing."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Do nothing."""


@attrs.frozen(kw_only=True, eq=False)
class Built:
    """A recipe's live objects."""

    distillation: Distillation
    features: list[Features]
    measurement: Measurement
    reference: Reference | None


def build(recipe: Recipe) -> Built:
    """Build everything that a recipe names, without touching the disk but to read.

    New weights depend on the recipe's seed alone, and no global random state changes.

    Raises BuildError where parts do not fit together; WeightsError for weights files.
    """
    training, guidance, evaluation = recipe.training, recipe.guidance, recipe.evaluation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        teacher = _made("teacher", recipe.teacher, Context())
        context = Context(teacher=teacher)
        student = _made("student", recipe.student, context)
        predictor = _made("predictor", recipe.predictor, context)
        corrector = _made("corrector", recipe.corrector, context)
        balancer = _made("balancer", recipe.balancer, context)
        features = [_made("evaluation.features", each, context) for each in evaluation.features]
        if guidance.scale != 1:
            with _part("guidance"):
                teacher = Guided(teacher, guidance.interval, guidance.channels)
        device = _device(training.device)
        with _part("training"):
            distillation = Distillation(
                teacher=teacher,
                student=student,
                predictor=predictor,
                corrector=corrector,
                balancer=balancer,
                optimizer=recipe.optimizer,
                steps=training.steps,
                batch=training.batch,
                seed=training.seed,
                decay=training.average,
                clip=training.clip,
                guidance=guidance.scale,
                device=device,
            )
    return Built(
        distillation=distillation,
        features=[each.to(device) for each in features],
        measurement=Measurement(
            samples=evaluation.samples,
            solver=evaluation.solver,
            solver_steps=evaluation.solver_steps,
            euler=evaluation.euler,
            seed=evaluation.seed,
            guidance=guidance.scale,
            batch=evaluation.batch,
        ),
        reference=Reference.read(evaluation.reference) if evaluation.reference else None,
    )


def _made(name: str, table: Any, context: Context) -> Any:
    """Build the component of a table, if there is one."""
    with _part(name):
        return None if table is None else table.build(context)


@contextmanager
def _part(name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise BuildError(f"[{name}] {error}") from error


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise BuildError(f"[training] device {name!r} cannot be used: {error}") from None
    return name


def run(
    recipe: Recipe, directory: Path, *, restart: bool = False, observer: Observer | None = None
) -> Evaluation | None:
    """Distil as `recipe` says, then evaluate; return the evaluation, None where it is switched off.

    Args:
        recipe: resolved.
        directory: made if it is not there; continued if it holds this very run.
        restart: throw away what the directory holds of an earlier run, and begin anew.
        observer: told of the progress.

    Raises RunDirectoryError, BuildError, WeightsError or Diverged. Before
    training starts, nothing is written.
    """
    with _threads(recipe.training.threads):
        return _run(recipe, directory, restart, observer or Silent())


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Compute with so many CPU threads meanwhile; None leaves their number as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(recipe: Recipe, directory: Path, restart: bool, observer: Observer) -> Evaluation | None:
    recipe_digest = digest(recipe)
    _inspect(directory, recipe, restart)
    built = build(recipe)
    distillation = built.distillation
    if built.reference is not None:
        with _part("evaluation"):
            built.reference.check(identity(distillation.teacher, built.features, built.measurement))
    with _part("self-check"):
        for sentence in distillation.self_check():
            observer.say(sentence)
    _prepare(directory, recipe, built, restart)
    saved = directory / CHECKPOINT
    if saved.exists():
        checkpoint.restore(saved, distillation, recipe_digest)
        observer.say(f"going on after step {distillation.step_index} of {distillation.steps}")
    _forget_after(directory / METRICS, distillation.step_index)
    for report in train(
        distillation,
        log_every=recipe.training.log_every,
        checkpoint_path=saved,
        checkpoint_every=recipe.training.checkpoint_every,
        digest=recipe_digest,
    ):
        _append(directory / METRICS, report)
        observer.report(report)
    write_weights(directory / STUDENT, distillation.average.state_dict())
    _draw_curves(directory)
    return _evaluate(directory, recipe, built, observer) if recipe.evaluation.enabled else None


def load_student(directory: str | Path) -> Student:
    """Return the student of a finished run: the moving average, on the CPU.

    Raises RecipeError or WeightsError where the directory does not hold a finished run.
    """
    student = build(load_recipe(Path(directory) / RECIPE)).distillation.average.cpu()
    read_weights(str(Path(directory) / STUDENT)).load_into(student)
    return student


def _inspect(directory: Path, recipe: Recipe, restart: bool) -> None:
    """Raise RunDirectoryError unless `directory` is free for this run."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise RunDirectoryError(f"{directory} is a file, and a run needs a directory")
    partial = {f".{name}.partial" for name in FILES}  # left by a process that was killed
    present = {path.name for path in directory.iterdir()} - partial
    foreign = sorted(present - set(FILES))
    if foreign:
        raise RunDirectoryError(
            f"{directory} holds what no run has written ({', '.join(foreign[:5])}): "
            "choose another directory"
        )
    stored = directory / RECIPE
    if restart or not present:
        return
    if not stored.exists():
        raise RunDirectoryError(f"{directory} holds no {RECIPE}: choose another, or restart")
    changed = _changed_keys(tomllib.loads(stored.read_text()), tomllib.loads(to_toml(recipe)))
    if changed:
        raise RunDirectoryError(
            f"{directory} holds another run; these keys differ:\n  "
            + "\n  ".join(changed)
            + "\nChoose another directory, or restart to throw that run away."
        )


def _changed_keys(stored: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for name in sorted(stored.keys() | wanted.keys()):
        old, new = stored.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += _changed_keys(old, new, f"{prefix}{name}.")
        elif old != new:
            changed.append(f"{prefix}{name}: {old!r} there, {new!r} here")
    return changed


def _prepare(directory: Path, recipe: Recipe, built: Built, restart: bool) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if restart:
            for name in FILES:
                (directory / name).unlink(missing_ok=True)
        if not (directory / RECIPE).exists():
            _write(directory / RECIPE, to_toml(recipe))
    except OSError as error:
        raise RunDirectoryError(f"{directory} cannot be written: {error}") from None
    if (directory / PROVENANCE).exists():
        return
    manifest = provenance(recipe) | {
        "device": built.distillation.device,
        "data_source_opened_by_training": None,
        "threads": torch.get_num_threads(),
    }
    _write(directory / PROVENANCE, json.dumps(manifest, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def _append(path: Path, report: Report) -> None:
    line = {"step": report.step, "steps_per_second": report.steps_per_second, **report.metrics}
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _history(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    # A process that was killed may have left a line without its end.
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in whole]


def _forget_after(path: Path, step: int) -> None:
    """Drop the metrics of steps that will be made again."""
    kept = [line for line in _history(path) if line["step"] <= step]
    if path.exists():
        _write(path, "".join(json.dumps(line) + "\n" for line in kept))


def _draw_curves(directory: Path) -> None:
    if history := _history(directory / METRICS):
        picture.draw_curves(directory / CURVES, history)


def _evaluate(directory: Path, recipe: Recipe, built: Built, observer: Observer) -> Evaluation:
    teacher, student = built.distillation.teacher, built.distillation.average
    stored = directory / REFERENCE
    known = built.reference or (Reference.read(str(stored)) if stored.exists() else None)
    evaluation, reference = evaluate(
        student, teacher, built.features, built.measurement, known, observer.progress
    )
    if known is None:
        reference.write(stored)
    _write(directory / EVALUATION, json.dumps(attrs.asdict(evaluation), indent=2) + "\n")
    count = recipe.evaluation.rows if len(teacher.sample_shape) > 1 else POINTS
    z, condition = next(prior(teacher, attrs.evolve(built.measurement, batch=count), "picture"))
    rows = picture.rows_of_samples(
        student,
        teacher,
        z,
        picture.in_class_order(teacher, condition),
        solver=built.measurement.solver,
        solver_steps=built.measurement.solver_steps,
    )
    picture.draw_samples(directory / SAMPLES, rows)
    return evaluation
