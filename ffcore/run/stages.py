"""A recipe from start to end, in a directory of its own.

    run(load_recipe("recipes/digits.toml"), Path("runs/digits"))

The directory holds the resolved recipe (recipe.toml, which you can run), provenance.json,
metrics.jsonl, the checkpoints, previews, the student's EMA (student.safetensors), curves.png and
the trackers' files (tracking); after the evaluation also evaluation.json and samples.png. Started
again with the same recipe, a run resumes from its last checkpoint. It refuses another recipe, or a
directory with other files.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol

import attrs
import torch

from ffcore.draws import Draws
from ffcore.evaluate.evaluator import REFERENCE, SMALLER, Evaluation
from ffcore.evaluate.prior import prior
from ffcore.export import (
    CHECKPOINTS,
    EVALUATION,
    STUDENT,
    check_rebuilt,
    conditions_tree,
    describe,
    write_student,
)
from ffcore.flow.consistency import complaint, enough
from ffcore.flow.guidance import remove_guidance
from ffcore.interfaces import Alarm, Context, Teacher, Tracker
from ffcore.plugins import installed
from ffcore.recipe import Changes, Recipe, binding_digest, check_recorded, decisions, to_toml
from ffcore.recipe.components import BuildError, build_component, computing, errors_of
from ffcore.recipe.diagnostics import path_text
from ffcore.recipe.needs import contradictions
from ffcore.recipe.tables import components
from ffcore.report import plots
from ffcore.run import alarms
from ffcore.run.best import BEST, Best
from ffcore.run.build import Built, build
from ffcore.run.directory import (
    ALARMS,
    CURVES,
    METRICS,
    SAMPLES,
    TRACKING,
    RunDirectory,
    Start,
)
from ffcore.run.measurements import Measurements
from ffcore.run.previews import PREVIEWS, Previews, rows_of_samples, shown_noise, texts_of
from ffcore.run.resume import note, resume
from ffcore.run.timing import Timed, steps_in
from ffcore.run.tracking import Tracking
from ffcore.system.distributed import (
    Processes,
    join_processes,
    load_whole_state,
    whole_state,
)
from ffcore.system.faults import enough_memory, require_memory, writable
from ffcore.system.files import write_text
from ffcore.system.weights import unidentified
from ffcore.training.checkpoint import Checkpoints
from ffcore.training.loop import Report, Stopped, train

_CHOOSING = ("evaluation.ema_decay", "evaluation.keep_best", "evaluation.every")
"""Keys that choose the student among those of a finished training."""
_SMALLER = (
    "The teacher, the student, its EMAs and the auxiliary networks must fit into memory together: "
    "use a smaller student, or a GPU with more memory."
)


class Observer(Protocol):
    """Receives the progress of a run."""

    def say(self, text: str) -> None:
        """Take a line of text."""

    def report(self, report: Report) -> None:
        """Take a training report."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Take the progress of the evaluation."""


class Silent:
    """An observer that reports nothing."""

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
    """Distil as `recipe` says, then evaluate; return the evaluation, None if switched off.

    Args:
        recipe: resolved.
        directory: created if missing; resumed if it holds this run.
        restart: delete the files of an earlier run in the directory and start again.
        resume: fail without a checkpoint to resume from.
        allow_changes: resume even if keys that training depends on have changed.
        observer: receives the progress.
        stop: called after each training step and during the evaluation; True stops the run.

    Raises RunDirectoryError, CheckpointError, BuildError, WeightsError, Stopped or Diverged.
    Nothing is written until the networks are built and checked.
    """
    start = Start(restart=restart, resume=resume, allow_changes=allow_changes)
    with computing(recipe.training) as device, join_processes(device) as processes:
        return Run(recipe, RunDirectory(directory), start, processes, observer, stop).whole()


