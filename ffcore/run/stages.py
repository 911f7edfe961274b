"""A recipe from start to end, in a directory of its own.

    run(load_recipe("recipes/digits.toml"), Path("runs/digits"))

The directory holds the resolved recipe (recipe.toml, which runs as it is), provenance.json,
metrics.jsonl, the checkpoints, previews, the student's average (student.safetensors), after the
evaluation evaluation.json, samples.png and curves.png, and what trackers keep (tracking). Started
again with the same recipe, a run goes on where its last checkpoint stands; another recipe, or other
files, are refused.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import attrs
import torch

from ffcore.evaluate.against_teacher import Evaluation, evaluate
from ffcore.evaluate.measurement import identity, prior
from ffcore.evaluate.reference import Reference
from ffcore.export import (
    EVALUATION,
    STUDENT,
    describe,
    write_student,
)
from ffcore.flow.guidance import unguided
from ffcore.flow.ode import noise_slope, points_wrongly
from ffcore.interfaces import Context, Tracker
from ffcore.plugins import installed
from ffcore.recipe import Changes, Recipe, Training, binding_digest, decisions, to_toml
from ffcore.recipe.components import BuildError, made, part, usable_device
from ffcore.report import plots
from ffcore.run.build import Built, build
from ffcore.run.directory import (
    CHECKPOINTS,
    CURVES,
    MEASURED,
    METRICS,
    PROVENANCE,
    REFERENCE,
    SAMPLES,
    TRACKING,
    alone,
    append,
    change,
    decided,
    forget_after,
    history,
    inspect,
    other_versions,
    prepare,
)
from ffcore.run.previews import PREVIEWS, Previews, rows_of_samples, shown_noise
from ffcore.run.resume import note, noted, resume
from ffcore.run.tracking import Tracking
from ffcore.system.allocator import keeping
from ffcore.system.distributed import Processes, joined, own_device, whole_state
from ffcore.system.faults import enough_memory, writable
from ffcore.system.files import write_text
from ffcore.system.weights import UNKNOWN
from ffcore.training.checkpoint import Checkpoints
from ffcore.training.distillation import Distillation
from ffcore.training.loop import Report, Stopped, train

SLOPED = 8
"""Samples of noise on which the teacher is asked, before training, which way it points."""
_SMALLER = (
    "The teacher, the student, its averages and the auxiliary networks must fit together: take a "
    "smaller student, or an accelerator with more memory."
)


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


def run(
    recipe: Recipe,
    directory: Path,
    *,
    restart: bool = False,
    resume: bool = False,
    allow_changes: bool = False,
    observer: Observer | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Distil as `recipe` says, then evaluate; return the evaluation, None where it is switched off.

    Args:
        recipe: resolved.
        directory: made if it is not there; continued if it holds this very run.
        restart: throw away what the directory holds of an earlier run, and begin anew.
        resume: insist that there is a checkpoint to go on from.
        allow_changes: go on although the recipe has changed in what training depends on.
        observer: told of the progress.
        stop: asked after each training step, and while evaluating, whether to stop there.

    Raises RunDirectoryError, CheckpointError, BuildError, WeightsError, Stopped or Diverged. Before
    training starts, nothing is written.
    """
    started = _Start(restart=restart, resume=resume, allow_changes=allow_changes)
    with part("training"):
        device = own_device(usable_device(recipe.training.device))
    memory = keeping() if torch.device(device).type == "cpu" else nullcontext()
    with _arithmetic(recipe.training), memory, joined(device) as processes:
        observer = observer if observer and processes.leads else Silent()
        return _run(recipe, directory, started, processes, observer, stop)


@attrs.frozen(kw_only=True)
class _Start:
    """How a run is to begin."""

    restart: bool
    resume: bool
    allow_changes: bool


@contextmanager
def _arithmetic(training: Training) -> Iterator[None]:
    """Compute with the threads and the precision of products that a recipe asks for, meanwhile."""
    threads, cpus = training.threads, os.cpu_count() or 1
    if threads is not None and threads > cpus:
        raise BuildError(f"[training] threads is {threads}, and there are {cpus} CPUs")
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(threads or before[0])
    torch.set_float32_matmul_precision("high" if training.tf32 else "highest")
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])


