"""The noise, the conditions and the samples of a run's own evaluation.

A sample's noise and condition depend only on (seed, purpose, index). The student and the teacher's
Euler steps start from the same noise, the converged reference from other noise. Samples are not
rounded to 8 bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import attrs
import torch
from torch import Tensor

from ffcore.draws import Draws
from ffcore.evaluate.samples import Samples
from ffcore.flow.guidance import Guided, remove_guidance
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, Features, Teacher
from ffcore.recipe.tables import Evaluation
from ffcore.system.weights import fingerprint, identity_of

Sampling = Callable[[Tensor, Condition], Tensor]
"""(noise, condition) -> samples."""
_KEYS: Any = attrs.fields(Evaluation)


@attrs.frozen(kw_only=True)
class Measurement:
    """The conditions under which distances are measured; comparable only if they are equal."""

    samples: int = _KEYS.samples.default
    solver: Solver = attrs.field(factory=Solver)
    euler: tuple[int, ...] = _KEYS.euler.default
    seed: int = _KEYS.seed.default
    guidance: float = 1.0
    student_steps: tuple[int, ...] = attrs.field(default=_KEYS.student_steps.default, eq=False)
    """Numbers of steps of the student, besides 1. No reference depends on them."""
    batch: int = attrs.field(default=_KEYS.batch.default, eq=False)
    """Number of samples generated at a time; does not change their noise."""


def identity(
    teacher: Teacher, features: Sequence[Features], measurement: Measurement
) -> dict[str, Any]:
    """Return the conditions of a teacher's statistics, as plain values."""
    conditions = attrs.asdict(measurement)
    del conditions["batch"], conditions["student_steps"]
    if isinstance(teacher, Guided) and measurement.guidance != 1:
        conditions |= {"interval": list(teacher.interval), "channels": teacher.channels}
    networks = {f"features {each.name}": fingerprint(each) for each in features}
    plain = {**identity_of(remove_guidance(teacher)), **networks, **conditions}
    return dict(json.loads(json.dumps(plain)))  # tuples become lists, as in a file


def device_of(teacher: Teacher) -> str:
    """Return the device of a teacher's tensors; the CPU if it has none."""
    return str(next((p.device for p in [*teacher.parameters(), *teacher.buffers()]), "cpu"))


def prior(
    teacher: Teacher, measurement: Measurement, purpose: str, count: int | None = None
) -> Iterator[tuple[Tensor, Condition]]:
    """Yield batches of noise and conditions; those of a sample depend only on (seed, purpose,
    index)."""
    return _prior(teacher, measurement, purpose, 0, count or measurement.samples)


def _prior(
    teacher: Teacher, measurement: Measurement, purpose: str, first: int, total: int
) -> Iterator[tuple[Tensor, Condition]]:
    for draws, condition in _conditions(teacher, measurement, purpose, first, total):
        yield draws.normal("z", teacher.sample_shape), condition


def _conditions(
    teacher: Teacher, measurement: Measurement, purpose: str, first: int, total: int
) -> Iterator[tuple[Draws, Condition]]:
    device = device_of(teacher)
    for start in range(first, total, measurement.batch):
        stop = min(total, start + measurement.batch)
        draws = Draws(measurement.seed, 0, start, stop, device).named("evaluation", purpose)
        condition = teacher.conditions.draw(draws)
        if measurement.guidance != 1:
            condition = condition.at(measurement.guidance, device)
        yield draws, condition


class Drawn(Samples):
    """The samples of a measurement, generated on demand.

    Args:
        make: generates samples from noise and conditions.
        teacher: its prior and conditions are used.
        measurement: the settings.
        purpose: the name of the noise: "student", "reference", "floor".
    """

    def __init__(
        self, make: Sampling, teacher: Teacher, measurement: Measurement, purpose: str
    ) -> None:
        self.make, self.teacher = make, teacher
        self.measurement, self.purpose = measurement, purpose
        self.number, self.chunk = measurement.samples, measurement.batch
        self.shape = teacher.sample_shape
        self.record: dict[str, Any] = {"seed": measurement.seed, "purpose": purpose}

    @cached_property
    def labels(self) -> list[int] | None:  # type: ignore[override]
        """The label of each sample; None if the teacher has no classes."""
        found: list[int] = []
        drawn = _conditions(self.teacher, self.measurement, self.purpose, 0, self.number)
        for _, condition in drawn:
            if condition.label is None:
                return None
            found += condition.label.tolist()
        return found

    @torch.no_grad()
    def between(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield them; see Samples."""
        for z, condition in _prior(self.teacher, self.measurement, self.purpose, start, stop):
            yield self.make(z, condition)
