"""scikit-learn's 1,797 handwritten digits (Alpaydin & Kaynak, UCI, 1998): 8 × 8, 17 grey levels.

Only the command that trains the shipped networks, and recipes with these data, read them.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ffcore.draws import Draws
from ffcore.interfaces import Condition, DataSource, Teacher, class_condition
from ffcore.system.files import MissingFile
from ffcore_digits.warp import warp

Part = Literal["train", "held out", "all"]
HELD_OUT = 360
"""Number of digits held out from training the teacher and the classifier."""


def digits(part: Part) -> tuple[Tensor, Tensor]:
    """Return images Float[N, 1, 8, 8] in [−1, 1] and labels Int[N].

    The split is a fixed permutation. Raises MissingFile if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingFile(
            "reading the digits needs scikit-learn: pip install 'ffcore[digits]'"
        ) from None
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen = {"train": order[HELD_OUT:], "held out": order[:HELD_OUT], "all": order}[part]
    return images[chosen], labels[chosen]


class DigitImages(DataSource):
    """The digits as data, warped by `augment`.

    Raises ValueError for a teacher of other samples or fewer classes.
    """

    def __init__(self, teacher: Teacher, part: Part = "train", augment: float = 0.0) -> None:
        self.images, labels = digits(part)
        self.sample_shape = tuple(self.images.shape[1:])
        if teacher.sample_shape != self.sample_shape:
            raise ValueError(
                f"digits are {self.sample_shape}, but the teacher's samples {teacher.sample_shape}"
            )
        self.condition = class_condition(teacher.conditions, labels)
        self.augment = augment

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        """Return digits and their labels; see DataSource."""
        return warp(self.images[indices], self.augment, draws), self.condition[indices]