def _run(
    recipe: Recipe,
    directory: Path,
    start: _Start,
    processes: Processes,
    observer: Observer,
    stop: Callable[[], bool],
) -> Evaluation | None:
    """Do what `run` says; of several processes, the leading one alone writes."""
    if not start.restart:
        recipe = decided(directory, recipe)
    changed = processes.first(lambda: inspect(directory, recipe, **attrs.asdict(start)))
    tree, name = tomllib.loads(to_toml(recipe)), directory.absolute().name
    tracking = Tracking(directory / TRACKING, name, tree, observer.say)
    with ExitStack() as stack:
        processes.first(lambda: stack.enter_context(alone(directory)))
        processes.first(lambda: tracking.add(_trackers(recipe)))
        with enough_memory("building the networks", _SMALLER):
            built = build(recipe)
            for line in decisions(recipe, built.recipe):
                observer.say(line)
            recipe = built.recipe
            tracking.recipe = tomllib.loads(to_toml(recipe))
            _check(built, observer)
        processes.first(
            lambda: prepare(directory, recipe, built.distillation.device, restart=start.restart)
        )
        stack.enter_context(tracking)
        _train(directory, recipe, built, changed, start, processes, observer, stop, tracking)
        if not recipe.evaluation.enabled:
            return None
        evaluation = _evaluate(directory, recipe, built, processes, observer, stop)
        _track_evaluation(tracking, built.distillation.steps, evaluation, directory)
        return evaluation


def _trackers(recipe: Recipe) -> list[tuple[str, Tracker]]:
    return [
        (installed().type_name("tracker", table), made("trackers", table, Context(), Tracker))
        for table in recipe.trackers
    ]


def _track_evaluation(
    tracking: Tracking, step: int, evaluation: Evaluation, directory: Path
) -> None:
    distances = {name: each.student for name, each in evaluation.distances.items()}
    errors = evaluation.trajectory_error.items()
    found = {f"distance/{name}": each for name, each in distances.items() if each is not None}
    found |= {f"trajectory_error/{delta:g}": error for delta, error in errors}
    tracking.track(step, found)
    tracking.show(step, "samples", directory / SAMPLES)


def _check(built: Built, observer: Observer) -> None:
    """Find out before training whether the derivative, the features and the reference will do."""
    distillation, teacher = built.distillation, built.distillation.teacher
    with part("self-check"):
        for sentence in distillation.self_check():
            observer.say(sentence)
    z, condition = next(prior(teacher, attrs.evolve(built.measurement, batch=SLOPED), "check"))
    if points_wrongly(slope := noise_slope(teacher, z, condition)):
        observer.say(
            f"the teacher's velocity at t = 1 changes with the noise by {slope:+.2f}, and an exact "
            "one by −1: its sign, or the direction of its time, may be the other one"
        )
    for features in built.features:
        with part("evaluation.features"), torch.no_grad():
            try:
                features(z[:2])
            except RuntimeError as error:
                shape = teacher.sample_shape
                raise ValueError(f"{features.name} cannot take samples {shape}: {error}") from error
    if built.reference is not None:
        with part("evaluation.reference"):
            found = identity(teacher, built.features, built.measurement)
            if found["teacher"] == UNKNOWN:
                raise ValueError("a teacher without parameters cannot be recognised by a reference")
            try:
                built.reference.check(found)
            except ValueError as error:
                raise ValueError(f'{error}\n"none" samples the teacher anew') from None


def _train(
    directory: Path,
    recipe: Recipe,
    built: Built,
    changed: Changes,
    start: _Start,
    processes: Processes,
    observer: Observer,
    stop: Callable[[], bool],
    tracking: Tracking,
) -> None:
    distillation, training = built.distillation, recipe.training
    student = built.student
    # Before training: the files that it names may be gone afterwards.
    description = describe(
        recipe, unguided(distillation.teacher), student, distillation.steps, built.decoder
    )
    previews = Previews(directory / PREVIEWS, built, recipe, processes)
    with part("parallel"):
        distillation.lay_out(
            processes,
            recipe.parallel.strategy,
            recomputed=recipe.parallel.checkpointing,
            compiled=training.compile,
        )
    checkpoints = Checkpoints(
        directory / CHECKPOINTS,
        run={
            "recipe": binding_digest(recipe),
            "teacher": description["teacher"]["fingerprint"],
            "data": "none" if distillation.data is None else f"{len(distillation.data)} samples",
        },
        keep_last=training.keep_last,
        keep_every=training.keep_every,
    )
    _go_on(directory, recipe, built, checkpoints, changed, start, observer)
    processes.first(lambda: forget_after(directory / METRICS, distillation.step_index))
    previews.begin()
    begun = distillation.step_index
    tracking.begin(begun)
    if distillation.step_index < distillation.steps:
        observer.say(
            f"training to step {distillation.steps}; {METRICS} gets a line every "
            f"{training.log_every} steps"
        )
    reports = train(
        distillation,
        log_every=training.log_every,
        checkpoints=checkpoints,
        checkpoint_every=training.checkpoint_every,
        stop=stop,
        made=previews.show,
    )
    with closing(reports):
        for report in reports:
            if processes.leads:
                append(directory / METRICS, report)
            tracking.track(report.step, report.numbers)
            observer.report(report)
    state = whole_state(student)

    def keep() -> None:
        with writable(directory, STUDENT):
            if begun < distillation.steps or changed.has("evaluation.average"):
                for name in MEASURED:
                    (directory / name).unlink(missing_ok=True)
            write_student(directory / STUDENT, state, description)
            _draw_curves(directory)

    processes.first(keep)


