"""A recipe's optimizer: AdamW with warm-up and decay. Torch-free until built."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import attrs

from ffcore.keys import Possible, key

if TYPE_CHECKING:
    import torch


@attrs.frozen(kw_only=True)
class Optimizer:
    """AdamW (Loshchilov & Hutter, 2019) with a learning rate that warms up and decays.

    The defaults are common choices (MeanFlow, DMF and π-Flow use β₂ = 0.95); FreeFlow's are
    unpublished.
    """

    learning_rate: float = key(1e-4, help="peak learning rate", above=0)
    betas: tuple[float, float] = key(
        (0.9, 0.95), help="AdamW's decay rates (β₁, β₂) of the two moments", at_least=0, below=1
    )
    weight_decay: float = key(0.0, help="decoupled weight decay", at_least=0)
    warmup: int = key(0, help="steps over which the learning rate rises linearly", at_least=0)
    schedule: Literal["constant", "linear", "cosine"] = key(
        "constant",
        help="decay of the learning rate after the warm-up",
        validator=Possible(one_of=("constant", "linear", "cosine")),
    )
    final: float = key(
        0.0,
        help="learning rate at the end of the schedule, as a fraction of the peak",
        at_least=0,
        at_most=1,
    )

    def factor(self, step: int, steps: int) -> float:
        """Return the learning rate of `step` (0-based, of `steps`) as a fraction of the peak."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.schedule == "constant":
            return 1.0
        progress = min(1.0, (step - self.warmup) / max(1, steps - self.warmup))
        if self.schedule == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return 1.0 + (self.final - 1.0) * progress

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return AdamW for the `parameters` that require a gradient.

        Neighbours that are all sharded, or all whole, form a group: one update takes only one kind.
        """
        import torch
        from torch.distributed.tensor import DTensor

        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        groups = itertools.groupby(trainable, lambda each: isinstance(each, DTensor))
        return torch.optim.AdamW(
            [{"params": [*group]} for _, group in groups],
            lr=self.learning_rate,
            betas=self.betas,
            weight_decay=self.weight_decay,
            fused=True,
        )
