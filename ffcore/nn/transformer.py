"""The adaLN-Zero transformer that SiT, DiT, REPA and MeanFlow share (Peebles & Xie, 2212.09748).

An image becomes tokens of patch × patch pixels. Each block is attention, then an MLP. One
conditioning vector per sample sets their scales, shifts and gates. The gates and the last layer
start at zero, so a new network is the zero map. Parameter names follow the published checkpoints.
Letters in comments: B batch, N tokens, D width, H heads, P patch, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from ffcore.nn.embedding import ScalarEmbedder, grid_sinusoids
from ffcore.nn.size import TransformerSize


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of a sample."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [B, N, D] to [B, N, D]."""
        B, N, D = x.shape
        qkv = self.qkv(x).view(B, N, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, N, D/H]
        x = functional.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        out: Tensor = self.proj(x.transpose(1, 2).reshape(B, N, D))
        return out


class Mlp(nn.Module):
    """Two linear layers with a GELU (tanh approximation) between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, N, D] to [B, N, D]."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))
        return out


def _modulation(width: int, parts: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return x (1 + scale) + shift; x is [B, N, D], the others [B, 1, D]."""
    return torch.addcmul(shift, x, 1 + scale)


class Block(nn.Module):
    """One adaLN-Zero block."""

    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        width = size.width
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, size.heads, size.qk_norm)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, int(width * size.mlp_ratio))
        self.adaLN_modulation = _modulation(width, 6)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map tokens [B, N, D] under the conditioning [B, D]."""
        parts = self.adaLN_modulation(c)[:, None].chunk(6, dim=2)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = parts
        x = torch.addcmul(x, gate_attn, self.attn(modulate(self.norm1(x), shift_attn, scale_attn)))
        return torch.addcmul(x, gate_mlp, self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp)))


class FinalLayer(nn.Module):
    """The last norm and the projection of each token to its patch."""

    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(size.width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(size.width, size.patch_size**2 * size.channels)
        self.adaLN_modulation = _modulation(size.width, 2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map tokens [B, N, D] to patches [B, N, P² C]."""
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=2)
        out: Tensor = self.linear(modulate(self.norm_final(x), shift, scale))
        return out


class PatchEmbedder(nn.Module):
    """Projects each patch to a token."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, S, S] to tokens [B, N, D], row by row.

        Each token is contiguous: all later operations are faster, and otherwise torch's compiler
        makes wrong gradients on a CPU (torch 2.13).
        """
        out: Tensor = self.proj(x)
        return out.flatten(2).transpose(1, 2).contiguous()


class LabelEmbedder(nn.Module):
    """A vector per label; the null label, if there is one, is the last."""

    def __init__(self, labels: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(labels, width)

    def forward(self, label: Tensor) -> Tensor:
        """Map Int[B] to [B, D]."""
        out: Tensor = self.embedding_table(label)
        return out


class Transformer(nn.Module):
    """Maps an image and one conditioning vector per sample to an image.

    The caller makes the conditioning: the sum of `t_embedder`, `y_embedder` and further
    `ScalarEmbedder`s.
    """

    pos_embed: Tensor

    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        self.size = size
        self.x_embedder = PatchEmbedder(size.channels, size.width, size.patch_size)
        self.t_embedder = ScalarEmbedder(size.width)
        self.y_embedder: LabelEmbedder | None = None
        if size.classes is not None:
            self.y_embedder = LabelEmbedder(size.classes + size.null_label, size.width)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.depth))
        self.final_layer = FinalLayer(size)
        position = grid_sinusoids(size.input_size // size.patch_size, size.width)
        self.register_buffer("pos_embed", position[None], persistent=False)
        self._initialise()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map images [B, C, S, S] under the conditioning [B, D] to [B, C, S, S]."""
        x = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            x = block(x, c)
        return self._unpatchify(self.final_layer(x, c))

    def _unpatchify(self, patches: Tensor) -> Tensor:
        side, patch = self.size.input_size // self.size.patch_size, self.size.patch_size
        x = patches.view(-1, side, side, patch, patch, self.size.channels)
        x = x.permute(0, 5, 1, 3, 2, 4)  # [B, C, side, P, side, P]
        return x.reshape(-1, self.size.channels, side * patch, side * patch)

    def _initialise(self) -> None:
        """Xavier for linear layers; zero for every gate and the last layer (DiT, section 3)."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for layer in self.t_embedder.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        if self.y_embedder is not None:
            nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        layers = [*self.blocks, self.final_layer]
        for last in [*(layer.adaLN_modulation[-1] for layer in layers), self.final_layer.linear]:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
