"""Dual numbers: every rule against torch's forward mode, and a value that is as without them."""

import copy
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from ffcore import dual
from ffcore.dual import Dual, values_only
from ffcore.interfaces import Condition
from ffcore.nn.lora import LowRankLinear
from ffcore.nn.size import TransformerSize
from ffcore.nn.student import TransformerStudent
from ffcore.nn.transformer import Transformer
from ffcore.nn.velocity import TransformerVelocity
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
BELOW = torch.ones(5, 5).tril().bool()

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
        lambda *each: functional.scaled_dot_product_attention(
            *each, torch.ones(5, 5).tril().bool()
        ),
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
    "group norm": (lambda a: functional.group_norm(a, 3), Q),
    "rms norm": (lambda a: functional.rms_norm(a, (4,)), X),
    "interpolation": (lambda a: functional.interpolate(a, scale_factor=2.0), Q),
    "where": (lambda a, b: torch.where(X > 0, a, b), X, Y),
    "clamp": (lambda a: a.clamp(-0.5, 0.5), X),
    "sigmoid": (torch.sigmoid, X),
    "log softmax": (lambda a: functional.log_softmax(a, 1), X),
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


def test_adapters_of_low_rank_are_passed_through() -> None:
    layer = LowRankLinear(nn.Linear(4, 3), 2, 4.0).double()
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


# What is no number to differentiate, and what cannot be done.

D = Dual(X, Y)


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
    ],
)
def test_what_has_no_derivative_comes_out_plain(function: Function) -> None:
    found, plain = function(D), function(X)
    assert not isinstance(found, Dual)
    assert torch.equal(found, plain) if isinstance(plain, Tensor) else found == plain


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
    ],
)
def test_writing_is_refused_and_leaves_all_as_it_was(function: Function) -> None:
    value, tangent = X.clone(), Y.clone()
    with pytest.raises((NotImplementedError, TypeError)):
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


@pytest.mark.parametrize("convert", [torch.as_tensor, torch.tensor, float, int])
def test_none_is_taken_for_a_tensor_or_a_number(convert: Function) -> None:
    with pytest.raises(TypeError):
        convert(D[:1, 0])


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
