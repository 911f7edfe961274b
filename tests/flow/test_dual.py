"""Dual numbers: every rule against torch's forward mode, and a value that is as without them."""

import copy
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from networks import OwnSilu
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from ffcore.flow import dual
from ffcore.flow.dual import Dual, values_only
from ffcore.interfaces import Condition
from ffcore.nn.lora import LowRankLinear
from ffcore.nn.size import TransformerSize
from ffcore.nn.student import TransformerStudent
from ffcore.nn.transformer import Transformer
from ffcore.nn.velocity import TransformerVelocity
from ffcore_mlp.student import MlpAverageVelocity
from ffcore_sit.velocity import SiTPreconditioning

Function = Callable[..., Any]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(100 * seed + len(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def expected(function: Function, values: list[Tensor], tangents: list[Tensor]) -> Any:
    with sdpa_kernel(SDPBackend.MATH):
        return torch.func.jvp(function, tuple(values), tuple(tangents))


def agrees(function: Function, *values: Tensor) -> None:
    """Whichever of the arguments are dual numbers, and whichever are plain."""
    tangents = [normal(*each.shape, seed=7 + index) for index, each in enumerate(values)]
    for chosen in range(1, 2 ** len(values)):
        moving = [index for index in range(len(values)) if chosen >> index & 1]

        def of(*moved: Any, moving: list[int] = moving) -> Any:
            given: list[Any] = list(values)
            for index, each in zip(moving, moved, strict=True):
                given[index] = each
            return function(*given)

        found = of(*(Dual(values[index], tangents[index]) for index in moving))
        wanted = expected(
            of, [values[index] for index in moving], [tangents[index] for index in moving]
        )
        found, value, tangent = (
            each if isinstance(each, tuple | list) else [each] for each in (found, *wanted)
        )
        for one, *other in zip(found, value, tangent, strict=True):
            assert isinstance(one, Dual)
            torch.testing.assert_close(one.value, other[0], rtol=1e-10, atol=1e-12)
            assert one.tangent.shape == one.value.shape
            assert one.tangent.dtype == one.value.dtype
            torch.testing.assert_close(one.tangent, other[1], rtol=1e-10, atol=1e-12)


X, Y, ROW = normal(3, 4, seed=1), normal(3, 4, seed=2), normal(4, seed=3)
SCALAR = torch.tensor(0.7, dtype=torch.float64)
Q, K, V = (normal(2, 3, 5, 4, seed=seed) for seed in (4, 5, 6))
D = Dual(X, Y)
BELOW = torch.ones(5, 5).tril().bool()
TURNS = torch.polar(torch.ones(2).double(), torch.arange(2).double())

RULED: dict[str, tuple[Any, ...]] = {
    "add": (operator.add, X, ROW),
    "add a number": (lambda a: 2 + a + 1, X),
    "add with alpha": (lambda a, b: torch.add(a, b, alpha=3), X, ROW),
    "subtract": (operator.sub, ROW, X),
    "subtract from a number": (lambda a: 1 - a, X),
    "subtract with alpha": (lambda a, b: a.sub(b, alpha=2), X, Y),
    "multiply": (operator.mul, X, ROW),
    "multiply by a number": (lambda a: 2 * a * 3, X),
    "multiply by a scalar": (operator.mul, SCALAR, X),
    "divide": (operator.truediv, X, Y),
    "divide a number": (lambda a: 2 / a, Y),
    "multiply by numpy's numbers": (lambda a: np.float64(2) * a * np.float64(3), X),
    "divide and subtract numpy's": (lambda a: np.float64(2) / a - (np.float32(2) - a), X),
    "divide by name": (lambda a, b: torch.div(a, b, rounding_mode=None), X, Y),
    "power": (lambda a: a.abs() ** 1.5, X),
    "matmul": (operator.matmul, X, Y.T.contiguous()),
    "bmm": (torch.bmm, Q[0], K[0].transpose(1, 2)),
    "addcmul": (torch.addcmul, ROW, X, Y),
    "addcmul with value": (lambda *each: torch.addcmul(*each, value=2), ROW, X, Y),
    "linear": (functional.linear, X, Y, normal(3, seed=8)),
    "linear without bias": (functional.linear, X, Y),
    "layer norm": (lambda a: functional.layer_norm(a, (4,), eps=1e-6), X),
    "layer norm with weight": (lambda a: functional.layer_norm(a, (4,), ROW, ROW), X),
    "layer norm over two": (lambda a: functional.layer_norm(a, (3, 4)), X),
    "group norm": (lambda a: functional.group_norm(a, 3), Q),
    "group norm with weight": (
        lambda a, w, b: functional.group_norm(a.permute(3, 1, 0, 2), 1, w, b, eps=1e-2),
        *(Q, normal(3), normal(3, seed=1)),
    ),
    "group norm of rows": (lambda a: functional.group_norm(a, 2, ROW, ROW), X),
    "batch norm": (
        lambda a, w, b: functional.batch_norm(a, ROW, ROW.square() + 0.1, w, b, eps=1e-2),
        *(X, normal(4), normal(4, seed=2)),
    ),
    "gated": (lambda a: functional.glu(a)[0] + functional.glu(a, 0)[0, ..., :2], Q),
    "gelu": (functional.gelu, X),
    "gelu, tanh": (lambda a: functional.gelu(a, approximate="tanh"), X),
    "silu": (functional.silu, X),
    "softmax": (lambda a: functional.softmax(a, dim=1), X),
    "softmax, another dim": (lambda a: functional.softmax(a, 0), X),
    "attention": (functional.scaled_dot_product_attention, Q, K, V),
    "attention, by names": (
        lambda a, b, c: functional.scaled_dot_product_attention(query=a, key=b, value=c),
        *(Q, K, V),
    ),
    "add by name": (lambda a, b: torch.add(a, other=b), X, ROW),
    "layer norm by name": (lambda a: functional.layer_norm(a, normalized_shape=(4,)), X),
    "linear, by names": (lambda a, b: functional.linear(input=a, weight=b), X, Y),
    "attention, other length": (functional.scaled_dot_product_attention, Q[:, :, :2], K, V),
    "attention, causal": (
        lambda *each: functional.scaled_dot_product_attention(*each, is_causal=True),
        *(Q, K, V),
    ),
    "attention, mask": (
        lambda *each: functional.scaled_dot_product_attention(*each, BELOW),
        *(Q, K, V),
    ),
    "attention, scale": (
        lambda *each: functional.scaled_dot_product_attention(*each, scale=0.3),
        *(Q, K, V),
    ),
    "cat": (lambda a, b: torch.cat([a, b], dim=1), X, Y),
    "stack": (lambda a, b: torch.stack([a, b], 1), X, Y),
    "chunk": (lambda a: a.chunk(2, dim=1), X),
    "split": (lambda a: torch.split(a, [1, 3], 1), X),
    "unbind": (lambda a: a.unbind(0), X),
    "iteration": (lambda a: list(a), X),
    "view": (lambda a: a.view(2, -1), X),
    "reshape": (lambda a: a.transpose(0, 1).reshape(12), X),
    "flatten": (lambda a: torch.flatten(a, 1), Q),
    "permute": (lambda a: a.permute(2, 0, 3, 1), Q),
    "unsqueeze": (lambda a: a.unsqueeze(0).squeeze(0).unsqueeze(-1), X),
    "expand": (lambda a: a.expand(3, 4), ROW),
    "T": (lambda a: a.T @ a.mT.mT, X),
    "mean": (lambda a: a.mean(1, keepdim=True), X),
    "sum": (lambda a: a.sum(), X),
    "negation": (lambda a: -a, X),
    "abs": (abs, X),
    "to another's dtype": (lambda a, b: (a.to(b) + b.type_as(a)) * b.float().double(), X, Y),
    "another's shape": (lambda a, b: a.expand_as(b).reshape(-1).view_as(b) * b, X, Y),
    "a slice": (lambda a: a[1:, None, ..., ::2], X),
    "an index": (lambda a: a[torch.tensor([2, 0, 2])], X),
    "a mask": (lambda a: a[torch.tensor([True, False, True])], X),
    "view of what was spread": (lambda a: (a + X).view(-1), ROW),
    "view of what was transposed": (lambda a: (X.T.contiguous() + a.T).view(2, -1), X),
    "strides of what was spread": (lambda a: (a + X).as_strided((2, 3), (5, 1)), ROW),
    "view as another": (lambda a: (a * X).view_as(X.reshape(12)), ROW),
    "subtract from, with alpha": (lambda a, b: torch.rsub(a, b, alpha=2), X, Y),
    "cat, by name": (lambda a: torch.cat(tensors=[a, Y], dim=1), X),
    "cat, out is None": (lambda a: torch.cat([a, Y], out=None), X),
    "softmax, a method": (lambda a: a.softmax(-1) + torch.softmax(a, dim=0), X),
    "softmax, wider": (lambda a: a.float().softmax(1, dtype=torch.float64), X),
    "attention, defaults given": (
        lambda *each: functional.scaled_dot_product_attention(
            *each, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None
        ),
        *(Q, K, V),
    ),
    "attention, heads shared": (
        lambda *each: functional.scaled_dot_product_attention(*each, enable_gqa=True),
        *(normal(2, 4, 5, 4), K[:, :2], V[:, :2]),
    ),
    "attention, shared keys": (functional.scaled_dot_product_attention, Q, K[:1], V[:1]),
    "attention, a moving mask": (
        lambda q, mask: functional.scaled_dot_product_attention(q, K, V, mask),
        *(Q, normal(5, 5)),
    ),
    "dropout, of nothing": (lambda a: functional.dropout(a, 0.0), X),
    "dropout, not in training": (lambda a: functional.dropout(a, 0.5, training=False), X),
    "multiply by integers": (lambda a: a * torch.arange(4) * (X > 0), X),
    "multiply by wider numbers": (lambda a: a.float() * Y + a.float(), X),
}
OTHERS: dict[str, tuple[Any, ...]] = {
    "sin": (lambda a: a.sin() + torch.cos(a), X),
    "exp": (torch.exp, X),
    "cumsum": (lambda a: a.cumsum(0), X),
    "einsum": (lambda a, b: torch.einsum("ij,kj->ik", a, b), X, Y),
    "greatest along a dimension": (lambda a: a.amax(1), X),
    "greater of two": (torch.maximum, X, Y),
    "norm": (lambda a: torch.linalg.vector_norm(a, dim=1), X),
    "convolution": (lambda a: functional.conv2d(a, Q[:, :, :2, :2]), Q),
    "rms norm": (lambda a: functional.rms_norm(a, (4,)), X),
    "interpolation": (lambda a: functional.interpolate(a, scale_factor=2.0), Q),
    "where": (lambda a, b: torch.where(X > 0, a, b), X, Y),
    "clamp": (lambda a: a.clamp(-0.5, 0.5), X),
    "sigmoid": (torch.sigmoid, X),
    "log softmax": (lambda a: functional.log_softmax(a, 1), X),
    "greatest, with indices": (lambda a: a.max(1).values + a.topk(2).values[:, 0], X),
    "a named tuple, handed on": (lambda a: torch.stack(torch.aminmax(a, dim=1)), X),
    "normalisation": (lambda a: functional.normalize(a, dim=1), X),
    "remainder": (lambda a: a % 1, X),
    "plus": (lambda a: +a, X),
    "spectrum": (lambda a: torch.fft.rfft(a).abs(), X),
    "there and back": (lambda a: torch.fft.irfft(torch.fft.rfft(a) * (1 + 2j), n=4), X),
    "real part": (lambda a: torch.fft.fft(a).real * torch.fft.fft(a).imag, X),
    "turned by complex numbers": (
        lambda a: torch.view_as_real(torch.view_as_complex((a + X).reshape(3, 2, 2)) * TURNS),
        normal(3, 1),
    ),
    "batch norm, in training": (
        lambda a, w: functional.batch_norm(a, None, None, w, training=True),
        *(X, ROW),
    ),
    "padding": (lambda a: functional.pad(a, (1, 1), value=2.0), X),
    "gathering": (lambda a: a.gather(1, torch.tensor([[0], [1], [2]])), X),
    "spreading": (lambda a, b: torch.broadcast_tensors(a, b)[0] * b, ROW, X),
    "drawn beside": (lambda a: a * torch.ones_like(torch.rand_like(a)), X),
}


@pytest.mark.parametrize("name", RULED)
def test_a_rule_is_forward_mode_s(name: str) -> None:
    function, *values = RULED[name]
    agrees(function, *values)


@pytest.mark.parametrize("name", OTHERS)
def test_what_has_no_rule_goes_through_forward_mode(name: str) -> None:
    function, *values = OTHERS[name]
    agrees(function, *values)


@pytest.mark.parametrize(
    ("func", "name"),
    [
        (functional.linear, "linear"),
        (functional.layer_norm, "layer norm"),
        (functional.gelu, "gelu, tanh"),
        (functional.silu, "silu"),
        (functional.softmax, "softmax"),
        (functional.scaled_dot_product_attention, "attention"),
        (torch.addcmul, "addcmul"),
        (torch.cat, "cat"),
        (Tensor.chunk, "chunk"),
        (Tensor.permute, "permute"),
        (Tensor.mean, "mean"),
        (functional.group_norm, "group norm with weight"),
        (functional.batch_norm, "batch norm"),
        (functional.glu, "gated"),
        (Tensor.softmax, "softmax, a method"),
        (Tensor.view, "view of what was spread"),
        (torch.rsub, "subtract from, with alpha"),
        (torch.bmm, "bmm"),
        (Tensor.__truediv__, "divide"),
        (Tensor.__mul__, "multiply"),
        (functional.dropout, "dropout, not in training"),
    ],
)
@pytest.mark.parametrize("off", [0.5, -1.0])
def test_a_wrong_rule_would_be_seen(
    func: Function, name: str, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = dual.RULES[func]

    def wrong(value: Any, *args: Any, **kwargs: Any) -> Any:
        found = right(value, *args, **kwargs)
        return [off * each for each in found] if isinstance(found, tuple) else off * found

    monkeypatch.setitem(dual.RULES, func, wrong)
    function, *values = RULED[name]
    with pytest.raises(AssertionError):
        agrees(function, *values)


# In networks.


def student(qk_norm: bool = False) -> TransformerStudent:
    size = TransformerSize(
        input_size=8,
        patch_size=2,
        channels=3,
        width=32,
        depth=2,
        heads=2,
        classes=5,
        qk_norm=qk_norm,
    )
    torch.manual_seed(0)
    made = TransformerStudent(TransformerVelocity(Transformer(size), SiTPreconditioning()))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


GIVEN = {
    "z": normal(4, 3, 8, 8).float(),
    "t": torch.ones(4),
    "delta": torch.tensor([0.0, 0.3, 0.8, 1.0]),
}
LABELS = Condition(size=4, label=torch.tensor([0, 4, 2, 5]))


def output(network: nn.Module, delta: Any, dtype: torch.dtype = torch.float32) -> Any:
    z, t = GIVEN["z"].to(dtype), GIVEN["t"].to(dtype)
    return network(z, t, delta, LABELS)


def gradients(network: nn.Module, found: Tensor) -> list[Tensor]:
    parameters = [each for each in network.parameters() if each.requires_grad]
    return list(torch.autograd.grad(found.square().sum(), parameters, materialize_grads=True))


def moving(dtype: torch.dtype = torch.float32) -> Dual:
    delta = GIVEN["delta"].to(dtype)
    return Dual(delta, torch.ones_like(delta))


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_network_s_value_and_gradient_are_as_without(qk_norm: bool) -> None:
    network = student(qk_norm)
    plain, found = output(network, GIVEN["delta"]), output(network, moving())
    assert torch.equal(found.value, plain)
    pairs = zip(gradients(network, found.value), gradients(network, plain), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_network_s_tangent_is_forward_mode_s_and_has_no_graph(qk_norm: bool) -> None:
    network = student(qk_norm).double()
    found = output(network, moving(torch.float64), torch.float64)
    assert found.value.requires_grad
    assert not found.tangent.requires_grad
    delta = GIVEN["delta"].double()
    _, tangent = expected(
        lambda each: output(network, each, torch.float64), [delta], [torch.ones_like(delta)]
    )
    torch.testing.assert_close(found.tangent, tangent.detach(), rtol=1e-9, atol=1e-11)


def test_a_network_that_starts_anywhere_moves_along_all_its_inputs() -> None:
    network = student(qk_norm=True).double()
    network.starts_at = "anywhere"
    z, t, delta = (each.double() for each in GIVEN.values())
    agrees(lambda *each: network(*each, LABELS), z, 0.9 * t, 0.9 * delta)


@pytest.mark.parametrize("starts_at", ["prior", "anywhere"])
def test_a_perceptron_s_tangent_is_forward_mode_s(starts_at: Any) -> None:
    torch.manual_seed(0)
    network = MlpAverageVelocity(3, 5, 8, 3, starts_at).double()
    z, t, delta = normal(4, 3), 0.2 + 0.8 * GIVEN["t"].double(), GIVEN["delta"].double()
    if starts_at == "anywhere":
        agrees(lambda *each: network(*each, LABELS), z, t, delta)
    else:
        agrees(lambda z, delta: network(z, t, delta, LABELS), z, delta)
    found, plain = network(z, t, Dual(delta, t), LABELS), network(z, t, delta, LABELS)
    assert torch.equal(found.value, plain)
    pairs = zip(gradients(network, found.value), gradients(network, plain), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_batch_of_none_is_passed_through() -> None:
    """MeanFlow may have no sample whose δ is above 0."""
    network, layers = student(), nn.Sequential(nn.GroupNorm(1, 3), nn.Flatten(), nn.Softmax(1))
    z, none = GIVEN["z"][:0], GIVEN["t"][:0]
    found = network(Dual(z, z), none, Dual(none, none), LABELS[:0])
    assert found.tangent.shape == found.value.shape == z.shape
    assert layers(Dual(z, z)).tangent.shape == (0, 3 * 8 * 8)


def test_a_direction_s_graph_is_not_kept() -> None:
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    moved = Dual(X * weight, Y * weight)
    for function in (
        lambda a: a + 1,
        lambda a: a.view(-1),
        torch.sin,
        lambda a: functional.silu(a),
    ):
        found = function(moved)
        assert found.value.requires_grad
        assert not found.tangent.requires_grad


def test_adapters_of_low_rank_are_passed_through() -> None:
    layer = LowRankLinear(nn.Linear(4, 3), 2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(normal(*parameter.shape, seed=9))
    agrees(layer, X)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_too(dtype: torch.dtype) -> None:
    network = student()
    with torch.autocast("cpu", dtype):
        plain, found = output(network, GIVEN["delta"]), output(network, moving())
    assert torch.equal(found.value, plain)
    pairs = zip(gradients(network, found.value), gradients(network, plain), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    exact = output(
        copy.deepcopy(network).double(), moving(torch.float64), torch.float64
    ).tangent.detach()
    error = (found.tangent - exact).norm() / exact.norm()
    assert 1e-6 < error < (0.05 if dtype == torch.bfloat16 else 0.005)


def test_recomputation_makes_no_tangent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network, made = student(), []
    right = dual.RULES[functional.linear]

    def counted(*args: Any, **kwargs: Any) -> Any:
        made.append(1)
        return right(*args, **kwargs)

    monkeypatch.setitem(dual.RULES, functional.linear, counted)
    wanted = gradients(network, output(network, moving()).value)
    once = len(made)
    found = checkpoint(
        lambda delta: output(network, delta),
        moving(),
        use_reentrant=False,
        context_fn=lambda: (torch.enable_grad(), values_only()),
    )
    assert len(made) == 2 * once
    pairs = zip(gradients(network, found.value), wanted, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert len(made) == 2 * once


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # asked, and hidden, by the compiler
def test_the_compiler_traces_a_block_whole() -> None:
    block = student().velocity.transformer.blocks[0]
    compiled = torch.compile(copy.deepcopy(block), backend="aot_eager", fullgraph=True)
    x, c = normal(2, 4, 32).float(), Dual(normal(2, 32).float(), normal(2, 32, seed=1).float())
    found, plain = compiled(x, c), block(x, c)
    torch.testing.assert_close(found.value, plain.value)
    torch.testing.assert_close(found.tangent, plain.tangent)


class Layers(nn.Module):
    """Layers of torch's own, that strangers' networks are made of."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
            self.decoder = nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
            self.recurrent = nn.GRU(4, 4, batch_first=True)
            self.norm = nn.BatchNorm1d(5)
            self.instances = nn.InstanceNorm1d(5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.encoder(x))
        out: Tensor = self.decoder(self.instances(h), self.recurrent(x)[0])
        return out


@pytest.mark.parametrize("training", [True, False])
def test_layers_of_torch_s_own_are_passed_through(training: bool) -> None:
    agrees(without_statistics(Layers()).train(training), Q[0])
    network = Layers().train(training)
    plain = copy.deepcopy(network)
    found, wanted = network(Dual(Q[0], K[0])), plain(Q[0])
    assert torch.equal(found.value, wanted)
    assert not found.tangent.requires_grad
    for one, other in zip(network.buffers(), plain.buffers(), strict=True):
        assert torch.equal(one, other)
    pairs = zip(gradients(network, found.value), gradients(plain, wanted), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def without_statistics(network: Layers) -> Layers:
    """Forward mode cannot write them; a network in evaluation then takes its batch's, too."""
    network.norm.register_buffer("running_mean", None)
    network.norm.register_buffer("running_var", None)
    network.norm.track_running_stats = False
    return network


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize(
    "function",
    [
        lambda a: functional.rms_norm(a, (4,)),
        lambda a: (a + 1).view(-1) * a.sin().view_as(X.reshape(12)),
        lambda a: functional.normalize(a, dim=1) * a.max(1, keepdim=True).values,
        lambda a: torch.view_as_real(torch.view_as_complex(a.reshape(3, 2, 2)) * TURNS),
        lambda a: functional.layer_norm(X, (4,), a[0], a[1]) + functional.layer_norm(a, (4,), a[2]),
        lambda a: functional.group_norm(a, 2, ROW),
        lambda a: functional.batch_norm(a, ROW, ROW.square()),
        functional.glu,
        nn.Dropout(0.0),
        nn.Dropout(0.5).eval(),
    ],
    ids=[
        *("rms norm", "views", "normalisation", "complex", "moving weights"),
        *("group norm", "batch norm", "gated", "no dropout", "dropout, evaluated"),
    ],
)
def test_the_compiler_traces_functions_whole(function: Function) -> None:
    torch._dynamo.reset()
    found = torch.compile(function, backend="eager", fullgraph=True)(D)
    wanted = function(D)
    torch.testing.assert_close(found.value, wanted.value)
    torch.testing.assert_close(found.tangent, wanted.tangent)


@pytest.mark.parametrize(
    "function",
    [
        lambda a: functional.silu(a, True),
        nn.LeakyReLU(inplace=True),
        nn.Dropout(0.0, inplace=True),
    ],
)
def test_the_compiler_does_not_hide_that_a_function_writes(function: Function) -> None:
    torch._dynamo.reset()
    value = X.clone()
    with pytest.raises((NotImplementedError, torch._dynamo.exc.Unsupported)):
        torch.compile(function, backend="eager", fullgraph=True)(Dual(value, Y))
    assert torch.equal(value, X)


# Functions with their own backward, and custom operations.


class OwnProduct(torch.autograd.Function):
    """Several arguments, one of them a number; several results, one of them of integers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, power: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x, weight)
        sign = x.sign().long()
        ctx.mark_non_differentiable(sign) if isinstance(sign, Tensor) else None
        return x @ weight.T, x**power, sign

    @staticmethod
    def backward(ctx: Any, g: Tensor, h: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        return g @ weight + 2 * h * x, g.T @ x, None


class OwnForwardMode(torch.autograd.Function):
    """Computed where torch cannot see it."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.from_numpy(np.sin(x.detach().numpy()))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g * ctx.saved_tensors[0].cos()

    @staticmethod
    def jvp(ctx: Any, change: Tensor) -> Tensor:  # type: ignore[override]
        return change * ctx.saved_tensors[0].cos()


class RandomSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * (torch.rand(4) - 0.5).sign()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g


def own_product(h: Any, weight: Tensor) -> Any:
    product, square, sign = OwnProduct.apply(h, weight, 2)
    return product + square + sign


LIKE: dict[str, tuple[Function, Function]] = {
    "one result": (lambda h, w: OwnSilu.apply(h), lambda h, w: functional.silu(h)),
    "several": (own_product, lambda h, w: h @ w.T + h**2 + h.sign().long()),
    "own forward mode": (lambda h, w: OwnForwardMode.apply(h), lambda h, w: h.sin()),
    "nested": (
        lambda h, w: checkpoint(OwnSilu.apply, h, use_reentrant=True),
        lambda h, w: functional.silu(h),
    ),
    "reentrant checkpoint": (
        lambda h, w: checkpoint(lambda a: (a @ w).tanh(), h, use_reentrant=True),
        lambda h, w: (h @ w).tanh(),
    ),
    "without a gradient": (
        lambda h, w: torch.no_grad()(OwnSilu.apply)(h) + h,
        lambda h, w: torch.no_grad()(functional.silu)(h) + h,
    ),
}


@pytest.mark.parametrize("name", LIKE)
def test_a_function_with_its_own_backward_keeps_gradient_and_tangent(name: str) -> None:
    own, like = LIKE[name]
    found = []
    for function in (own, like):
        first, weight = (normal(4, 4, seed=seed).requires_grad_() for seed in (1, 2))
        output = function(functional.linear(D, first), weight)
        output.value.square().sum().backward()  # a reentrant checkpoint allows no other way
        found.append([output.value, output.tangent, first.grad, weight.grad])
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_without_that_the_gradient_would_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.autograd.Function, "apply", classmethod(dual._apply_to_tensors))
    first = normal(4, 4).requires_grad_()
    assert not OwnSilu.apply(functional.linear(D, first)).value.requires_grad


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # by the compiler
def test_a_function_with_its_own_backward_is_as_before_for_tensors() -> None:
    x = X.clone().requires_grad_()
    torch.autograd.gradcheck(OwnSilu.apply, x)
    torch._dynamo.reset()
    found = torch.compile(lambda a: OwnSilu.apply(a).sum(), backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(found, functional.silu(x).sum())


def test_a_function_that_captures_a_dual_number_is_refused() -> None:
    h = functional.linear(D, normal(4, 4).requires_grad_())
    with pytest.raises(NotImplementedError, match="not among its arguments"):
        checkpoint(lambda a: a * h, X.clone().requires_grad_(), use_reentrant=True)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated", "ignore:The .grad attribute")
def test_the_compiler_keeps_the_gradient_of_a_function_with_its_own_backward() -> None:
    torch._dynamo.reset()
    first = normal(4, 4).requires_grad_()
    found = torch.compile(lambda a: OwnSilu.apply(functional.linear(a, first)), backend="eager")(D)
    wanted = functional.silu(functional.linear(D, first))
    torch.testing.assert_close(found.tangent, wanted.tangent)
    one, other = (torch.autograd.grad(each.value.sum(), first)[0] for each in (found, wanted))
    torch.testing.assert_close(one, other)


@torch.library.custom_op("ffcore_tests::double", mutates_args=())
def custom_double(x: Tensor) -> Tensor:
    return 2 * x


@torch.library.custom_op("ffcore_tests::double_into", mutates_args=("out",))
def custom_double_into(x: Tensor, out: Tensor) -> None:
    out.copy_(2 * x)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (custom_double, "without forward mode"),
        (torch.ops.ffcore_tests.double, "without forward mode"),
        (lambda a: custom_double_into(a, torch.empty(3, 4).double()), "writes into"),
        (lambda a: torch.ops.ffcore_tests.double_into(a, torch.empty(3, 4).double()), "writes"),
    ],
)
def test_a_custom_operation_that_would_lose_its_tangent_is_refused(
    function: Function, said: str
) -> None:
    with pytest.raises(NotImplementedError, match=said):
        function(D)
    with pytest.raises(NotImplementedError, match=said), dual.custom_operations():
        torch.func.jvp(function, (X,), (Y,))


# What is no number to differentiate, and what cannot be done.

READ = ("item", "tolist", "numpy", "data_ptr", "untyped_storage", "storage")


@pytest.mark.parametrize(
    "function",
    [
        lambda a: a.detach(),
        torch.zeros_like,
        torch.ones_like,
        lambda a: a.new_zeros(3),
        lambda a: a > 0,
        lambda a: a == a,
        lambda a: a.argmax(1),
        lambda a: a.shape,
        lambda a: a.size(0),
        lambda a: a.dtype,
        lambda a: a.device,
        lambda a: a.ndim,
        len,
        lambda a: a.long(),
        lambda a: Y.to(a),
        lambda a: Y.type_as(a),
        lambda a: a.is_floating_point(),
        torch.detach,
        lambda a: a // 0.5,
        lambda a: 1 // a,
        lambda a: a.max(1).indices,
        lambda a: a.sort(1)[1],
        lambda a: a.new_ones(2),
        lambda a: torch.full_like(a, 3.0),
        lambda a: seeded(torch.randn_like, a),
        lambda a: seeded(torch.bernoulli, a.sigmoid()),
        lambda a: seeded(lambda b: b.new_tensor(torch.rand_like(b).shape) * torch.rand(2), a),
    ],
)
def test_what_has_no_derivative_comes_out_plain(function: Function) -> None:
    found, plain = function(D), function(X)
    assert not isinstance(found, Dual)
    assert torch.equal(found, plain) if isinstance(plain, Tensor) else found == plain


def seeded(function: Function, *given: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return function(*given)


@pytest.mark.parametrize(
    "function",
    [
        lambda a: functional.dropout(a, 0.5),
        nn.Dropout(0.1),
        nn.Dropout1d(0.1),
        lambda a: functional.alpha_dropout(a, 0.5, training=True),
        lambda a: functional.rrelu(a, training=True),
        functional.gumbel_softmax,
        torch.normal,
        lambda a: functional.scaled_dot_product_attention(a, a, a, dropout_p=0.5),
        lambda a: nn.MultiheadAttention(4, 2, dropout=0.5).double()(a, a, a)[0],
        lambda a: torch.dropout(a, 0.5, True),
        lambda a: torch.native_dropout(a, 0.5, True),
        lambda a: torch.alpha_dropout(a, 0.5, True),
        lambda a: torch.feature_dropout(a, 0.5, True),
        lambda a: torch.rrelu(a, training=True),
        lambda a: a.bernoulli(0.5) if isinstance(a, Tensor) else RandomSign.apply(a),
        lambda a: nn.GRU(4, 4, 2, dropout=0.5).double()(a[0])[0],
    ],
)
def test_what_would_draw_anew_for_the_tangent_is_refused(function: Function) -> None:
    with pytest.raises(NotImplementedError, match="draws"):
        seeded(function, Dual(Q[0], K[0]))


@pytest.mark.parametrize(
    "function",
    [
        lambda a: a.add_(1),
        lambda a: a.mul_(a),
        lambda a: functional.relu_(a),
        lambda a: functional.silu(a, inplace=True),
        lambda a: a.clamp_(0, 1),
        lambda a: torch.add(a, 1, out=torch.empty_like(X)),
        lambda a: a.copy_(X),
        lambda a: X.clone().add_(a),
        lambda a: operator.setitem(a, 0, 1.0),
        lambda a: operator.setitem(X.clone(), 0, a[0]),
        lambda a: a.resize_(2),
        lambda a: operator.iadd(a, 1),
        lambda a: operator.iadd(a.view(-1), 1),
        lambda a: operator.imul(X.clone(), a),
        lambda a: functional.elu(a, 1.0, True),
        nn.LeakyReLU(inplace=True),
        lambda a: functional.relu(a, True),
    ],
)
def test_writing_is_refused_and_leaves_all_as_it_was(function: Function) -> None:
    value, tangent = X.clone(), Y.clone()
    with pytest.raises(NotImplementedError, match="writes into"):
        function(Dual(value, tangent))
    assert torch.equal(value, X)
    assert torch.equal(tangent, Y)


def test_a_function_without_forward_mode_is_refused() -> None:
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.nn.functional.ctc_loss(
            Dual(normal(5, 1, 3).log_softmax(2), normal(5, 1, 3)),
            torch.tensor([[1]]),
            torch.tensor([5]),
            torch.tensor([1]),
        )


@pytest.mark.parametrize(
    "convert",
    [
        torch.as_tensor,
        torch.tensor,
        float,
        int,
        *(operator.methodcaller(each) for each in READ),
    ],
)
def test_none_is_taken_for_a_tensor_or_a_number(convert: Function) -> None:
    with pytest.raises((TypeError, NotImplementedError)):
        convert(D[:1, 0])


def test_it_is_a_tensor_where_torch_is_asked() -> None:
    assert torch.is_tensor(D)
    assert torch.is_tensor(X)
    assert not torch.is_tensor(1.0)
    torch._dynamo.reset()
    asks = torch.compile(lambda a: torch.is_tensor(a), backend="eager", fullgraph=True)
    assert asks(X)


@pytest.mark.parametrize(
    "read", [lambda a: a.data, torch.from_dlpack, torch.utils.dlpack.to_dlpack]
)
def test_no_way_around_torch_s_functions_gives_the_value_alone(read: Function) -> None:
    with pytest.raises((TypeError, NotImplementedError, AttributeError, RuntimeError)):
        read(Dual(X.clone().requires_grad_(), Y))


def test_it_is_true_where_its_value_is() -> None:
    assert not Dual(torch.zeros(1), torch.ones(1))
    assert D[:1, 0]


def test_values_alone_are_computed_where_that_is_asked_for() -> None:
    with values_only():
        assert not isinstance(D * 2, Dual)
    assert isinstance(D * 2, Dual)


def test_an_error_is_torch_s_own() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        functional.linear(D, normal(2, 7))
    with pytest.raises(AttributeError, match="no_such"):
        D.no_such  # noqa: B018
