"""Measurements during training: a few samples of the EMA against the teacher's converged ones.

Every so many steps, and at the last one, the EMA makes samples in one step. Their measures come
from `Yardstick`, in the first feature space of the evaluation. The noise is always the same, so the
numbers of two steps differ by the student alone. The evaluation after training has other noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import attrs
import numpy as np

from ffcore.evaluate.distribution import Cloud, Replicates, Yardstick
from ffcore.evaluate.prior import Sampling
from ffcore.evaluate.stored import EvaluationError
from ffcore.evaluate.stream import Progress
from ffcore.evaluate.verdict import MEASURES, Estimate
from ffcore.flow.flow_map import generate
from ffcore.interfaces import Features
from ffcore.recipe import Recipe
from ffcore.run.build import Built
from ffcore.system.distributed import Processes
from ffcore.system.faults import enough_memory
from ffcore.training.parallelize import cut_again

MEASURING = "measuring"
"""The section of a step's time."""
MEASURE, INTERVAL = "measure/", "interval/"
"""Beginnings of the names of a measure and of the half of its interval, in the metrics."""
MOST = 1000
"""Most samples of a measurement; the reference and the floor have as many."""
_FEWEST_OF_CLASS = 50
_NOT_FINITE = "If the student diverged, lower optimizer.learning_rate"
_PURPOSE = "during training"
_REMEDY = "Make evaluation.batch smaller, or evaluation.every = 'none'."


class Measurements:
    """The measurements of a run while it trains.

    They do not change training. Create the object before networks are parallelized: only the
    constructor calls the teacher, unless a reference of its samples is known.

    Args:
        directory: of the run.
        built: the run's.
        recipe: resolved.
        processes: all of them generate the samples; the leading one measures.
        progress: takes the progress of the teacher's sampling.

    Raises ValueError if `evaluation.keep_best` names a measure that these samples do not have.
    """

    def __init__(
        self,
        directory: Path,
        built: Built,
        recipe: Recipe,
        processes: Processes,
        progress: Progress,
    ) -> None:
        evaluation, evaluator = recipe.evaluation, built.evaluator
        self.every, self.built, self.processes = evaluation.every, built, processes
        self.conditions = ""
        """What the numbers depend on, besides the student."""
        if self.every is None:
            return
        samples = min(MOST, evaluation.samples // 2)
        self.measurement = attrs.evolve(evaluator.measurement, samples=samples)
        self.conditions = (
            f"seed {evaluation.seed}, {samples} samples, {evaluation.solver}, features "
            f"{evaluation.features[0]}, guidance {recipe.guidance.scale:g}, "
            f"EMA {recipe.measured_ema:g}"
        )

        def prepare() -> Mapping[str, Replicates]:
            with enough_memory("the teacher's samples to measure against", _REMEDY):
                both = evaluator.converged(2 * samples, directory, progress)
            self.yardstick = Yardstick(both[:samples], fewest_of_class=_FEWEST_OF_CLASS)
            floor = self.yardstick.measures(both[samples:])
            best_by = evaluation.keep_best
            if best_by is not None and best_by not in floor:
                raise ValueError(
                    f"keep_best: {samples} samples in features {self.features.name} have no "
                    f"measure {best_by!r}; possible: {', '.join(floor)}"
                )
            return floor

        self.floor = processes.first(prepare)

    @property
    def features(self) -> Features:
        """The features of the measurements."""
        return self.built.evaluator.features[0]

    def due(self, step: int) -> bool:
        """Whether to measure after `step` steps."""
        if self.every is None:
            return False
        return step % self.every == 0 or step == self.built.distillation.steps

    def measure(self) -> dict[str, float]:
        """Return the measures of the current EMA with their intervals, alike in all processes.

        Sharpness and coverage are relative to the teacher's own converged samples.
        """
        make = partial(generate, self.built.student, steps=1)
        with self.built.distillation.time(MEASURING), enough_memory("a measurement", _REMEDY):
            cloud = self._seen(make)
            cut_again(self.built.student)
            return self.processes.first(lambda: self._numbers(cloud))

    def excess(self, name: str, value: float) -> float:
        """Return how much worse a measure is, as it is shown, than at the teacher's own samples.

        Values that are better than the teacher's have no excess.
        """
        measure, floor = MEASURES[name], np.array(self.floor[name][:1])
        return max(0.0, float(measure.excess(np.array([value]), measure.shown(floor, floor))[0]))

    def _seen(self, make: Sampling) -> Cloud:
        try:
            return self.built.evaluator.seen(make, self.measurement, _PURPOSE)
        except EvaluationError as error:
            step = self.built.distillation.step_index
            raise EvaluationError(
                f"the student cannot be measured after step {step}: {error}. {_NOT_FINITE}"
            ) from error

    def _numbers(self, cloud: Cloud) -> dict[str, float]:
        found = {
            name: _estimate(name, each, self.floor[name])
            for name, each in self.yardstick.measures(cloud).items()
            if name in self.floor
        }
        values = {f"{MEASURE}{name}": each.value for name, each in found.items()}
        intervals = {f"{INTERVAL}{name}": each.high - each.value for name, each in found.items()}
        return values | intervals


def _estimate(name: str, found: Replicates, floor: Replicates) -> Estimate:
    return Estimate.of(MEASURES[name].shown(np.array(found), np.array(floor)))
