"""What the recipe tables of every family of transformers have in common. Torch-free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, Self

import attrs

from ffcore.files import File
from ffcore.keys import key
from ffcore.nn.size import Model, TransformerSize

if TYPE_CHECKING:
    from ffcore.interfaces import Context, Student, Teacher
    from ffcore.nn.velocity import Preconditioning


@attrs.frozen(kw_only=True)
class TransformerTeacherTable(ABC):
    """A trained transformer, or, without weights, one that is still to be trained."""

    model: Model | None = key(
        None, help="published model, letter and patch size; it takes latents of ImageNet's classes"
    )
    image_size: int = key(
        256, help="side in pixels of the images that `model` was trained on", one_of=(256, 512)
    )
    qk_norm: bool = key(False, help="whether `model` normalises queries and keys")
    sizes: TransformerSize | None = key(None, help="the sizes of another model, instead of `model`")
    weights: str | None = key(
        None,
        help=(
            "safetensors file or published checkpoint: a path, package:file of an installed "
            "package, or hf://organisation/repository/file"
        ),
    )
    origin: str | None = key(None, help="where the weights come from, told where they are missing")
    licence: str | None = key(None, help="licence of the weights, told where they are missing")

    def __attrs_post_init__(self) -> None:
        if self.model is not None and self.sizes is not None:
            raise ValueError("model and sizes contradict each other: name one of them")
        if self.sizes is not None and self.qk_norm:
            raise ValueError("qk_norm is model's: beside sizes, say sizes.qk_norm")
        if self.weights is None and self.stated_size() is None:
            raise ValueError(
                "name a weights file (weights), or a new network's size (model or sizes)"
            )

    @property
    @abstractmethod
    def family(self) -> str:
        """The name of the family: what a student of it needs, and where a file keeps its sizes."""

    @property
    def offers(self) -> frozenset[str]:
        """A transformer can be copied, and it is what a student of its family starts from."""
        return frozenset({"trainable copy", self.family})

    @property
    def files(self) -> tuple[File, ...]:
        """The weights file, if any."""
        if self.weights is None:
            return ()
        what = f"the teacher's weights ({self.family} {self.model or 'of sizes given'})"
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
        """Return the sizes that the table states; None leaves them to the weights file."""
        if self.model is not None:
            return TransformerSize.published(self.model, self.image_size, qk_norm=self.qk_norm)
        return self.sizes

    @abstractmethod
    def build(self, context: Context) -> Teacher:
        """Return the teacher. Raises WeightsError where the file does not fit."""


@attrs.frozen(kw_only=True)
class TransformerStudentTable(ABC):
    """The teacher's transformer as a student, and δ and γ through embeddings of their own."""

    start: Literal["euler", "teacher-time"] = key(
        "euler",
        help=(
            "what the student equals before training: one Euler step, F = u(z, 1), "
            "or the teacher at its own time, F = u(z, 1 − δ)"
        ),
    )
    model: Model | None = key(
        None, help="a new network of this published size instead, which starts from F = 0"
    )
    sizes: TransformerSize | None = key(
        None, help="a new network of these sizes instead, which starts from F = 0"
    )

    def __attrs_post_init__(self) -> None:
        if self.model is not None and self.sizes is not None:
            raise ValueError("model and sizes contradict each other: name one of them")

    @property
    @abstractmethod
    def family(self) -> str:
        """The name of the family that it starts from."""

    @property
    def needs(self) -> frozenset[str]:
        """A teacher of the family to start from, unless the student has sizes of its own."""
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
        if size := self._own_size(context.teacher):
            velocity = new_velocity(size, self.preconditioning(), context)
            return TransformerStudent(velocity, self.start)
        copied = context.teacher.trainable_copy(takes_guidance=ranged)
        if not isinstance(copied, TransformerVelocity):
            raise ValueError(
                f"student {self.family} starts from a {self.family} teacher, or has a model or "
                "sizes of its own"
            )
        return TransformerStudent(copied, self.start)

    @abstractmethod
    def preconditioning(self) -> Preconditioning:
        """Return how the family's network stands to our velocity."""

    def _own_size(self, teacher: Teacher) -> TransformerSize | None:
        if self.model is None:
            return self.sizes
        side = teacher.sample_shape[-1]
        return TransformerSize.published(self.model, 8 * side)
