"""The recipe tables of the perceptrons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ffcore.keys import key

if TYPE_CHECKING:
    from ffcore.interfaces import Context, Student, VelocityField


@attrs.frozen(kw_only=True)
class MlpStudent:
    """F(z, δ, c) as a perceptron."""

    width: int = key(128, help="units of each hidden layer", at_least=1)
    depth: int = key(3, help="hidden layers", at_least=1)

    def build(self, context: Context) -> Student:
        """Return a student for the teacher of `context`, which must have vector samples."""
        from ffcore_mlp.student import MlpAverageVelocity

        return MlpAverageVelocity(
            context.vector_dimension("student mlp"), context.classes or 0, self.width, self.depth
        )


@attrs.frozen(kw_only=True)
class MlpNetwork:
    """u(x_t, t, c) as a perceptron."""

    width: int = key(128, help="units of each hidden layer", at_least=1)
    depth: int = key(3, help="hidden layers", at_least=1)

    def build(self, context: Context) -> VelocityField:
        """Return a network for the teacher of `context`, which must have vector samples."""
        from ffcore_mlp.student import MlpVelocity

        return MlpVelocity(
            context.vector_dimension("network mlp"), context.classes or 0, self.width, self.depth
        )
