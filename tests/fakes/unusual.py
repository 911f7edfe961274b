"""Small students that are built in unusual ways."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ffcore.interfaces import Condition, Student

WIDTH = 8


class Network(Student):
    """A student of the plane, which calls `middle` between its first and its last layer."""

    starts_at = "prior"

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)
        self.middle = middle

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        del t, condition
        hidden = functional.silu(self.enter(torch.cat([x_t, delta[:, None]], 1)))
        out: Tensor = self.leave(self.middle(hidden))
        return out


@dataclasses.dataclass
class Found:
    """What one of the blocks below returns."""

    hidden: Tensor
    more: dict[str, Any]


class Scaled(nn.Module):
    """Takes keywords alone, some of which are also names of `torch.utils.checkpoint`'s."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(
        self,
        *,
        hidden: Tensor,
        embedding: Tensor | None = None,
        nested: Any = None,
        debug: float = 1.0,
        context_fn: object = None,
    ) -> tuple[Tensor, object]:
        out = hidden + debug * functional.gelu(self.layer(hidden))
        if nested is not None:
            out = out * nested["scales"][0]
        return (out if embedding is None else out + embedding), context_fn


class Described(nn.Module):
    """Returns a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Found:
        return Found(torch.tanh(self.layer(hidden)), {"before": hidden, "nothing": None})


class ByKeyword(nn.Module):
    """Calls its blocks by keyword, with dual numbers, tensors, None and tables."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [Scaled(), Described(), nn.ModuleList([Scaled(), Scaled()])]  # a list has no forward
        )

    def forward(self, hidden: Tensor) -> Tensor:
        first, second, rest = self.blocks
        hidden, _ = first(
            hidden=hidden, embedding=hidden.cos(), nested={"scales": [hidden.sin()]}, debug=0.5
        )
        found = second(hidden=hidden)
        hidden = found.hidden + found.more["before"]
        for block in rest:
            hidden, _ = block(hidden=hidden, embedding=None, context_fn="one's own")
        return hidden
