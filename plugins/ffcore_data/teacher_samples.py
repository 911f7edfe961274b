"""Synthetic data: a teacher's samples, which depend on a seed and an index but not on the step."""

from __future__ import annotations

import functools
import itertools
import logging

import torch
from torch import Tensor

from ffcore.draws import Draws
from ffcore.flow.ode import integrate
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, DataError, DataSource, Teacher

_LOG = logging.getLogger("ffcore")
REPORTS = 10
"""Progress reports, approximately."""


class SampledTeacher(DataSource):
    """Samples of a teacher, made at the first read and kept in CPU memory.

    The same seed gives the same samples if the teacher is deterministic; a resumed run makes them
    again. They are made on the teacher's device, in float32 whatever the run's precision.

    Args:
        teacher: already guided, if it is to be.
        number: number of samples.
        solver: solver for the samples.
        seed: seed of their noise and conditions.
        batch: samples per batch of the solver.
        guidance: scale γ.
    """

    def __init__(
        self,
        teacher: Teacher,
        number: int,
        *,
        solver: Solver,
        seed: int,
        batch: int,
        guidance: float = 1.0,
    ) -> None:
        self.teacher, self.number, self.solver = teacher, number, solver
        self.seed, self.batch, self.guidance = seed, batch, guidance
        self.sample_shape = teacher.sample_shape

    def __len__(self) -> int:
        return self.number

    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        """Return samples and their conditions; see DataSource.

        Raises DataError if a sample is not finite.
        """
        del draws
        samples, condition = self._all_samples
        return samples[indices], condition[indices]

    @functools.cached_property
    def _all_samples(self) -> tuple[Tensor, Condition]:
        starts = range(0, self.number, self.batch)
        samples, conditions = torch.empty(self.number, *self.sample_shape), []
        for done, start in enumerate(starts):
            if done % max(1, len(starts) // REPORTS) == 0:
                _LOG.info("data: %s of %s samples of the teacher", f"{start:,}", f"{self.number:,}")
            stop = min(self.number, start + self.batch)
            found, condition = self._sample(start, stop)
            if not found.isfinite().all():
                raise DataError("the teacher's samples are not finite and cannot serve as data")
            samples[start:stop] = found
            conditions.append(condition)
        return samples, Condition.cat(conditions)

    def _sample(self, start: int, stop: int) -> tuple[Tensor, Condition]:
        tensors = itertools.chain(self.teacher.parameters(), self.teacher.buffers())
        device = next((each.device for each in tensors), torch.device("cpu"))
        draws = Draws(self.seed, 0, start, stop, str(device)).named("teacher's samples")
        condition = self.teacher.conditions.draw(draws)
        guided = condition if self.guidance == 1 else condition.at(self.guidance, device)
        with torch.autocast(device.type, enabled=False):
            z = draws.normal("z", self.sample_shape)
            samples = integrate(self.teacher, z, guided, self.solver)
        return samples.cpu(), condition.to("cpu")
