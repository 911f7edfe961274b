"""SiT's conventions.

SiT's time is 0 at noise and 1 at data: t_SiT = 1 − t. Its output is data − noise, our velocity. The
embedding takes the raw time, not a multiple of it.
"""

from __future__ import annotations

from torch import Tensor

from ffcore.nn.velocity import Preconditioning


class SiTPreconditioning(Preconditioning):
    """c_noise(t) = 1 − t; the output is our velocity."""

    c_out = 1.0

    def c_noise(self, t: Tensor) -> Tensor:
        """Return SiT's time."""
        return 1 - t

    def c_in(self, t: Tensor) -> None:
        """Return None: the path is ours."""
        del t
