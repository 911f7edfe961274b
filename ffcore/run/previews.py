"""Previews: samples from the same noise during training.

Most changes happen early, so a run of N steps draws a preview before the first step and after N,
N/2, N/4, … steps. Each picture shows the EMA that is evaluated. It is stored as
previews/step-00000125.png, beside teacher.png with the teacher's own samples.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import attrs
import torch
from PIL import Image
from torch import Tensor

from ffcore.evaluate.prior import prior
from ffcore.flow.flow_map import generate
from ffcore.flow.ode import integrate
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, ConditionSource, Student, Teacher
from ffcore.recipe import Recipe
from ffcore.report import plots
from ffcore.run.build import Built
from ffcore.system.distributed import Processes
from ffcore.system.faults import enough_memory, writable
from ffcore.system.files import write_text
from ffcore.training.checkpoint.name import directory_name
from ffcore.training.parallelize import cut_again

PREVIEWS = "previews"
TEXTS = "conditions.json"
"""The texts of the conditions, in the order of the images; only if there are any."""
_REMEDY = "Make evaluation.rows smaller, or evaluation.previews = 0."


def shown_noise(built: Built, rows: int) -> tuple[Tensor, Condition]:
    """Return the noise of all pictures of a run, and its conditions in the order of names.

    Args:
        built: the run's.
        rows: number of samples, if they are images.
    """
    teacher = built.distillation.teacher
    count = rows if len(teacher.sample_shape) > 1 else plots.POINTS
    z, condition = next(
        prior(teacher, attrs.evolve(built.evaluator.measurement, batch=count), "picture")
    )
    return z, in_order(teacher.conditions, condition).to(z.device)


def texts_of(teacher: Teacher, condition: Condition) -> list[str]:
    """Return the text of each condition for a picture; none for vectors, which stand in no order,
    and none if all are empty."""
    texts = [*teacher.conditions.texts(condition)] if len(teacher.sample_shape) > 1 else []
    return texts if any(texts) else []


def shown_steps(steps: int, previews: int) -> set[int]:
    """Return the steps after which to draw a preview, at most `previews` of them."""
    if not previews:
        return set()
    first = {0} if previews > 1 else set()
    halvings = min(max(1, previews - 1), steps.bit_length())  # after these, there is no step left
    return first | {steps >> halved for halved in range(halvings)}


class Previews:
    """The pictures that a run draws while it trains.

    They do not change training, and synchronise with the device only at their own steps. Create the
    object before networks are parallelized: only the constructor calls the teacher.

    Args:
        folder: to store them in.
        built: the run's.
        recipe: resolved.
        processes: all of them generate the samples; the leading one draws.
    """

    def __init__(self, folder: Path, built: Built, recipe: Recipe, processes: Processes) -> None:
        evaluation, distillation = recipe.evaluation, built.distillation
        self.folder, self.built, self.processes = folder, built, processes
        self.steps = shown_steps(distillation.steps, evaluation.previews)
        self.conditions = (
            f"seed {evaluation.seed}, guidance {recipe.guidance.scale:g}, {evaluation.rows} rows, "
            f"EMA {recipe.measured_ema:g}, {recipe.decoder}, "
            f"conditions {distillation.teacher.conditions.fingerprint()}"
        )
        if not self.steps:
            return
        self.z, self.condition = shown_noise(built, evaluation.rows)
        self.texts = texts_of(distillation.teacher, self.condition)

        @torch.no_grad()
        def sample() -> Tensor:
            solver = built.evaluator.measurement.solver
            return integrate(distillation.teacher, self.z, self.condition, solver).cpu()

        with enough_memory("the teacher's samples for previews", _REMEDY):
            self.teachers = processes.first(sample)

    def begin(self) -> None:
        """Delete pictures of later steps or other settings, then show the current student."""
        step = self.built.distillation.step_index
        self.processes.first(lambda: self._forget(step))
        if self.steps:
            self.processes.first(lambda: self._draw("teacher", self.teachers))
            self.processes.first(self._write_texts)
            self.show(step)

    @torch.no_grad()
    def show(self, step: int) -> None:
        """Show the student after `step` steps, if a preview is due and not yet drawn."""
        if step not in self.steps:
            return
        name = directory_name(step)
        if self.processes.first((self.folder / f"{name}.png").exists):
            return
        with self.built.distillation.time(PREVIEWS), enough_memory("a preview", _REMEDY):
            samples = generate(self.built.student, self.z, self.condition)
            cut_again(self.built.student)
            self.processes.first(lambda: self._draw(name, samples))

    @torch.no_grad()
    def _draw(self, name: str, samples: Tensor) -> None:
        device = self.z.device
        images, behind = (
            # One at a time: training leaves little memory.
            torch.cat([self.built.decoder(each.to(device)).cpu() for each in of.split(1)])
            for of in (samples, self.teachers)
        )
        with writable(self.folder.parent, f"{PREVIEWS}/{name}.png"):
            self.folder.mkdir(exist_ok=True)
            plots.draw_preview(self.folder / f"{name}.png", images, behind, self.conditions)

    def _write_texts(self) -> None:
        path = self.folder / TEXTS
        with writable(self.folder.parent, f"{PREVIEWS}/{TEXTS}"):
            if self.texts:
                write_text(path, json.dumps(self.texts, ensure_ascii=False) + "\n")
            else:
                path.unlink(missing_ok=True)

    def _forget(self, step: int) -> None:
        with writable(self.folder.parent, PREVIEWS):
            for path in self.folder.glob("step-*.png"):
                with Image.open(path) as image:
                    same = image.info.get(plots.CONDITIONS) == self.conditions
                if not same or int(path.stem.removeprefix("step-")) > step:
                    path.unlink()


@torch.no_grad()
def rows_of_samples(
    student: Student,
    teacher: Teacher,
    z: Tensor,
    condition: Condition,
    *,
    solver: Solver,
    student_steps: Sequence[int] = (1,),
    euler: Sequence[int] = (1, 2, 4),
) -> dict[str, Tensor]:
    """Return samples from the same noise: the teacher's converged ones, the student's in one step
    and in `student_steps`, the teacher's by `euler` steps."""
    rows = {"teacher\nconverged": integrate(teacher, z, condition, solver)}
    for steps in sorted({1, *student_steps}):
        rows[f"student\n{_steps(steps)}"] = generate(student, z, condition, steps=steps)
    for steps in euler:
        euler_steps = Solver("euler", steps)
        rows[f"teacher\n{_steps(steps)}"] = integrate(teacher, z, condition, euler_steps)
    return rows


def _steps(number: int) -> str:
    return f"{number} step{'s' if number > 1 else ''}"


def in_order(source: ConditionSource, drawn: Condition) -> Condition:
    """Return the source's named conditions in turn, with the scale γ of those drawn; without names,
    those drawn."""
    if not source.names:
        return drawn
    names = [source.names[place % len(source.names)] for place in range(drawn.size)]
    return attrs.evolve(source.of(names), guidance=drawn.guidance)
