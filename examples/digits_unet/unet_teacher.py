"""The two functions that a recipe needs of the U-Net."""

from torch import Tensor
from unet import UNet

from ffcore import Condition

__all__ = ["UNet", "call"]


def call(network: UNet, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
    """Return the noise in x; `time` is an index from 0 to 999, also between two of them."""
    assert condition.label is not None
    noise: Tensor = network(x, time, condition.label)
    return noise
