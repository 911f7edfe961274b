"""SiT's conventions.

SiT's own time is 0 at noise and 1 at data, and its output is data − noise: our velocity, at
t_SiT = 1 − t. The raw time, not a multiple of it, enters the embedding.
"""

from __future__ import annotations

from torch import Tensor

from ffcore.nn.velocity import Preconditioning


class SiTPreconditioning(Preconditioning):
    """c_noise(t) = 1 − t; the output is our velocity."""

    c_out = 1.0

    def c_noise(self, t: Tensor) -> Tensor:
        """Return SiT's own time."""
        return 1 - t

    def c_in(self, t: Tensor) -> None:
        """Return None: the path is ours."""
        del t
