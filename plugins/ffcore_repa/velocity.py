"""REPA's conventions.

Its time is ours, 1 at noise. Its output is noise − data: our velocity with the opposite sign.
"""

from __future__ import annotations

from torch import Tensor

from ffcore.nn.velocity import Preconditioning


class RepaPreconditioning(Preconditioning):
    """c_noise(t) = t; the velocity is the negated output."""

    c_out = -1.0

    def c_noise(self, t: Tensor) -> Tensor:
        """Return t: the time is ours."""
        return t

    def c_in(self, t: Tensor) -> None:
        """Return None: the path is ours."""
        del t