class Run:
    """A run of a recipe in a directory, stage by stage; `whole` goes through all of them.

    Every process makes the same calls. Only the leading one writes and has an observer.

    Args:
        recipe: resolved; `build` decides every "auto".
        directory: of this run.
        start: how to start.
        processes: that share the work.
        observer: receives the progress.
        stop: True stops the run.

    Raises BuildError for a component that could not be built again from the run's files.
    """

    built: Built
    """The recipe's live objects, after `build`."""

    def __init__(
        self,
        recipe: Recipe,
        directory: RunDirectory,
        start: Start,
        processes: Processes,
        observer: Observer | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        for role, table in components(recipe):
            with errors_of(role):
                check_recorded(role, table)
        self.recipe = recipe if start.restart else directory.with_decisions(recipe)
        self.directory, self.start, self.processes = directory, start, processes
        self.observer: Observer = observer if observer and processes.leads else Silent()
        self.stop = stop
        self.changed = Changes()
        """Changes of the recipe since the run started."""
        self.history: list[alarms.Line] = []
        """The metrics so far, in the leading process."""
        self.alarms: list[alarms.Raised] = []
        """The alarms so far, in the leading process."""
        self.timed: Timed | None = None
        """Where the steps come from, if the recipe states minutes."""
        self.best: dict[str, Any] | None = None
        """The step, the measure and the value of the student, if it is the best of several."""
        name = directory.path.absolute().name
        self.tracking = Tracking(directory / TRACKING, name, self._tree(), self.observer.say)

    def whole(self) -> Evaluation | None:
        """Go through all stages; see `run`."""
        first, directory = self.processes.first, self.directory
        self.changed = first(lambda: directory.changes(self.recipe, self.start))
        with ExitStack() as stack:
            first(lambda: stack.enter_context(directory.alone()))
            first(lambda: self.tracking.add(self._trackers()))
            with enough_memory("building the networks", _SMALLER):
                self.build()
                self.check()
            device = self.built.distillation.device
            first(
                lambda: directory.prepare(
                    self.recipe, device, restart=self.start.restart, timed=self.timed
                )
            )
            stack.enter_context(self.tracking)
            self.train()
            return self.evaluate() if self.recipe.evaluation.enabled else None

    def build(self) -> None:
        """Build all components of the recipe; report the decisions made for the user."""
        begins = self.start.restart or not self.directory.has_checkpoint
        if self.recipe.training.minutes is not None:
            self._fix_steps(self.recipe.training.minutes)
        self.built = build(self.recipe, begins=begins, say=self.observer.say)
        for line in decisions(self.recipe, self.built.recipe):
            self.observer.say(line)
        self.recipe = self.built.recipe
        self.tracking.recipe = self._tree()

    def _fix_steps(self, minutes: float) -> None:
        """Replace the minutes of training by the steps that fit into them."""
        self.built = build(self.recipe)
        self._check_sizes(self.built.distillation.teacher.sample_shape)
        with errors_of("self-check"):
            self.built.distillation.self_check()
        self._parallelize()
        self.timed = steps_in(minutes, self.built.distillation, self.processes)
        del self.built
        self.observer.say(str(self.timed))
        training = attrs.evolve(self.recipe.training, steps=self.timed.steps, minutes=None)
        self.recipe = attrs.evolve(self.recipe, training=training)
        for problem in contradictions(self.recipe):
            raise BuildError(f"with {self.timed}: {path_text(problem.path)}: {problem.text}")

    def _parallelize(self) -> None:
        """Divide the work over the processes."""
        parallel, training = self.recipe.parallel, self.recipe.training

        def parallelize() -> None:
            with errors_of("parallel"):
                self.built.distillation.parallelize(
                    self.processes,
                    parallel.strategy,
                    activation_checkpointing=parallel.activation_checkpointing,
                    compiled=training.compile,
                )

        self.processes.together(parallelize)

    def _check_sizes(self, shape: tuple[int, ...]) -> None:
        """Raise OutOfMemory for a batch or a picture whose noise alone does not fit."""
        recipe, one = self.recipe, 4 * math.prod(shape)
        shares = self.processes.size * recipe.parallel.accumulation
        batch, rows = recipe.training.batch, recipe.evaluation.rows
        require_memory(
            one * (batch // shares),
            f"the noise of training.batch = {batch}",
            "Make it smaller, or raise parallel.accumulation.",
        )
        if recipe.evaluation.previews or recipe.evaluation.enabled:
            require_memory(one * rows, f"the noise of evaluation.rows = {rows}", "Make it smaller.")

    def check(self) -> None:
        """Check before training that the derivative, the features and the reference work.

        Raises BuildError.
        """
        built, say = self.built, self.observer.say
        teacher = built.distillation.teacher
        self._check_sizes(teacher.sample_shape)
        if conditions_tree(self.recipe, teacher.conditions) is None:
            say(
                f"only the teacher knows its conditions ({type(teacher.conditions).__name__}): "
                "ffcore samples this student beside its teacher's files only, and cannot export "
                "it. Build the conditions in a table [conditions] to change that."
            )
        with errors_of("self-check"):
            for sentence in built.distillation.self_check():
                say(sentence)
            check_rebuilt(self.recipe, remove_guidance(teacher), built.distillation.student)
        if self.start.restart or not self.directory.has_checkpoint:
            self._check_samples(teacher)
        few = attrs.evolve(built.evaluator.measurement, batch=2)
        z, _ = next(prior(teacher, few, "check"))
        for features in built.evaluator.features:
            with errors_of("evaluation.features"), torch.no_grad():
                try:
                    features(z)
                except RuntimeError as error:
                    shape = teacher.sample_shape
                    raise ValueError(
                        f"{features.name} cannot take samples {shape}: {error}"
                    ) from error
        with errors_of("evaluation.reference"):
            built.evaluator.check()

    def _check_samples(self, teacher: Teacher) -> None:
        """Check that the teacher's velocity is that of its own samples, and of noise at t = 1."""
        size = enough(math.prod(teacher.sample_shape))
        few = attrs.evolve(self.built.evaluator.measurement, batch=size)
        z, condition = next(prior(teacher, few, "check", size))
        draws = Draws(few.seed, 0, 0, size, str(z.device))
        with errors_of("teacher"):
            said = complaint(teacher, z, condition, draws)
        if said:
            self.observer.say(said)

    def train(self) -> None:
        """Train to the last step, from the last checkpoint if there is one; save the student."""
        distillation = self.built.distillation
        # Before training: the recipe's files may be gone afterwards.
        description = describe(
            self.recipe,
            remove_guidance(distillation.teacher),
            self.built.student,
            distillation.steps,
            self.built.decoder,
        )
        previews = Previews(self.directory / PREVIEWS, self.built, self.recipe, self.processes)
        measurements = self._measurements()
        self._parallelize()
        checkpoints = self._checkpoints(description["teacher"])
        self.resume(checkpoints)
        begun = distillation.step_index
        self.processes.first(lambda: self.directory.describe(description))
        self.processes.first(lambda: self.directory.forget_after(begun))
        previews.begin()
        best = self._best(measurements, description)
        with errors_of("evaluation"):
            best.begin(begun, finished=begun >= distillation.steps)
        self.processes.first(self._begin_alarms)
        self.tracking.begin(begun)
        self._steps(checkpoints, previews, measurements, best)
        if best.found is not None:
            self._take(best)
            description |= {"step": best.found.step}
        state = whole_state(self.built.student)

        def save() -> None:
            with writable(self.directory.path, STUDENT):
                if begun < distillation.steps or any(map(self.changed.has, _CHOOSING)):
                    self.directory.forget_measurements()
                write_student(self.directory / STUDENT, state, description)
                if lines := self.directory.history():
                    plots.draw_curves(self.directory / CURVES, lines)

        self.processes.first(save)

    def _steps(
        self, checkpoints: Checkpoints, previews: Previews, measurements: Measurements, best: Best
    ) -> None:
        """Make all steps that are left."""
        distillation, training = self.built.distillation, self.recipe.training
        if distillation.step_index < distillation.steps:
            self.observer.say(
                f"training to step {distillation.steps}; {METRICS} gets a line every "
                f"{training.log_every} steps"
            )

        def look(step: int) -> None:
            previews.show(step)
            if measurements.due(step):
                numbers = measurements.measure()
                self._record(step, numbers)
                best.offer(step, numbers, self.built.student)

        reports = train(
            distillation,
            log_every=training.log_every,
            checkpoints=checkpoints,
            checkpoint_every=training.checkpoint_every,
            stop=self.stop,
            after_step=look,
        )
        with closing(reports):
            for report in reports:
                self._record(report.step, report.numbers)
                self.observer.report(report)

    def _take(self, best: Best) -> None:
        """Make the best student so far the student."""
        assert best.found is not None
        load_whole_state(self.built.student, best.state())
        step = best.found.step
        self.best = {"step": step, "measure": best.measure, "value": best.found.value}
        self.observer.say(
            f"the student is the EMA after step {step}, the best by {best.title} of those measured "
            "during training"
        )

    def _measurements(self) -> Measurements:
        def progress(what: str, done: int, total: int) -> None:
            if self.stop():
                raise Stopped(self.built.distillation.step_index)
            self.observer.progress(what, done, total)

        with errors_of("evaluation"):
            return Measurements(
                self.directory.path, self.built, self.recipe, self.processes, progress
            )

    def _best(self, measurements: Measurements, description: Mapping[str, Any]) -> Best:
        return Best(
            self.directory / BEST,
            self.directory / CHECKPOINTS,
            self.recipe.evaluation.keep_best,
            description,
            measurements,
            self.processes,
        )

    def _record(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write numbers down, pass them to the trackers, and raise the alarms they deserve."""
        if not self.processes.leads:
            return
        line = {"step": step, **numbers}
        self.directory.append(METRICS, line)
        self.tracking.track(step, numbers)
        before = self.history[-1]["step"] if self.history else 0
        self.history.append(line)
        steps = self.built.distillation.steps
        if alarms.due(step, before, steps):
            rules = self._rules()
            for each in alarms.raised(self.history, steps, rules):
                self._raise_alarm(each)

    def _rules(self) -> list[Alarm]:
        """Return the objectives' alarms.

        A corrector moves the student off the predictor's optimum, so beside one the predictor's
        numbers need not fall.
        """
        objectives = self.built.distillation.objectives
        return [
            rule
            for name, each in objectives.items()
            for rule in each.alarms
            if not (rule.rule == "stops falling" and name == "prediction" and len(objectives) > 1)
        ]

    def _begin_alarms(self) -> None:
        """Take up the history of this run, since its recipe last changed."""
        changed = max((each["after_step"] for each in self.directory.past_changes()), default=0)
        self.history = [line for line in self.directory.history() if line["step"] > changed]
        self.alarms = [alarms.Raised(**line) for line in self.directory.history(ALARMS)]

    def _raise_alarm(self, alarm: alarms.Raised) -> None:
        """Report an alarm and store it, unless the run has already raised it."""
        if alarm.name in {each.name for each in self.alarms}:
            return
        self.alarms.append(alarm)
        self.directory.append(ALARMS, attrs.asdict(alarm))
        self.observer.say(f"alarm at step {alarm.step}: {alarm.sentence}")

    def _checkpoints(self, teacher: Mapping[str, Any]) -> Checkpoints:
        training, data = self.recipe.training, self.built.distillation.data
        return Checkpoints(
            self.directory / CHECKPOINTS,
            run={
                "recipe": binding_digest(self.recipe),
                "teacher": teacher["fingerprint"],
                "conditions": teacher["conditions"],
                "data": "none" if data is None else f"{len(data)} samples",
            },
            keep_last=training.keep_last,
            keep_every=training.keep_every,
        )

    def resume(self, checkpoints: Checkpoints) -> None:
        """Resume from a checkpoint if there is one, and store a changed recipe.

        Raises CheckpointError.
        """
        distillation, changed, say = self.built.distillation, self.changed, self.observer.say
        history = self.directory.past_changes()
        found = resume(
            checkpoints,
            distillation,
            accepted=[each["run"] for each in history],
            allow_changes=self.start.allow_changes,
            say=say,
        )
        if found:
            say(_progress(found.step, distillation.steps))
            if other := self.directory.other_versions(self.recipe):
                say(f"this run started with other versions: {', '.join(other)}")
            if unknown := unidentified(checkpoints.run):
                say(f"{unknown}: ffcore cannot check that the run started with the same one")
        if changed:
            say("\n  ".join(["the recipe has changed:", *changed.lines]))
        if changed.has("training.steps") and distillation.scheduled:
            say(f"from here on, learning rates follow the schedule of {distillation.steps} steps")
        if changed or (found and found.run != checkpoints.run):
            changes = [*history, note(found, changed.lines)]
            self.processes.first(
                lambda: self.directory.change(self.recipe, distillation.device, changes, self.timed)
            )

    def evaluate(self) -> Evaluation:
        """Evaluate and draw; all processes take part, since each may hold only shards."""
        built, directory = self.built, self.directory
        teacher, steps = built.distillation.teacher, built.distillation.steps

        def progress(what: str, done: int, total: int) -> None:
            if self.stop():  # nothing is lost: everything is written at the end
                raise Stopped(steps)
            self.observer.progress(what, done, total)

        known = built.evaluator.known_reference(directory.path)
        with errors_of("evaluation"), enough_memory("the evaluation", SMALLER):
            evaluation, reference = built.evaluator.evaluate(built.student, known, progress)
        evaluation = attrs.evolve(evaluation, best=self.best)
        z, condition = shown_noise(built, self.recipe.evaluation.rows)
        rows = rows_of_samples(
            built.student,
            teacher,
            z,
            condition,
            solver=built.evaluator.measurement.solver,
            student_steps=built.evaluator.measurement.student_steps,
        )
        images = {name: built.decoder(row) for name, row in rows.items()}
        texts = texts_of(teacher, condition)

        def save() -> None:
            with writable(directory.path, EVALUATION):
                if known is None:
                    reference.write(directory / REFERENCE)
                text = json.dumps(evaluation.document(), indent=2, allow_nan=False) + "\n"
                write_text(directory / EVALUATION, text)
                plots.draw_samples(directory / SAMPLES, images, texts)
            self.alarms = [each for each in self.alarms if each.name != alarms.SOLVER]
            directory.forget_alarm(alarms.SOLVER)
            solver = self.recipe.evaluation.solver
            if (found := alarms.solver_alarm(evaluation, solver, steps)) is not None:
                self._raise_alarm(found)

        self.processes.first(save)
        if undefined := evaluation.undefined():
            more = f" and {len(undefined) - 1} more" if len(undefined) > 1 else ""
            self.observer.say(
                f"{EVALUATION} has null for {undefined[0]}{more}: NaN, infinite, or relative to a "
                "teacher that moves nothing"
            )
        self._track(evaluation)
        return evaluation

    def _track(self, evaluation: Evaluation) -> None:
        distances = {name: each.student for name, each in evaluation.distances.items()}
        errors = evaluation.trajectory_error.items()
        found = {f"distance/{name}": each for name, each in distances.items() if each is not None}
        found |= {f"trajectory_error/{delta:g}": each.value for delta, each in errors if each}
        step = self.built.distillation.steps
        self.tracking.track(step, found)
        self.tracking.show(step, "samples", self.directory / SAMPLES)

    def _trackers(self) -> list[tuple[str, Tracker]]:
        return [
            (
                installed().type_name("tracker", each),
                build_component("trackers", each, Context(), Tracker),
            )
            for each in self.recipe.trackers
        ]

    def _tree(self) -> dict[str, object]:
        return tomllib.loads(to_toml(self.recipe))


def _progress(step: int, steps: int) -> str:
    if step < steps:
        return f"resuming after step {step} of {steps}"
    return (
        f"already finished after step {steps}: no more training, even if code has changed; use "
        "--restart to train again"
    )
