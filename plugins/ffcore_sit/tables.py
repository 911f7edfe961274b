"""The recipe tables of SiT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import attrs

from ffcore.keys import key
from ffcore.nn.size import TransformerSize
from ffcore.nn.tables import (
    SMALL,
    TransformerStudentTable,
    TransformerTeacherTable,
    stated_teacher,
)

if TYPE_CHECKING:
    from ffcore.interfaces import Context, Teacher, VelocityField
    from ffcore.nn.velocity import Preconditioning
    from ffcore.recipe import Recipe


@attrs.frozen(kw_only=True)
class SiTTeacher(TransformerTeacherTable):
    """A trained SiT, or without weights an untrained one."""

    family = "sit"

    def build(self, context: Context) -> Teacher:
        """Return the teacher. Raises WeightsError if the file does not fit."""
        from ffcore.nn.teacher import stated_network, transformer_teacher
        from ffcore_sit.velocity import SiTPreconditioning

        network = stated_network(self, context, family=self.family)
        return transformer_teacher(network, SiTPreconditioning())


@attrs.frozen(kw_only=True)
class SiTStudent(TransformerStudentTable):
    """A SiT student: the teacher's transformer with new embeddings for δ and γ."""

    family = "sit"

    def preconditioning(self) -> Preconditioning:
        """Return SiT's conventions."""
        from ffcore_sit.velocity import SiTPreconditioning

        return SiTPreconditioning()


@attrs.frozen(kw_only=True)
class SiTNetwork:
    """A SiT velocity to train from scratch: g_ψ for a black-box teacher."""

    sizes: TransformerSize = key(help="sizes of the network")

    @classmethod
    def examples(cls) -> Iterator[Self]:
        """Yield a network of few weights."""
        yield cls(sizes=SMALL)

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError if the sizes do not fit those that the teacher's table states."""
        if (stated := stated_teacher(recipe)) is not None:
            self.sizes.check_teacher(stated.sample_shape, stated.classes)

    def build(self, context: Context) -> VelocityField:
        """Return a network for the teacher of `context`."""
        from ffcore.nn.velocity import new_velocity
        from ffcore_sit.velocity import SiTPreconditioning

        return new_velocity(self.sizes, SiTPreconditioning(), context)