def _go_on(
    directory: Path,
    recipe: Recipe,
    built: Built,
    checkpoints: Checkpoints,
    changed: Changes,
    start: _Start,
    observer: Observer,
) -> None:
    """Resume, if there is a checkpoint; let a changed recipe be that of the run from here on."""
    distillation, history = built.distillation, noted(directory / PROVENANCE)
    found = resume(
        checkpoints,
        distillation,
        accepted=[each["run"] for each in history],
        allow_changes=start.allow_changes,
    )
    if found:
        observer.say(_how_it_stands(found.step, distillation.steps))
        if other := other_versions(directory / PROVENANCE, recipe):
            observer.say(f"what stands here was made with other versions: {', '.join(other)}")
        if checkpoints.run["teacher"] == UNKNOWN:
            observer.say(
                "this teacher has no parameters to recognise it by: whether it is the one that the "
                "run began with is not known"
            )
    if changed:
        observer.say("\n  ".join(["the recipe has changed:", *changed.lines]))
    if changed.has("training.steps") and _scheduled(distillation):
        observer.say(f"learning rates fall as over {distillation.steps} steps from here on")
    if changed or (found and found.run != checkpoints.run):
        changes = [*history, note(found, changed.lines)]
        distillation.processes.first(
            lambda: change(directory, recipe, distillation.device, changes)
        )


def _scheduled(distillation: Distillation) -> bool:
    learners = [distillation.learner, *distillation.auxiliary_learners.values()]
    return any(each.table.schedule != "constant" for each in learners)


def _how_it_stands(step: int, steps: int) -> str:
    if step < steps:
        return f"going on after step {step} of {steps}"
    return (
        f"finished already, after step {steps}: nothing was trained, whatever code has changed "
        "since; --restart trains anew"
    )


def _draw_curves(directory: Path) -> None:
    if lines := history(directory / METRICS):
        plots.draw_curves(directory / CURVES, lines)


def _evaluate(
    directory: Path,
    recipe: Recipe,
    built: Built,
    processes: Processes,
    observer: Observer,
    stop: Callable[[], bool],
) -> Evaluation:
    """Measure and draw: all processes alike, since none may have a whole network alone."""

    def progress(what: str, done: int, total: int) -> None:
        if stop():  # nothing is lost: all is written at the end
            raise Stopped(built.distillation.steps)
        observer.progress(what, done, total)

    teacher, student = built.distillation.teacher, built.student
    stored = directory / REFERENCE
    known = built.reference or _stored_reference(stored, built)
    with part("evaluation"), enough_memory("the evaluation", "Make evaluation.batch smaller."):
        evaluation, reference = evaluate(
            student, teacher, built.features, built.measurement, known, progress
        )
    z, condition = shown_noise(built, recipe.evaluation.rows)
    rows = rows_of_samples(
        student,
        teacher,
        z,
        condition,
        solver=built.measurement.solver,
        student_steps=built.measurement.student_steps,
    )
    images = {name: built.decoder(row) for name, row in rows.items()}

    def keep() -> None:
        with writable(directory, EVALUATION):
            if known is None:
                reference.write(stored)
            text = json.dumps(attrs.asdict(evaluation), indent=2) + "\n"
            write_text(directory / EVALUATION, text)
            plots.draw_samples(directory / SAMPLES, images)

    processes.first(keep)
    return evaluation


def _stored_reference(path: Path, built: Built) -> Reference | None:
    """Return the reference that an earlier evaluation left, if it was measured as this one is.

    That of a teacher without parameters is not: nobody knows whether it is still the same.
    """
    if not path.exists():
        return None
    reference = Reference.read(str(path))
    found = identity(built.distillation.teacher, built.features, built.measurement)
    known = found["teacher"] != UNKNOWN
    return reference if known and reference.identity == found else None
