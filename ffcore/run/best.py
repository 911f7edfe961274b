"""The best student so far: an EMA that a measurement during training found better than the last.

A run writes each new best to best/step-….safetensors. It keeps the newest, and the newest that is
no later than each checkpoint: a resume from there starts with the best that the run had then.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from ffcore.evaluate.verdict import MEASURES
from ffcore.export import write_student
from ffcore.interfaces import Student
from ffcore.run.measurements import MEASURE, Measurements
from ffcore.system.distributed import Processes, whole_state
from ffcore.system.faults import writable
from ffcore.system.weights import WeightsError, read_weights
from ffcore.training.checkpoint.name import directory_name

BEST = "best"
_CONFIG = "best"


@attrs.frozen(kw_only=True)
class Found:
    """The best measurement so far."""

    step: int
    value: float
    """The measure, as it is shown."""


class Best:
    """Keeps the best EMA of a run. Every process makes one object and calls the same methods.

    Args:
        folder: to store it in.
        checkpoints: the folder of the run's checkpoints.
        measure: the name of the measure that decides; None keeps nothing.
        description: of the student, as in its file.
        measurements: of the run; a best under other conditions does not count.
        processes: that share the work.
    """

    def __init__(
        self,
        folder: Path,
        checkpoints: Path,
        measure: str | None,
        description: Mapping[str, Any],
        measurements: Measurements,
        processes: Processes,
    ) -> None:
        self.folder, self.checkpoints, self.measure = folder, checkpoints, measure
        self.description, self.measurements = description, measurements
        self.processes = processes
        self.found: Found | None = None

    def begin(self, step: int, *, finished: bool) -> None:
        """Forget what later steps or other conditions left; find the best up to `step`.

        Raises ValueError for a finished run whose best was chosen in another way, or not at all: no
        training follows that could choose one.
        """
        self.found = self.processes.first(lambda: self._stored(step, finished=finished))

    def offer(self, step: int, numbers: Mapping[str, float], student: Student) -> None:
        """Keep the student after `step` steps if none before was better."""
        value = numbers.get(f"{MEASURE}{self.measure}")
        if self.measure is None or value is None:
            return
        if self.found and self._excess(value) > self._excess(self.found.value):
            return
        self.found = Found(step=step, value=value)
        state = whole_state(student)
        self.processes.first(lambda: self._write(step, value, state))

    def state(self) -> Mapping[str, Tensor]:
        """Return the weights of the best student, in every process."""
        assert self.found is not None
        return read_weights(str(self._path(self.found.step))).tensors

    @property
    def title(self) -> str:
        """The title of the measure that decides."""
        return MEASURES[str(self.measure)].title

    def _excess(self, value: float) -> float:
        return self.measurements.excess(str(self.measure), value)

    def _path(self, step: int) -> Path:
        return self.folder / f"{directory_name(step)}.safetensors"

    def _steps(self) -> list[int]:
        """Return the steps of all stored students."""
        return sorted(map(_step, self.folder.glob("step-*.safetensors")))

    def _stored(self, step: int, *, finished: bool) -> Found | None:
        if finished and self.measure is not None:
            self._check(step)
        with writable(self.folder.parent, BEST):
            known = {each: self._value(each) for each in self._steps()}
            for each, value in known.items():
                if not finished and (each > step or value is None):
                    self._path(each).unlink()
        kept = [
            Found(step=each, value=value)
            for each, value in known.items()
            if each <= step and value is not None
        ]
        return min(kept, key=lambda each: (self._excess(each.value), -each.step), default=None)

    def _check(self, step: int) -> None:
        steps = [each for each in self._steps() if each <= step]
        if steps and any(self._value(each) is not None for each in steps):
            return
        found = "its best student was chosen in another way" if steps else "it kept no best student"
        raise ValueError(
            f"keep_best: this run is finished, and {found}; that cannot be made up for. Leave the "
            "keys of evaluation as they were; `ffd evaluate RUN --set` measures the same student "
            "in another way"
        )

    def _value(self, step: int) -> float | None:
        """Return the measure of a stored student; None for another measure or conditions."""
        try:
            config = read_weights(str(self._path(step))).config.get(_CONFIG, {})
        except WeightsError:
            return None
        same = (config.get("measure"), config.get("conditions")) == (
            self.measure,
            self.measurements.conditions,
        )
        return float(config["value"]) if same else None

    def _write(self, step: int, value: float, state: Mapping[str, Tensor]) -> None:
        config = {
            "measure": self.measure,
            "value": value,
            "conditions": self.measurements.conditions,
        }
        with writable(self.folder.parent, f"{BEST}/{directory_name(step)}.safetensors"):
            self.folder.mkdir(exist_ok=True)
            write_student(
                self._path(step), state, {**self.description, "step": step, _CONFIG: config}
            )
            for each in self._superfluous():
                self._path(each).unlink()

    def _superfluous(self) -> list[int]:
        steps = self._steps()
        whole = self.checkpoints.glob("step-*[0-9]")
        being_written = self.checkpoints.glob(".step-*.partial")
        saved = [int(path.name.split("-")[1].split(".")[0]) for path in (*whole, *being_written)]
        kept = {max(steps)}
        kept |= {max([each for each in steps if each <= at], default=-1) for at in saved}
        return [each for each in steps if each not in kept]


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
