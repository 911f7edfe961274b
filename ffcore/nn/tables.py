"""The common part of the recipe tables of all transformer families. Torch-free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Self

import attrs

from ffcore.keys import (
    ImpossibleValue,
    Proposal,
    ReadsWeights,
    StartsFromStudent,
    copied,
    key,
)
from ffcore.nn.size import Model, TransformerSize
from ffcore.system.files import File

if TYPE_CHECKING:
    from ffcore.interfaces import Context, Student, Teacher, VelocityField
    from ffcore.nn.velocity import Preconditioning
    from ffcore.recipe import Recipe

SMALL = TransformerSize(
    input_size=8, patch_size=2, channels=4, width=16, depth=1, heads=2, classes=3
)
"""The sizes for examples."""


@attrs.frozen(kw_only=True)
class TransformerTeacherTable(ReadsWeights, ABC):
    """A trained transformer, or without weights an untrained one."""

    model: Model | None = key(
        None, help="published model by letter and patch size, on latents with ImageNet's classes"
    )
    image_size: int | None = key(
        None,
        help="side of the images that `model` was trained on, in pixels; 'none': 256",
        one_of=(256, 512),
    )
    qk_norm: bool = key(False, help="whether `model` normalises queries and keys")
    sizes: TransformerSize | None = key(None, help="sizes of another model, instead of `model`")
    weights: str | None = key(
        None,
        help=(
            "safetensors file, published checkpoint, index of shards or folder in diffusers' "
            "layout: a path, package:file of an installed package, or "
            "hf://organisation/repository/file"
        ),
    )
    origin: str | None = key(None, help="source of the weights, for the error if they are missing")
    licence: str | None = key(
        None, help="licence of the weights, for the error if they are missing"
    )

    def __attrs_post_init__(self) -> None:
        if self.model is not None and self.sizes is not None:
            raise ValueError("model and sizes contradict each other: name one of them")
        if self.model is None and self.qk_norm:
            raise ValueError("qk_norm needs model: with sizes, set sizes.qk_norm instead")
        if self.model is None and self.image_size is not None:
            raise ValueError(
                "image_size needs model: with sizes, set sizes.input_size "
                f'({self.image_size // 8} for latents of such images) and image_size = "none"'
            )
        if self.weights == "":
            raise ImpossibleValue(
                "weights", "", "a path, package:file or hf://organisation/repository/file"
            )
        if self.weights is None and self.part is not None:
            raise ValueError(f"part = {self.part!r} needs weights: name their file, or no part")
        if self.weights is None and self.stated_size() is None:
            raise ValueError(
                "name a weights file (weights), or the size of a new network (model or sizes)"
            )

    @classmethod
    def examples(cls) -> Iterator[Self]:
        """Yield a small untrained teacher."""
        yield cls(sizes=SMALL)

    @property
    @abstractmethod
    def family(self) -> str:
        """Name of the family: a student's `needs`, and the key of the sizes in a weights file."""

    @property
    def offers(self) -> frozenset[str]:
        """Offer a trainable copy, and a start for students of the same family."""
        return frozenset({"trainable copy", self.family})

    @property
    def files(self) -> tuple[File, ...]:
        """The weights file, if any."""
        if self.weights is None:
            return ()
        what = f"the teacher's weights ({self.family} {self.model or 'of given sizes'})"
        return (
            File(
                reference=self.weights,
                key="teacher.weights",
                what=what,
                origin=self.origin,
                licence=self.licence,
            ),
        )

    def stated_size(self) -> TransformerSize | None:
        """Return the table's sizes; None if only the weights file has them."""
        if self.model is not None:
            side = self.image_size or 256
            return TransformerSize.published(self.model, side, qk_norm=self.qk_norm)
        return self.sizes

    def without_weights(self, velocity: VelocityField) -> Self:
        """Return the table of the same network that reads no weights file; for a student's files.

        `velocity` is a trainable copy of the teacher.
        """
        from ffcore.nn.velocity import TransformerVelocity

        assert isinstance(velocity, TransformerVelocity)
        return type(self)(sizes=velocity.size)

    @property
    def sample_shape(self) -> tuple[int, ...] | None:
        """*S of the samples, if the table states it."""
        size = self.stated_size()
        return None if size is None else size.sample_shape

    @property
    def guidable(self) -> bool:
        """Whether there is a null label; True if the table does not state it."""
        size = self.stated_size()
        return size is None or (size.classes is not None and size.null_label)

    @abstractmethod
    def build(self, context: Context) -> Teacher:
        """Return the teacher. Raises WeightsError if the file does not fit."""


