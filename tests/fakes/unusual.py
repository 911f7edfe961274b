"""Small students that are built in unusual ways, and their table, "unusual:Unusual"."""

import dataclasses
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from ffcore.interfaces import Condition, Context, Student
from ffcore.keys import key

WIDTH = 8


class Network(Student):
    """A student of the plane, which calls `middle` between its first and its last layer."""

    starts_at = "prior"

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)
        self.middle = middle

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        del t
        hidden = functional.silu(self.enter(torch.cat([x_t, delta[:, None]], 1)))
        if isinstance(self.middle, ByLabel):
            hidden = self.middle(hidden, condition.label)
        else:
            hidden = self.middle(hidden)
        out: Tensor = self.leave(hidden)
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


class Tied(nn.Module):
    """Two layers with one weight, once directly and once by calling a layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.two.weight = self.one.weight
        self.again = self.one

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.again(self.two(functional.silu(self.one(hidden))))
        return out


class Viewed(nn.Module):
    """Buffers and an attribute in the memory of parameters; two parameters in one storage."""

    transposed: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("transposed", self.layer.weight.detach().T)
        self.register_buffer("bias", self.layer.bias)
        self.plain = self.layer.weight.data
        columns = torch.randn(WIDTH, 2 * WIDTH) / 4
        self.left, self.right = (nn.Parameter(each) for each in columns.chunk(2, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = functional.silu(self.layer(hidden)) + hidden @ self.transposed + self.bias
        hidden = hidden @ self.plain
        return hidden @ self.left @ self.right


class Spectral(nn.Module):
    """Complex parameters, one of them without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.ones(WIDTH // 2 + 1) + 0j)
        self.gain = nn.Parameter(torch.tensor(1 + 0.5j))

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(hidden) * self.filter * self.gain, n=WIDTH)


class Masked(nn.Module):
    """Buffers of dtypes that not every file can hold."""

    mask: Tensor
    count: Tensor
    phase: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("mask", torch.arange(WIDTH) % 3 > 0)
        self.register_buffer("count", torch.tensor(2))
        self.register_buffer("phase", torch.full((WIDTH,), 0.6 + 0.8j, dtype=torch.cdouble))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.gain * torch.where(self.mask, hidden, hidden * self.phase.real.to(hidden.dtype))


class ByLabel(nn.Module):
    """A layer for label 1, unused where no sample has it, and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.never = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor, label: Tensor) -> Tensor:
        if bool((label == 1).any()):
            hidden = hidden + (label == 1)[:, None] * self.one(hidden)
        return hidden


class SharedBlocks(nn.Module):
    """Blocks of which some share a weight with each other, or with a layer outside."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.head = nn.Linear(WIDTH, WIDTH)
        self.blocks[2].weight = self.blocks[0].weight
        self.head.weight = self.blocks[1].weight

    def forward(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = torch.tanh(block(hidden))
        out: Tensor = self.head(hidden)
        return out


class Mixed(nn.Module):
    """Blocks with parameters of several dtypes, and one without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Spectral() for _ in range(2))
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.narrow = nn.Linear(WIDTH, WIDTH, dtype=torch.float32)

    def forward(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = hidden + self.gain * block(hidden)
        return hidden + self.narrow(hidden.float()).to(hidden.dtype)


class Direct(nn.Module):
    """Uses the weights of its blocks without calling them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = hidden + functional.linear(hidden, block.weight, block.bias)
        return hidden


class Keeps(nn.Module):
    """Keeps a parameter in a list of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.weights = [self.layer.weight]

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.layer(hidden) @ self.weights[0]
        return out


@attrs.frozen(kw_only=True)
class Unusual:
    """The table of a student with one of the parts above."""

    middle: str = key(help="name of the part")

    def build(self, context: Context) -> Student:
        """Build the student."""
        del context
        return Network(globals()[self.middle]())
