"""The recipe tables of SiT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

from ffcore.keys import key

if TYPE_CHECKING:
    from ffcore.interfaces import Context, Student, Teacher, VelocityField


@attrs.frozen(kw_only=True)
class Sizes:
    """The sizes of a SiT: those of a weights file unless given."""

    input_size: int = key(help="side of the square sample", at_least=1)
    patch_size: int = key(2, help="side of a patch", at_least=1)
    channels: int = key(4, help="channels of a sample", at_least=1)
    width: int = key(help="width of the tokens; a multiple of heads and of 4", at_least=4)
    depth: int = key(help="number of blocks", at_least=1)
    heads: int = key(help="attention heads", at_least=1)
    classes: int | None = key(
        None, help="number of classes, the null label apart; without it unconditional", at_least=1
    )

    def __attrs_post_init__(self) -> None:
        if self.input_size % self.patch_size:
            raise ValueError(
                f"input_size {self.input_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads} and of 4")


@attrs.frozen(kw_only=True)
class SiTTeacher:
    """A trained SiT, or, without weights, one that is still to be trained."""

    weights: str | None = key(
        None, help="safetensors file, as a path or as package:file of an installed package"
    )
    sizes: Sizes | None = key(None, help="needed where the weights file does not hold them")

    def __attrs_post_init__(self) -> None:
        if self.weights is None and self.sizes is None:
            raise ValueError("name a weights file (weights) or the sizes of a new network (sizes)")

    @property
    def offers(self) -> frozenset[str]:
        """A SiT can be copied, and it is what a SiT student starts from."""
        return frozenset({"trainable copy", "sit"})

    def build(self, context: Context) -> Teacher:
        """Return the teacher. Raises WeightsError where the file does not fit."""
        del context
        from ffcore_sit.teacher import sit_teacher

        return sit_teacher(self.weights, self.sizes)


@attrs.frozen(kw_only=True)
class SiTStudent:
    """A SiT student: the teacher's transformer, and δ through an embedding of its own."""

    start: Literal["euler", "teacher-time"] = key(
        "euler",
        help=(
            "what the student equals before training: one Euler step, F = u(z, 1), "
            "or the teacher at its own time, F = u(z, 1 − δ)"
        ),
    )
    sizes: Sizes | None = key(
        None, help="a new network of these sizes instead, which starts from F = 0"
    )

    @property
    def needs(self) -> frozenset[str]:
        """A SiT to start from, unless the student has sizes of its own."""
        return frozenset() if self.sizes else frozenset({"sit"})

    def build(self, context: Context) -> Student:
        """Return a student for the teacher of `context`."""
        from ffcore_sit.student import SiTAverageVelocity
        from ffcore_sit.velocity import SiTVelocity, new_velocity

        assert context.teacher is not None
        if self.sizes:
            return SiTAverageVelocity(new_velocity(self.sizes, context.teacher), self.start)
        velocity = context.teacher.trainable_copy()
        if not isinstance(velocity, SiTVelocity):
            raise ValueError("student sit starts from a sit teacher, or has sizes of its own")
        return SiTAverageVelocity(velocity, self.start)


@attrs.frozen(kw_only=True)
class SiTNetwork:
    """A SiT velocity to be trained from scratch: g_ψ where the teacher is a black box."""

    sizes: Sizes = key(help="the sizes of the network")

    def build(self, context: Context) -> VelocityField:
        """Return a network for the teacher of `context`."""
        from ffcore_sit.velocity import new_velocity

        assert context.teacher is not None
        return new_velocity(self.sizes, context.teacher)
