"""Small students of many kinds, as strangers build them, each with what "auto" must make of it.

`expects` was written down before the first run: the backend, or a part of the refusal.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import torch
import torch.nn.functional as functional
from inputs import Stream
from networks import OwnSilu
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ffcore.draws import Draws
from ffcore.flow.derivative import Derivative
from ffcore.flow.derivative_check import Agreement, _perturb, self_check
from ffcore.interfaces import Condition, Student

VECTOR, TOKENS, IMAGE = (6,), (5, 8), (2, 8, 8)
CLASSES = 3
RANDOM, STATEFUL = "answers at random in training", "is stateful in training"


@attrs.frozen
class Animal:
    """One student."""

    build: Callable[[], nn.Module]
    """Makes a module whose forward takes (x, δ, label)."""
    shape: tuple[int, ...]
    expects: str
    """The backend, or a part of the refusal."""
    step: float = 1e-4
    """Of the independent derivative."""

    def student(self) -> Student:
        """Return the student in float64 and in training mode, with weights from a fixed seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Wrapped(self.build()).double().train()


class Wrapped(Student):
    starts_at = "prior"

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        del t
        output: Tensor = self.module(x_t, delta, condition.label)
        return output


ZOO: dict[str, Animal] = {}


def kept(
    name: str, shape: tuple[int, ...], expects: str = "dual", step: float = 1e-4
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    def keep(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        ZOO[name] = Animal(build, shape, expects, step)
        return build

    return keep


def waves(delta: Any, width: int = 8, fastest: float = 4.0) -> Any:
    """An embedding of δ: Float[B, width]."""
    rates = torch.logspace(0, math.log10(fastest), width // 2, dtype=torch.float64)
    angles = delta[:, None] * rates.to(delta.dtype)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Time(nn.Module):
    """An embedding of δ and of the label."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(8, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(CLASSES, width)

    def forward(self, delta: Any, label: Tensor) -> Any:
        return self.mlp(waves(delta)) + self.label(label)


class Around(nn.Module):
    """A core between two linear layers; δ enters before it."""

    def __init__(self, core: nn.Module, features: int, width: int = 8) -> None:
        super().__init__()
        self.time, self.core = Time(width), core
        self.enter, self.leave = nn.Linear(features, width), nn.Linear(width, features)

    def forward(self, x: Any, delta: Any, label: Tensor) -> Any:
        time = self.time(delta, label)
        h = self.enter(x) + (time if x.ndim == 2 else time[:, None])
        return self.leave(self.core(h))


class Core(nn.Module):
    """A function of the hidden state, with layers by name."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, each in layers.items():
            setattr(self, name, each)

    def forward(self, h: Any) -> Any:
        return self.function(self, h)


def on_tokens(
    name: str, function: Callable[..., Any], expects: str = "dual", **layers: Callable[[], Any]
) -> None:
    kept(name, TOKENS, expects)(
        lambda: Around(Core(function, **{key: make() for key, make in layers.items()}), 8)
    )


def on_vectors(
    name: str, function: Callable[..., Any], expects: str = "dual", **layers: Callable[[], Any]
) -> None:
    kept(name, VECTOR, expects)(
        lambda: Around(Core(function, **{key: make() for key, make in layers.items()}), 6)
    )


class Images(nn.Module):
    """A core between two convolutions; δ enters before it."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.time, self.core = Time(8), core
        self.enter, self.leave = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Any, delta: Any, label: Tensor) -> Any:
        return self.leave(self.core(self.enter(x) + self.time(delta, label)[:, :, None, None]))


def on_images(
    name: str, function: Callable[..., Any], expects: str = "dual", **layers: Callable[[], Any]
) -> None:
    kept(name, IMAGE, expects)(
        lambda: Images(Core(function, **{key: make() for key, make in layers.items()}))
    )


def linear() -> nn.Module:
    return nn.Linear(8, 8)


def parameter(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: nn.Parameter(0.5 * torch.randn(*shape))


# Convolutions.

on_images(
    "convolution, group norm",
    lambda self, h: h + self.conv(functional.silu(self.norm(h))),
    norm=lambda: nn.GroupNorm(2, 8),
    conv=lambda: nn.Conv2d(8, 8, 3, padding=1),
)
on_images(
    "depthwise, transposed",
    lambda self, h: self.up(functional.gelu(self.down(h))),
    down=lambda: nn.Conv2d(8, 8, 4, 2, 1, groups=8),
    up=lambda: nn.ConvTranspose2d(8, 8, 4, 2, 1),
)
on_images(
    "ConvNeXt block",
    lambda self, h: h + self.mlp(self.norm(self.depth(h).permute(0, 2, 3, 1))).permute(0, 3, 1, 2),
    depth=lambda: nn.Conv2d(8, 8, 5, padding=2, groups=8),
    norm=lambda: nn.LayerNorm(8),
    mlp=lambda: nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)),
)
on_images(
    "interpolation, pooling",
    lambda self, h: (
        functional.interpolate(
            self.conv(functional.avg_pool2d(h, 2)), scale_factor=2, mode="bilinear"
        )
        + functional.adaptive_avg_pool2d(h, 1).sigmoid() * h
    ),
    conv=lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
)
on_images(
    "pixel shuffle",
    lambda self, h: functional.pixel_shuffle(self.conv(functional.pixel_unshuffle(h, 2)).tanh(), 2),
    conv=lambda: nn.Conv2d(32, 32, 1),
)
on_images(
    "unfold, fold",
    lambda self, h: functional.fold(
        self.layer(functional.unfold(h, 2, stride=2).mT).tanh().mT, (8, 8), 2, stride=2
    ),
    layer=lambda: nn.Linear(32, 32),
)
on_images(
    "Fourier layer",
    lambda self, h: h + torch.fft.irfft2(torch.fft.rfft2(h) * torch.view_as_complex(self.weight)),
    weight=parameter(8, 8, 5, 2),
)
on_images(
    "batch norm, in training",
    lambda self, h: self.norm(functional.silu(h)),
    norm=lambda: nn.BatchNorm2d(8),
)
on_images(
    "instance norm, PReLU, max pooling",
    lambda self, h: functional.interpolate(
        functional.max_pool2d(self.norm(self.act(h)), 2), (8, 8)
    ),
    norm=lambda: nn.InstanceNorm2d(8, affine=True),
    act=nn.PReLU,
)


@kept("U-Net with time", IMAGE)
class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time = Time(8)
        self.enter, self.leave = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)
        self.down, self.up = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(24, 8, 3, padding=1)
        self.scales = nn.ModuleList([nn.Linear(8, 32), nn.Linear(8, 16)])
        self.norms = nn.ModuleList([nn.GroupNorm(4, 16), nn.GroupNorm(2, 8)])
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def film(self, index: int, h: Any, time: Any) -> Any:
        scale, shift = self.scales[index](time)[:, :, None, None].chunk(2, dim=1)
        return functional.silu(self.norms[index](h) * (1 + scale) + shift)

    def forward(self, x: Any, delta: Any, label: Tensor) -> Any:
        time, skip = self.time(delta, label), self.enter(x)
        h = self.film(0, self.down(skip), time)
        tokens = h.flatten(2).transpose(1, 2)
        h = h + self.attention(tokens, tokens, tokens)[0].transpose(1, 2).reshape(h.shape)
        h = torch.cat([functional.interpolate(h, scale_factor=2.0, mode="nearest"), skip], dim=1)
        return self.leave(self.film(1, self.up(h), time))


# Attention.


def heads(h: Any, count: int = 2) -> Any:
    return h.unflatten(-1, (count, -1)).transpose(1, 2)


def attend(self: Any, h: Any, **options: Any) -> Any:
    q, k, v = map(heads, self.qkv(h).chunk(3, dim=-1))
    return h + functional.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(
        2
    )


def qkv() -> nn.Module:
    return nn.Linear(8, 24)


on_tokens("attention", attend, qkv=qkv)
on_tokens(
    "attention, masked",
    lambda self, h: attend(self, h, attn_mask=torch.ones(5, 5).tril(1).bool()),
    qkv=qkv,
)
on_tokens("attention, causal", lambda self, h: attend(self, h, is_causal=True), qkv=qkv)


def grouped(self: Any, h: Any) -> Any:
    q, k, v = heads(self.q(h), 4), *(heads(each) for each in self.kv(h).chunk(2, dim=-1))
    found = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return found.transpose(1, 2).flatten(2)


on_tokens("attention, grouped queries", grouped, q=linear, kv=linear)
on_tokens(
    "nn.MultiheadAttention",
    lambda self, h: h + self.attention(h, h, h, need_weights=True)[0],
    attention=lambda: nn.MultiheadAttention(8, 2, batch_first=True),
)


def relative(self: Any, h: Any) -> Any:
    q, k, v = map(heads, self.qkv(h).chunk(3, dim=-1))
    scores = torch.einsum("bhid,bhjd->bhij", q, k) / 2
    at = torch.arange(5)
    scores = scores + self.bias[:, at[:, None] - at + 4]
    scores = scores.masked_fill(at[:, None] < at - 2, -torch.inf)
    return torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v).transpose(1, 2).reshape(h.shape)


on_tokens("attention by hand, relative bias", relative, qkv=qkv, bias=parameter(2, 9))


def linear_attention(self: Any, h: Any) -> Any:
    q, k, v = self.qkv(h).chunk(3, dim=-1)
    q, k = functional.elu(q) + 1, functional.elu(k) + 1
    top = torch.einsum("bid,bde->bie", q, torch.einsum("bjd,bje->bde", k, v))
    return top / torch.einsum("bid,bd->bi", q, k.sum(1))[..., None]


on_tokens("linear attention", linear_attention, qkv=qkv)


def rotated(x: Any) -> Any:
    angles = torch.outer(torch.arange(5), torch.tensor([1.0, 0.1])).to(x.dtype)
    one, other = x[..., ::2], x[..., 1::2]
    turned = (
        one * angles.cos() - other * angles.sin(),
        one * angles.sin() + other * angles.cos(),
    )
    return torch.stack(turned, -1).flatten(-2)


def turned(x: Any) -> Any:
    angles = torch.outer(torch.arange(5), torch.tensor([1.0, 0.1])).double()
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def rotary(turn: Callable[[Any], Any]) -> Callable[..., Any]:
    def function(self: Any, h: Any) -> Any:
        q, k, v = map(heads, self.qkv(h).chunk(3, dim=-1))
        found = functional.scaled_dot_product_attention(
            turn(functional.normalize(q, dim=-1)), turn(self.norm(k)), v
        )
        return found.transpose(1, 2).flatten(2)

    return function


on_tokens("rotary, QK norm", rotary(rotated), qkv=qkv, norm=lambda: nn.RMSNorm(4))
on_tokens("rotary, complex", rotary(turned), qkv=qkv, norm=lambda: nn.LayerNorm(4))
on_tokens(
    "nn.TransformerEncoderLayer",
    lambda self, h: self.layer(h),
    layer=lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
)


@kept("DiT block, AdaLN-zero", TOKENS)
class AdaLN(nn.Module):
    """Its head and gates are zero at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.gates, self.head = Time(8), nn.Linear(8, 48), nn.Linear(8, 8)
        self.qkv, self.mlp = nn.Linear(8, 24), nn.Sequential(linear(), nn.GELU("tanh"), linear())
        self.norm = nn.LayerNorm(8, elementwise_affine=False, eps=1e-6)
        for each in (self.gates, self.head):
            nn.init.zeros_(each.weight)
            nn.init.zeros_(each.bias)

    def forward(self, x: Any, delta: Any, label: Tensor) -> Any:
        time = functional.silu(self.time(delta, label))
        a, b, c, d, e, f = self.gates(time)[:, None].chunk(6, dim=-1)
        q, k, v = map(heads, self.qkv(self.norm(x) * (1 + a) + b).chunk(3, dim=-1))
        found = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + c * found
        x = x + d * self.mlp(self.norm(x) * (1 + e) + f)
        return self.head(x)


@kept("joint attention, 1000 δ", TOKENS, step=1e-6)
class Joint(nn.Module):
    """Two streams that attend to each other, and the timestep embedding of diffusers."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.words = nn.Linear(16, 8), nn.Embedding(CLASSES, 24)
        self.streams = nn.ModuleList([nn.Linear(8, 24), nn.Linear(8, 24)])
        self.outs = nn.ModuleList([linear(), linear()])

    def forward(self, x: Any, delta: Any, label: Tensor) -> Any:
        rates = torch.exp(-math.log(10000) * torch.arange(8) / 8).to(x.dtype)
        angles = (1000 * delta)[:, None] * rates[None]
        time = self.time(torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1))[:, None]
        words = self.words(label).unflatten(1, (3, 8))
        parts = [stream(each + time) for stream, each in zip(self.streams, (x, words), strict=True)]
        q, k, v = (heads(each) for each in torch.cat(parts, dim=1).chunk(3, dim=-1))
        found = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        image, text = found.split([5, 3], dim=1)
        return self.outs[0](image) + self.outs[1](text).mean(1, keepdim=True)


# Sequences, and other functions of tokens.

on_tokens(
    "LSTM",
    lambda self, h: self.layer(h)[0],
    layer=lambda: nn.LSTM(8, 4, 2, batch_first=True, bidirectional=True),
)
on_tokens("GRU", lambda self, h: self.layer(h)[0], layer=lambda: nn.GRU(8, 8, batch_first=True))
on_tokens(
    "RMS norm, SwiGLU",
    lambda self, h: h + self.out(functional.silu(self.gate(self.norm(h))) * self.up(h)),
    norm=lambda: nn.RMSNorm(8),
    gate=linear,
    up=linear,
    out=linear,
)
on_tokens(
    "MLP mixer",
    lambda self, h: h + self.mix(self.norm(h).mT).mT,
    norm=lambda: nn.LayerNorm(8),
    mix=lambda: nn.Sequential(nn.Linear(5, 5), nn.Mish(), nn.Linear(5, 5)),
)
on_tokens(
    "vmap",
    lambda self, h: torch.vmap(lambda row: torch.tanh(row @ self.weight) * row.sum())(h),
    weight=parameter(8, 8),
)


def scan(self: Any, h: Any) -> Any:
    state, found = torch.zeros_like(h[:, 0]), []
    gate = torch.exp(-functional.softplus(self.gate(h)))
    for index in range(h.shape[1]):
        state = gate[:, index] * state + (1 - gate[:, index]) * h[:, index]
        found.append(state * self.out(h[:, index]))
    return torch.stack(found, dim=1)


on_tokens("state-space scan", scan, gate=linear, out=linear)


def experts(self: Any, h: Any) -> Any:
    weights, chosen = self.gate(h).softmax(-1).topk(2, dim=-1)
    each = torch.einsum("bnd,kde->bnke", h, self.experts)
    picked = each.gather(2, chosen[..., None].expand(*chosen.shape, h.shape[-1]))
    return (weights[..., None] * picked.tanh()).sum(2)


on_tokens("mixture of experts", experts, gate=lambda: nn.Linear(8, 4), experts=parameter(4, 8, 8))
on_tokens(
    "sorting, cumulative sums",
    lambda self, h: self.layer(h.sort(dim=1).values.cumsum(1) + h.logcumsumexp(1) + h.flip(1)),
    layer=linear,
)


def scattered(self: Any, h: Any) -> Any:
    to = torch.tensor([0, 2, 2, 4, 1])
    added = torch.zeros_like(h).scatter_add(1, to[None, :, None].expand(h.shape), h)
    mean = torch.zeros_like(h).index_add(1, to, self.layer(h))
    put = h.index_put((torch.arange(len(h)), torch.zeros(len(h)).long()), mean[:, 3])
    return added + mean + put.take_along_dim(to[None, :, None], 1) + torch.roll(h, 1, 1)


on_tokens("scatter, gather, index_put", scattered, layer=linear)
on_tokens(
    "activation checkpointing",
    lambda self, h: h + checkpoint(self.block, h, use_reentrant=False),
    block=lambda: nn.Sequential(linear(), nn.SiLU(), linear()),
)
on_tokens(
    "activation checkpointing, reentrant",
    lambda self, h: h + checkpoint(self.block, h, use_reentrant=True),
    block=lambda: nn.Sequential(linear(), nn.SiLU(), linear()),
)


@kept("compiled", TOKENS)
def compiled() -> nn.Module:
    torch._dynamo.reset()
    block = nn.Sequential(nn.LayerNorm(8), linear(), nn.GELU(), linear())
    return Around(
        Core(lambda self, h: h + self.block(h), block=torch.compile(block, backend="eager")), 8
    )  # type: ignore[arg-type]


# Vectors.


@kept("binned embeddings of δ", VECTOR)
class Binned(nn.Module):
    """Interpolates between the embeddings of the two bins next to δ."""

    def __init__(self) -> None:
        super().__init__()
        self.bins, self.layers = nn.Embedding(9, 6), nn.Sequential(nn.Linear(12, 8), nn.ELU())
        self.last = nn.Linear(8, 6)

    def forward(self, x: Any, delta: Any, label: Tensor) -> Any:
        del label
        at = (7.5 * delta).long()
        share = (7.5 * delta - at)[:, None]
        between = torch.lerp(self.bins(at), self.bins(at + 1), share * share * (3 - 2 * share))
        return self.last(self.layers(torch.cat((x, between), -1)))


@kept("hypernetwork", VECTOR)
class Hyper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time, self.weights = Time(8), nn.Linear(8, 42)

    def forward(self, x: Any, delta: Any, label: Tensor) -> Any:
        weight, bias = self.weights(self.time(delta, label)).split([36, 6], dim=1)
        return torch.baddbmm(bias[:, :, None], weight.view(-1, 6, 6), x[:, :, None])[:, :, 0].sin()


def equilibrium(self: Any, h: Any) -> Any:
    state = torch.zeros_like(h)
    for _ in range(30):
        state = torch.tanh(0.3 * self.layer(state) + h)
    return state


on_vectors("fixed point", equilibrium, layer=linear)
on_vectors(
    "weight norm",
    lambda self, h: self.layer(h).tanh(),
    layer=lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
)
on_vectors(
    "pieces by where, clamp, ReLU",
    lambda self, h: torch.where(h > 0, h.square(), h.expm1()).clamp(-0.5, 2) + self.layer(h).relu(),
    layer=linear,
)
on_vectors(
    "linear algebra, distances",
    lambda self, h: (
        torch.linalg.solve(torch.eye(8).to(h.dtype) + 0.1 * h[:, :, None] * h[:, None], h)
        + torch.linalg.matrix_exp(0.1 * self.layer(h)[:, :, None] * h[:, None]).sum(1)
        + torch.exp(-(h[:, None] - self.centres).norm(dim=2)) @ self.centres
    ),
    layer=linear,
    centres=parameter(4, 8),
)
on_vectors(
    "complex numbers",
    lambda self, h: (torch.exp(1j * self.layer(h)) * torch.complex(h, h.sin())).abs() + h.sinc(),
    layer=linear,
)


on_vectors("own backward", lambda self, h: OwnSilu.apply(self.layer(h)), layer=linear)


def written(self: Any, h: Any) -> Any:
    h = self.layer(h).clone()
    h += 1
    h[:, :4] = self.layer(h.clone())[:, 4:]
    return functional.relu(h, inplace=True)


on_vectors("in-place writes", written, "jvp", layer=linear)


@kept("asks torch whether δ is a tensor", VECTOR)
class Asks(Binned):
    def forward(self, x: Any, delta: Any, label: Tensor) -> Any:
        if not torch.is_tensor(delta):
            delta = torch.tensor([delta], dtype=x.dtype)
        return super().forward(x, delta, label)


@kept("asks whether δ is a Tensor", VECTOR, "jvp")
class AsksItsType(Binned):
    def forward(self, x: Any, delta: Any, label: Tensor) -> Any:
        if not isinstance(delta, Tensor):
            delta = torch.full((len(x),), delta, dtype=x.dtype)
        return super().forward(x, delta, label)


# Opaque: no exact backend can differentiate them.


@torch.library.custom_op("ffcore_zoo::silu", mutates_args=())
def custom_silu(x: Tensor) -> Tensor:
    return x * x.sigmoid()


def keep_input(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def back(ctx: Any, g: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    s = x.sigmoid()
    return g * (s + x * s * (1 - s))


custom_silu.register_autograd(back, setup_context=keep_input)


class NumpySilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        array = x.detach().numpy()
        return torch.from_numpy(array / (1 + np.exp(-array)))

    backward = staticmethod(back)


OPAQUE = "finite-difference"
on_vectors("custom operation", lambda self, h: custom_silu(self.layer(h)), OPAQUE, layer=linear)
on_vectors(
    "computed by numpy", lambda self, h: NumpySilu.apply(self.layer(h)), OPAQUE, layer=linear
)

# Refused.

on_vectors("dropout", lambda self, h: self.drop(h), RANDOM, drop=lambda: nn.Dropout(0.1))
on_vectors(
    "spectral norm",
    lambda self, h: self.layer(h),
    STATEFUL,
    layer=lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
)


@kept("label dropout", VECTOR, RANDOM)
class DropsLabels(Hyper):
    def forward(self, x: Any, delta: Any, label: Tensor) -> Any:
        if self.training:
            label = torch.where(torch.rand(len(label)) < 0.3, 0, label)
        return super().forward(x, delta, label)


@kept("running mean", VECTOR, STATEFUL)
class Running(Hyper):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.mean: Tensor

    def forward(self, x: Any, delta: Any, label: Tensor) -> Any:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return super().forward(x - self.mean, delta, label)


# The measurement.

SIZE = 4
DRAWS = Draws(0, 0, 0, SIZE)


def independent(
    student: Student, z: Tensor, delta: Tensor, condition: Condition, h: float
) -> Tensor:
    """∂_δ F by central differences, extrapolated four times: an error of order h^8."""
    ones = torch.ones_like(delta)

    def difference(step: float) -> Tensor:
        one, other = (student(z, ones, delta + sign * step, condition) for sign in (1, -1))
        return (one - other) / (2 * step)

    with torch.no_grad():
        table = [difference(h / 2**k) for k in range(4)]
    for order in range(1, 4):
        table = [
            (4**order * fine - coarse) / (4**order - 1)
            for coarse, fine in itertools.pairwise(table)
        ]
    return table[0]


def gradients(student: Student, output: Tensor) -> list[Tensor]:
    student.zero_grad()
    output.square().sum().backward()
    return [each.grad for each in student.parameters() if each.grad is not None]


def measured(animal: Animal) -> tuple[Agreement, float]:
    """Return what "auto" picks, and the error of its derivative; check output and gradient."""
    stream = Stream(0)
    z, delta = stream.normal(SIZE, *animal.shape), stream.uniform(0.1, 0.9, SIZE)
    condition = Condition(size=SIZE, label=torch.arange(SIZE) % CLASSES)
    student = animal.student()
    found = self_check(student, Derivative(), z, condition, DRAWS)
    _perturb(student, DRAWS)  # otherwise a last layer of zeros would hide the derivative

    def function(moved: Tensor) -> Tensor:
        output: Tensor = student(z, torch.ones_like(delta), moved, condition)
        return output

    output, change = found.derivative.with_value(
        function, (delta,), (torch.ones_like(delta),), room=(delta, 1 - delta)
    )
    wanted = independent(student, z, delta, condition, animal.step)
    error = float((change - wanted).norm() / wanted.norm())
    plain = function(delta)
    torch.testing.assert_close(output, plain, rtol=1e-12, atol=1e-12)
    pairs = zip(gradients(student, output), gradients(student, function(delta)), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    return found, error
