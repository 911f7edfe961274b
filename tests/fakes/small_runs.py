"""Real runs of a second each, whole and broken off."""

from pathlib import Path

import pytest
from observers import Listens

from ffcore.recipe import Recipe, load_recipe
from ffcore.run.stages import run
from ffcore.training.loop import Report

SMALL = (
    "training.steps=6", "training.batch=32", "training.log_every=2", "training.checkpoint_every=2",
    "student.width=16", "evaluation.samples=100", "evaluation.solver.steps=8",
    "evaluation.euler=[1, 2]",
)  # fmt: skip


def small(*overrides: str) -> Recipe:
    """The Gaussian recipe, cut short."""
    return load_recipe("gaussian.toml", [*SMALL, *overrides])


class Interrupts(Listens):
    """Stops a run at a step, as a crash would."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def report(self, report: Report) -> None:
        if report.step == self.step:
            raise KeyboardInterrupt


def interrupted(recipe: Recipe, directory: Path, step: int) -> None:
    """Make a run that breaks off."""
    with pytest.raises(KeyboardInterrupt):
        run(recipe, directory, observer=Interrupts(step))
