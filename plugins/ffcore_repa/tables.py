"""The recipe tables of SiT+REPA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ffcore.nn.tables import TransformerStudentTable, TransformerTeacherTable

if TYPE_CHECKING:
    from ffcore.interfaces import Context, Teacher
    from ffcore.nn.velocity import Preconditioning

PROJECTORS = "projectors.*"
"""The heads that align features in REPA's training; samplers do not need them."""


@attrs.frozen(kw_only=True)
class RepaTeacher(TransformerTeacherTable):
    """A SiT trained with REPA, or without weights an untrained one."""

    family = "repa"

    def build(self, context: Context) -> Teacher:
        """Return the teacher. Raises WeightsError if the file does not fit."""
        from ffcore.nn.teacher import stated_network, transformer_teacher
        from ffcore_repa.velocity import RepaPreconditioning

        network = stated_network(self, context, family=self.family, drop=(PROJECTORS,), sigma=False)
        return transformer_teacher(network, RepaPreconditioning())


@attrs.frozen(kw_only=True)
class RepaStudent(TransformerStudentTable):
    """A REPA student: the teacher's transformer with new embeddings for δ and γ."""

    family = "repa"

    def preconditioning(self) -> Preconditioning:
        """Return REPA's conventions."""
        from ffcore_repa.velocity import RepaPreconditioning

        return RepaPreconditioning()
