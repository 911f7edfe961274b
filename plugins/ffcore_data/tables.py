"""The recipe tables of the data sources."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from ffcore.flow.solver import Solver
from ffcore.keys import ImpossibleValue, key
from ffcore.system.files import File

if TYPE_CHECKING:
    from ffcore.interfaces import Context, DataSource
    from ffcore.recipe import Recipe

FLOAT32 = 4
"""Bytes per number."""


@attrs.frozen(kw_only=True)
class Latents:
    """Stored samples with their labels, read from disk when needed."""

    folder: str = key(
        help=(
            "folder of .safetensors files, each with `latents` (16- or 32-bit floats [n, *S]) and "
            "`labels` (integers [n]); an unconditional teacher ignores labels"
        )
    )
    scale: float = key(1.0, help="factor on the latents, for latents stored unscaled", above=0)

    @classmethod
    def examples(cls) -> Iterator[Latents]:
        """Yield one whose folder does not exist: users supply the files."""
        yield cls(folder="latents")

    @property
    def files(self) -> tuple[File, ...]:
        """The first shard, which stands for all; if there is none, the pattern of their names."""
        found = next(iter(self.shards()), Path(self.folder) / "*.safetensors")
        return (File(str(found), "data.folder", "the data: latents and labels in .safetensors"),)

    def shards(self) -> list[Path]:
        """Return the files of the folder, sorted by name."""
        return sorted(Path(self.folder).expanduser().glob("*.safetensors"))

    def build(self, context: Context) -> DataSource:
        """Return the source, reading only the headers of the files.

        Raises MissingFile if there is no file, DataError if a file is not a shard, and ValueError
        if one does not fit the teacher.
        """
        from ffcore.system.files import require
        from ffcore_data.latents import StoredLatents

        require(self.files)
        assert context.teacher is not None
        return StoredLatents(self.shards(), context.teacher, self.scale)


@attrs.frozen(kw_only=True)
class TeacherSamples:
    """Synthetic data: samples of the teacher, the same in every run of this recipe."""

    number: int = key(10_000, help="number of samples", at_least=1)
    guided: bool = key(
        True,
        help=(
            "whether the teacher is guided as the recipe guides; set false if the objective guides "
            "the data velocity, or guidance would act twice"
        ),
    )
    solver: Solver = key(factory=Solver, help="solver for the teacher's samples")
    seed: int = key(
        2_000_000,
        help="seed of their noise and conditions, independent of training and evaluation",
        at_least=0,
        at_most=2**63 - 1,
    )
    batch: int = key(500, help="samples per batch of the solver", at_least=1)
    memory: float = key(4.0, help="most memory that the samples may take, in GB", above=0)

    @classmethod
    def examples(cls) -> Iterator[TeacherSamples]:
        """Yield one of a few samples."""
        yield cls(number=10, solver=Solver(steps=2), batch=4)

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError for a range of scales, and for more samples than `memory` allows."""
        shape = getattr(recipe.teacher, "sample_shape", None)
        self._check(recipe.guidance.range, shape)

    def _check(self, scales: tuple[float, float] | None, shape: tuple[int, ...] | None) -> None:
        if scales is not None and self.guided:
            possible = "false: the samples have one guidance scale, but guidance.range has many"
            raise ImpossibleValue("guided", self.guided, possible)
        if shape is None:
            return
        most = int(self.memory * 1e9 / (FLOAT32 * math.prod(shape)))
        if self.number > most:
            possible = f"at most {most}: with shape {shape} they fill memory = {self.memory:g} GB"
            raise ImpossibleValue("number", self.number, possible)

    def build(self, context: Context) -> DataSource:
        """Return the source, which samples the teacher at its first read.

        Raises ValueError like `check_recipe`.
        """
        from ffcore_data.teacher_samples import SampledTeacher

        assert context.teacher is not None
        self._check(context.guidance_range, context.teacher.sample_shape)
        return SampledTeacher(
            context.teacher,
            self.number,
            solver=self.solver,
            seed=self.seed,
            batch=self.batch,
            guidance=context.guidance if self.guided else 1.0,
        )
