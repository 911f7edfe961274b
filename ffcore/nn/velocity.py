"""The transformer as a velocity field in our convention.

Each family has its own time, input scale and sign. Its `Preconditioning` states them in the terms
of Karras et al. (2206.00364): u(x, t | c) = c_out · network(c_in(t) · x, c_noise(t), c).
"""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ffcore.flow.path import expand_like
from ffcore.interfaces import Condition, Context, VelocityField
from ffcore.nn.conditions import read_fields
from ffcore.nn.embedding import ScalarEmbedder
from ffcore.nn.size import TransformerSize
from ffcore.nn.transformer import Transformer


class Preconditioning(nn.Module, ABC):
    """The relation of a family's network to our velocity."""

    c_out: float
    """Velocity per output: 1, or −1 for a network that points from data to noise."""

    @abstractmethod
    def c_noise(self, t: Tensor) -> Tensor:
        """Return the input of the network's time embedding at our times t in [0, 1]: Float[B]."""

    @abstractmethod
    def c_in(self, t: Tensor) -> Tensor | None:
        """Return the factor on points of our path at times t, Float[B]; None means 1."""


class TransformerVelocity(VelocityField):
    """u(x_t, t | label), and with `takes_guidance` u(x_t, t | label, γ).

    γ enters through an embedding whose last layer starts at zero.
    """

    def __init__(
        self,
        transformer: Transformer,
        preconditioning: Preconditioning,
        takes_guidance: bool = False,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.preconditioning = preconditioning
        self.guidance_embedder: ScalarEmbedder | None = None
        if takes_guidance:
            with torch.device(next(transformer.parameters()).device):
                self.guidance_embedder = silent_embedder(transformer.size.width)

    @property
    def size(self) -> TransformerSize:
        """The sizes of the transformer."""
        return self.transformer.size

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the velocity; see VelocityField."""
        return self.output(x_t, t, self.embedding(t, condition))

    def embedding(self, t: Tensor, condition: Condition) -> Tensor:
        """Return the conditioning Float[B, D] from our times t, the labels and γ."""
        transformer = self.transformer
        c: Tensor = transformer.t_embedder(self.preconditioning.c_noise(t))
        if transformer.y_embedder is not None:
            c = c + transformer.y_embedder(condition.label)
        if self.guidance_embedder is not None:
            gamma = torch.ones_like(t) if condition.guidance is None else condition.guidance
            c = c + self.guidance_embedder(gamma.to(t.dtype))
        return c

    def output(self, x_t: Tensor, t: Tensor, embedding: Tensor) -> Tensor:
        """Return the velocity at points of our path, under a conditioning Float[B, D]."""
        c_in = self.preconditioning.c_in(t)
        if c_in is not None:
            x_t = expand_like(c_in, x_t).to(x_t.dtype) * x_t
        velocity: Tensor = self.transformer(x_t, embedding).to(x_t.dtype)  # under autocast too
        return (
            velocity if self.preconditioning.c_out == 1 else self.preconditioning.c_out * velocity
        )


def silent_embedder(width: int) -> ScalarEmbedder:
    """Return an embedding of a scalar whose last layer, and so its output, starts at zero."""
    embedder = ScalarEmbedder(width)
    for parameter in embedder.mlp[-1].parameters():
        nn.init.zeros_(parameter)
    return embedder


def trainable(velocity: TransformerVelocity, takes_guidance: bool) -> TransformerVelocity:
    """Return an independent float32 copy with gradients on, and with γ's embedding if requested."""
    copied = TransformerVelocity(
        copy.deepcopy(velocity.transformer),
        copy.deepcopy(velocity.preconditioning),
        takes_guidance,
    )
    return copied.float().requires_grad_(True)


def new_transformer(size: TransformerSize, context: Context) -> Transformer:
    """Return a new network, on the meta device if only shapes are needed."""
    with torch.device("meta") if context.meta else contextlib.nullcontext():
        return Transformer(size)


def new_velocity(
    size: TransformerSize, preconditioning: Preconditioning, context: Context
) -> TransformerVelocity:
    """Return an untrained network for the teacher's samples and classes; its output is zero.

    Raises ValueError if the sizes do not fit the teacher.
    """
    assert context.teacher is not None
    read_fields("a transformer", context.teacher.conditions, {"label"})
    size.check_teacher(context.teacher.sample_shape, context.classes)
    ranged = context.guidance_range is not None
    return TransformerVelocity(new_transformer(size, context), preconditioning, ranged)