@attrs.frozen(kw_only=True)
class TransformerStudentTable(StartsFromStudent, ABC):
    """The teacher's transformer as a student, with new embeddings for δ and γ."""

    start: Literal["euler", "teacher-time"] = key(
        "euler",
        help=(
            "student before training: one Euler step, F = u(z, 1), or the teacher at its own time, "
            "F = u(z, 1 − δ)"
        ),
    )
    starts_at: Literal["prior", "anywhere"] = key(
        "prior", help="start of the flow map: at t = 1 only, or at every t, which F then reads"
    )
    model: Model | None = key(
        None, help="published size of a new network that starts from F = 0, not from the teacher"
    )
    sizes: TransformerSize | None = key(
        None, help="sizes of a new network that starts from F = 0, not from the teacher"
    )

    def __attrs_post_init__(self) -> None:
        if self.model is not None and self.sizes is not None:
            raise ValueError("model and sizes contradict each other: name one of them")
        if self.start == "teacher-time" and self.starts_at == "anywhere":
            why = 'because with starts_at = "anywhere" the student reads the time of its start'
            raise ImpossibleValue("start", self.start, f"'euler', {why}")

    @classmethod
    def examples(cls) -> Iterator[Self]:
        """Yield one that starts at the prior, and one that starts anywhere."""
        yield cls()
        yield cls(starts_at="anywhere")

    @classmethod
    def propose(cls, context: Context) -> Proposal | None:
        """Propose a student for a teacher of the family."""
        from ffcore.nn.velocity import TransformerVelocity

        copy = context.copy_of_teacher()
        if not isinstance(copy, TransformerVelocity):
            return None
        if type(copy.preconditioning) is not type(cls().preconditioning()):
            return None
        return copied(3, "the teacher's own network, with its weights", copy)

    @property
    @abstractmethod
    def family(self) -> str:
        """Name of the family that it starts from."""

    @property
    def offers(self) -> frozenset[str]:
        """Offer flow maps from anywhere, if `starts_at` says so."""
        return frozenset({"student starts anywhere"} if self.starts_at == "anywhere" else ())

    @property
    def needs(self) -> frozenset[str]:
        """Need a teacher of the family, unless the student has its own sizes."""
        return frozenset() if self.sizes or self.model else frozenset({self.family})

    def alone(self, student: Student) -> Self:
        """Return the table that rebuilds `student` without its teacher."""
        from ffcore.nn.student import TransformerStudent

        assert isinstance(student, TransformerStudent)
        return attrs.evolve(self, model=None, sizes=student.size)

    def build(self, context: Context) -> Student:
        """Return a student for the teacher of `context`."""
        from ffcore.nn.student import TransformerStudent
        from ffcore.nn.velocity import TransformerVelocity, new_velocity

        assert context.teacher is not None
        ranged = context.guidance_range is not None
        if size := self._own_size(context.teacher.sample_shape):
            velocity = new_velocity(size, self.preconditioning(), context)
            return TransformerStudent(velocity, self.start, self.starts_at)
        copied = context.teacher.trainable_copy(takes_guidance=ranged)
        if not isinstance(copied, TransformerVelocity):
            raise ValueError(
                f"student {self.family} needs a {self.family} teacher to start from, or its own "
                "model or sizes"
            )
        return TransformerStudent(copied, self.start, self.starts_at)

    @abstractmethod
    def preconditioning(self) -> Preconditioning:
        """Return the relation of the family's network to our velocity."""

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError if its own sizes do not fit those that the teacher's table states."""
        stated = stated_teacher(recipe)
        if stated is not None and (size := self._own_size(stated.sample_shape)):
            size.check_teacher(stated.sample_shape, stated.classes)

    def _own_size(self, shape: tuple[int, ...]) -> TransformerSize | None:
        if self.model is None:
            return self.sizes
        return TransformerSize.published(self.model, 8 * shape[-1])


def stated_teacher(recipe: Recipe) -> TransformerSize | None:
    """Return the sizes of the recipe's teacher, if it is a transformer whose table states them."""
    teacher = recipe.teacher
    return teacher.stated_size() if isinstance(teacher, TransformerTeacherTable) else None
