"""DINOv2 (Oquab et al., 2304.07193) as torch-fidelity uses it: its class token.

torch-fidelity makes torch's hub download the network's code. Here the network is built from the
weights alone: their names and shapes give dimension, depth, grid and kind of perceptron.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ffcore.evaluate.metrics import import_torch_fidelity
from ffcore.interfaces import Features
from ffcore.system.weights import Weights, WeightsError
from ffcore_inception.features import pixels

_PATCH, _HEAD = 14, 64
"""Pixels along a patch, and dimensions of an attention head, in all published sizes."""


class DinoV2Features(Features):
    """The normalised class token of the last block."""

    name = "dinov2"

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        kind = import_torch_fidelity("feature_extractor_dinov2").FeatureExtractorDinoV2
        # Its constructor takes no weights file, so it is bypassed; its preprocessing is used.
        extractor = kind.__new__(kind)
        super(kind, extractor).__init__("dinov2-vit-l-14", ["dinov2"])
        extractor.feature_extractor_internal_dtype = torch.float32
        extractor.model = _network(weights)
        self.network = extractor
        self.requires_grad_(False).eval()

    def forward(self, samples: Tensor) -> Tensor:
        """Return Float[B, D] of images Float[B, C, H, W] in [−1, 1], C = 3, or 1 for grey.

        Images are rounded to 8 bits and enlarged to 224 × 224. Raises ValueError for samples of
        another shape.
        """
        found: Tensor
        (found,) = self.network(pixels("dinov2", samples))
        return found


def _network(weights: Weights) -> nn.Module:
    """Return the network that the weights fit. Raises WeightsError if there is none."""
    try:
        _, tokens, dimension = weights.tensors["pos_embed"].shape
        grid = math.isqrt(tokens - 1)
        depth = sum(name.endswith(".norm1.weight") for name in weights.tensors)
        gated = "blocks.0.mlp.w12.weight" in weights.tensors
        first = "blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc2.weight"
        hidden = weights.tensors[first].shape[1]
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{weights.label} is not a DINOv2 network: {error}") from None
    with torch.random.fork_rng(devices=[]):
        network = _Transformer(dimension, depth, hidden, grid, gated=gated)
    weights.load_into(network)
    return network


class _Transformer(nn.Module):
    """The published layout, without registers."""

    def __init__(self, dimension: int, depth: int, hidden: int, grid: int, *, gated: bool) -> None:
        super().__init__()
        self.grid = grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dimension))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, dimension))
        self.mask_token = nn.Parameter(torch.zeros(1, dimension))  # used in training only
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, dimension, kernel_size=_PATCH, stride=_PATCH)}
        )
        self.blocks = nn.ModuleList(_Block(dimension, hidden, gated=gated) for _ in range(depth))
        self.norm = nn.LayerNorm(dimension, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """Return Float[B, D] of images Float[B, 3, H, W]; H and W are multiples of the patch."""
        patches = self.patch_embed["proj"](images)
        side = patches.shape[-1]
        x = patches.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self._positions(side)
        for block in self.blocks:
            x = block(x)
        found: Tensor = self.norm(x[:, 0])
        return found

    def _positions(self, side: int) -> Tensor:
        """Return the position embedding, resized to a square of `side` patches.

        The factor is the official code's (side + 0.1) / grid, which changes every number a little.
        """
        if side == self.grid:
            return self.pos_embed
        first, rest = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        square = rest.unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        factor = (side + 0.1) / self.grid
        square = functional.interpolate(square, scale_factor=(factor, factor), mode="bicubic")
        return torch.cat([first, square.flatten(2).transpose(1, 2)], 1)


class _Block(nn.Module):
    def __init__(self, dimension: int, hidden: int, *, gated: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dimension, eps=1e-6)
        self.attn = _Attention(dimension)
        self.ls1 = _Scale(dimension)
        self.norm2 = nn.LayerNorm(dimension, eps=1e-6)
        self.mlp: nn.Module = _Gated(dimension, hidden) if gated else _Perceptron(dimension, hidden)
        self.ls2 = _Scale(dimension)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class _Attention(nn.Module):
    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dimension, 3 * dimension)
        self.proj = nn.Linear(dimension, dimension)

    def forward(self, x: Tensor) -> Tensor:
        # [B, N, 3 D] to three of [B, heads, N, 64]
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, _HEAD)).permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        found: Tensor = self.proj(out)
        return found


class _Perceptron(nn.Module):
    def __init__(self, dimension: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dimension, hidden)
        self.fc2 = nn.Linear(hidden, dimension)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return found


class _Gated(nn.Module):
    """The perceptron of the largest network (SwiGLU)."""

    def __init__(self, dimension: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dimension, 2 * hidden)
        self.w3 = nn.Linear(hidden, dimension)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, -1)
        found: Tensor = self.w3(functional.silu(gate) * value)
        return found


class _Scale(nn.Module):
    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dimension))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma
