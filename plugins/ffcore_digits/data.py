"""scikit-learn's 1,797 handwritten digits (Alpaydin & Kaynak, UCI, 1998): 8 × 8, 17 grey levels.

Only the commands that retrain the shipped networks read them; distilling never does.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

HELD_OUT = 360
"""Digits that neither the teacher nor the classifier trains on."""


def digits(part: Literal["train", "held out", "all"]) -> tuple[Tensor, Tensor]:
    """Return images Float[N, 1, 8, 8] in [−1, 1] and labels Int[N].

    The split is a fixed permutation. Raises ImportError where scikit-learn is absent.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError(
            "reading the digits needs scikit-learn: pip install 'ffcore[digits]'"
        ) from None
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen = {"train": order[HELD_OUT:], "held out": order[:HELD_OUT], "all": order}[part]
    return images[chosen], labels[chosen]
