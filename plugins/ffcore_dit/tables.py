"""The recipe tables of DiT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ffcore.nn.tables import TransformerStudentTable, TransformerTeacherTable

if TYPE_CHECKING:
    from ffcore.interfaces import Context, Teacher
    from ffcore.nn.velocity import Preconditioning


@attrs.frozen(kw_only=True)
class DiTTeacher(TransformerTeacherTable):
    """A trained DiT, or without weights an untrained one."""

    family = "dit"

    def build(self, context: Context) -> Teacher:
        """Return the teacher. Raises WeightsError if the file does not fit."""
        from ffcore.interfaces import FrozenTeacher
        from ffcore.nn.teacher import label_conditions, stated_network
        from ffcore_dit.velocity import dit_velocity, new_head

        network = stated_network(self, context, family=self.family)
        return FrozenTeacher(
            dit_velocity(network),
            network.size.sample_shape,
            label_conditions(network.size),
            lambda takes_guidance: new_head(network, takes_guidance),
        )


@attrs.frozen(kw_only=True)
class DiTStudent(TransformerStudentTable):
    """A DiT student: the teacher's body, and a new velocity head at zero, so that F = 0."""

    family = "dit"

    def preconditioning(self) -> Preconditioning:
        """Return DiT's conventions."""
        from ffcore_dit.velocity import DiTPreconditioning

        return DiTPreconditioning()
