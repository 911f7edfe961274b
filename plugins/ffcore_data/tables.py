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
"""Bytes of a number of a sample."""


@attrs.frozen(kw_only=True)
class Latents:
    """Stored samples with their labels, read from the disk as they are needed."""

    folder: str = key(
        help=(
            "folder of .safetensors files, each with `latents`, floats [n, *S] of 16 or 32 bits, "
            "and `labels`, integers [n]; an unconditional teacher reads no labels"
        )
    )
    scale: float = key(
        1.0, help="what latents are multiplied by, where they were stored unscaled", above=0
    )

    @classmethod
    def examples(cls) -> Iterator[Latents]:
        """Yield one whose folder is nowhere: the files are their user's."""
        yield cls(folder="latents")

    @property
    def files(self) -> tuple[File, ...]:
        """The first shard, for all of them; where there is none, the pattern that none matches."""
        found = next(iter(self.shards()), Path(self.folder) / "*.safetensors")
        return (File(str(found), "data.folder", "the data: latents and labels in .safetensors"),)

    def shards(self) -> list[Path]:
        """Return the files of the folder, in the order of their names."""
        return sorted(Path(self.folder).expanduser().glob("*.safetensors"))

    def build(self, context: Context) -> DataSource:
        """Return the source; of the files only headers are read.

        Raises MissingFile where there is no file, DataError where one is not as it should be, and
        ValueError where it does not fit the teacher.
        """
        from ffcore.system.files import require
        from ffcore_data.latents import StoredLatents

        require(self.files)
        assert context.teacher is not None
        return StoredLatents(self.shards(), context.teacher, self.scale)


@attrs.frozen(kw_only=True)
class TeacherSamples:
    """Synthetic data: samples of the teacher, the same ones in every run of this recipe."""

    number: int = key(10_000, help="how many samples", at_least=1)
    guided: bool = key(
        True,
        help=(
            "whether the teacher is guided as the recipe guides; false where the objective guides "
            "the velocity of data itself, which would be guided twice"
        ),
    )
    solver: Solver = key(factory=Solver, help="how the teacher's samples are made")
    seed: int = key(
        2_000_000,
        help="seed of their noise and conditions, apart from those of training and evaluation",
        at_least=0,
        at_most=2**63 - 1,
    )
    batch: int = key(500, help="samples made at a time", at_least=1)
    memory: float = key(4.0, help="gigabytes of memory that the samples may take", above=0)

    @classmethod
    def examples(cls) -> Iterator[TeacherSamples]:
        """Yield one of a few samples."""
        yield cls(number=10, solver=Solver(steps=2), batch=4)

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError for a range of scales, and for more samples than memory may hold."""
        shape = getattr(recipe.teacher, "sample_shape", None)
        self._check(recipe.guidance.range, shape)

    def _check(self, scales: tuple[float, float] | None, shape: tuple[int, ...] | None) -> None:
        if scales is not None and self.guided:
            possible = "false, since samples are of one guidance scale and guidance.range has many"
            raise ImpossibleValue("guided", self.guided, possible)
        if shape is None:
            return
        most = int(self.memory * 1e9 / (FLOAT32 * math.prod(shape)))
        if self.number > most:
            possible = f"at most {most}, which take memory = {self.memory:g} GB as {shape}"
            raise ImpossibleValue("number", self.number, possible)

    def build(self, context: Context) -> DataSource:
        """Return the source; it samples the teacher when it is first read.

        Raises ValueError as `check_recipe` does.
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
