"""Dual numbers: a network's output and its derivative along a direction, in one pass.

A dual number is a value and its tangent, the derivative along a given direction. It replaces a
tensor in a network: torch passes every function of it to `Dual.__torch_function__`. This computes
the value as usual (the same kernels, bits and graph), and the tangent without a graph:

    output = student(z, ones, Dual(delta, ones), condition)
    output.value    # F, with gradient
    output.tangent  # ∂F/∂δ, without

The tangent of a transformer costs about one forward. Unlike torch's forward mode, this does not
compute the value twice, spends nothing on weights, which have no tangent, and keeps attention's
fused kernel. The functions that take most of the time have rules here; torch.func.jvp does the
others. For functions with a symmetric Jacobian, such as activations, softmax and layer
normalisation, torch's backward kernel gives the tangent.

torch does not pass two of its functions to `__torch_function__`, so this module replaces them.
`torch.autograd.Function.apply` would run on dual numbers without a graph, and the layers before it
would get no gradient. `torch.is_tensor` would say no, and a network would take another branch. For
all other arguments both do as before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.autograd.forward_ad import unpack_dual
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

Rule = Callable[..., Any]
"""(value, arguments of the function) -> tangent of the value, or None."""

aten = torch.ops.aten


@dataclasses.dataclass(eq=False, repr=False)
class Dual:
    """A tensor and its tangent, of equal shapes.

    It has a tensor's methods and operators, except those that write to it. Results that cannot be
    differentiated (a comparison, a size, `ones_like`, `detach`) have no tangent.

    Raises NotImplementedError if a function writes into a dual number, converts it to a Python
    number, draws its result at random, or has no forward mode.
    """

    value: Tensor
    tangent: Tensor
    __array_ufunc__ = None  # otherwise a numpy number on the left takes it for a sequence

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Return the function's value as one or several dual numbers; see Dual."""
        kwargs = kwargs or {}
        if func in REFUSED or _writes(func, args, kwargs):
            raise NotImplementedError(f"{_function_name(func)} {REFUSED.get(func, WRITES)}")
        value = func(*map(_values, args), **_values(kwargs))
        if func in CONSTANT or _values_only or not _differentiable(value):
            return value
        with torch.no_grad():
            rule = RULES.get(func)
            if rule is None or not args or any(isinstance(each, Dual) for each in kwargs.values()):
                rule = _forward_mode(func)
            return _join(value, rule(value, *args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        """Return a tensor's method for this number, or an attribute of its value (`shape`, …)."""
        if name.startswith("__"):  # otherwise torch.as_tensor and numpy take it for an array
            raise AttributeError(name)
        if name.startswith("resize"):
            raise NotImplementedError(f"{name} {WRITES}")
        found = getattr(Tensor, name)
        if callable(found):
            return lambda *args, **kwargs: Dual.__torch_function__(found, (), (self, *args), kwargs)
        of_value = getattr(self.value, name)
        if isinstance(of_value, Tensor) and name != "_base":  # FSDP2 asks whether it is a view
            if name not in ("T", "mT", "H", "mH", "real", "imag"):
                raise NotImplementedError(f"a dual number has no {name!r}")
            return Dual(of_value, getattr(self.tangent, name))
        return of_value

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __iter__(self) -> Iterator[Dual]:
        return iter(self.unbind(0))

    def __repr__(self) -> str:
        return f"Dual({self.value!r}, {self.tangent!r})"


def _operator(name: str) -> Callable[..., Any]:
    func = getattr(Tensor, name)

    def operator(self: Dual, *others: Any) -> Any:
        return Dual.__torch_function__(func, (), (self, *others), {})

    return operator


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    setattr(Dual, f"__{_name}__", _operator(f"__{_name}__"))
    setattr(Dual, f"__r{_name}__", _operator(f"__r{_name}__"))
    if hasattr(Tensor, f"__i{_name}__"):  # refused: other references to the tensor would not change
        setattr(Dual, f"__i{_name}__", _operator(f"__i{_name}__"))
for _name in ("pos", "neg", "abs", "getitem", "setitem", "lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Dual, f"__{_name}__", _operator(f"__{_name}__"))
Dual.__hash__ = object.__hash__  # type: ignore[method-assign]

# Lets FSDP2's hooks find the tensors in a module's inputs and outputs, as a dataclass also would.
pytree.register_pytree_node(
    Dual,
    lambda dual: ([dual.value, dual.tangent], None),
    lambda parts, _: Dual(*parts),
    serialized_type_name="ffcore.flow.dual.Dual",
)

_values_only = False


@contextlib.contextmanager
def values_only() -> Iterator[None]:
    """Compute no tangents in this block."""
    global _values_only
    before, _values_only = _values_only, True
    try:
        yield
    finally:
        _values_only = before


def _values(given: Any) -> Any:
    """Replace dual numbers by their values, also in nested lists, tuples and dictionaries."""
    return _replace(given, _value)


def _value(given: Any) -> Any:
    return given.value if isinstance(given, Dual) else given


def _replace(given: Any, part: Callable[[Dual], Tensor]) -> Any:
    if isinstance(given, Dual):
        return part(given)
    if isinstance(given, dict):
        return {name: _replace(each, part) for name, each in given.items()}
    if isinstance(given, list | tuple) and type(given) is not torch.Size:
        parts = [_replace(each, part) for each in given]
        return type(given)(*parts) if hasattr(given, "_fields") else type(given)(parts)
    return given


def _writes(func: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    """Whether an argument makes the function write into a tensor."""
    at = INPLACE_AT.get(func)
    if at is not None and len(args) > at and args[at]:
        return True
    if any(each._schema.is_mutable for each in _custom_overloads(func)):
        return True
    return bool(kwargs.get("inplace")) or kwargs.get("out") is not None


def _function_name(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", str(func))


def _differentiable(value: Any) -> bool:
    first = value[0] if isinstance(value, list | tuple) and value else value
    return isinstance(first, Tensor) and (first.is_floating_point() or first.is_complex())


def _join(value: Any, tangent: Any) -> Any:
    """Make a dual number of each result that has a tangent; leave indices, None and others."""
    if isinstance(value, list | tuple):  # also torch's named tuples
        tangents = [None] * len(value) if tangent is None else tangent
        return type(value)([_join(*each) for each in zip(value, tangents, strict=True)])
    if tangent is None or not _differentiable(value):
        return value
    # A constant may have widened the value's shape or dtype.
    if tangent.dtype != value.dtype:
        tangent = tangent.to(value.dtype)
    if tangent.shape != value.shape:
        tangent = tangent.expand(value.shape)
    if tangent.requires_grad:  # the caller's own tangent may require it
        tangent = tangent.detach()
    return Dual(value, tangent)


@contextlib.contextmanager
def _no_draws(func: Callable[..., Any]) -> Iterator[None]:
    """Raise NotImplementedError if this block draws random numbers: `func` runs in it again."""
    if torch.compiler.is_compiling():
        yield
        return
    before = random_states()
    yield
    if before != random_states():
        raise NotImplementedError(f"{_function_name(func)} {DRAWS}")


def random_states() -> list[bytes]:
    """Return the states of torch's global generators: the CPU's and the current GPU's."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing():
        states.append(torch.cuda.get_rng_state())
    return [each.numpy().tobytes() for each in states]


_apply_to_tensors: Callable[..., Any] = torch.autograd.Function.apply.__func__  # type: ignore[attr-defined]


def _apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
    """Apply a function with its own backward, also to dual numbers.

    The value gets that backward. The tangent is that of the function's `jvp`, if it has one,
    otherwise that of its `forward`, which runs again on the dual numbers.

    Raises NotImplementedError if `forward` draws at random, or takes dual numbers that are not
    among its arguments.
    """
    found: list[Dual] = []
    values, named = _replace((args, kwargs), lambda dual: found.append(dual) or dual.value)  # type: ignore[func-returns-value]
    value = _apply_to_tensors(cls, *values, **named)
    if not found:
        _replace(value, functools.partial(_refuse_captured, cls))
        return value
    if _values_only:
        return value
    with torch.no_grad(), _no_draws(cls), warnings.catch_warnings(action="ignore"):
        if cls.jvp is not torch.autograd.Function.jvp:
            return _join(value, _forward_mode(cls.apply)(value, *args, **kwargs))
        again = _apply_to_tensors(cls, *args, **kwargs)
        several = isinstance(again, list | tuple)
        return _join(value, [*map(_tangent, again)] if several else _tangent(again))


def _refuse_captured(cls: type, dual: Dual) -> Tensor:
    raise NotImplementedError(
        f"{_function_name(cls)} uses a dual number that is not among its arguments: it would lose "
        "the gradient"
    )


def _is_tensor(obj: Any, /) -> bool:
    """Return whether obj is a tensor or a dual number; for the compiler, which knows this function
    by its name, only whether it is a tensor."""
    return isinstance(obj, (Tensor, Dual))


torch.autograd.Function.apply = classmethod(_apply)  # type: ignore[assignment]
torch.is_tensor = _is_tensor  # type: ignore[assignment]


# The rules. Each is called without a graph, and may write to tensors that it made.


def _forward_mode(func: Callable[..., Any]) -> Rule:
    """The rule for everything else: torch's forward mode through this function."""

    def rule(value: Any, /, *args: Any, **kwargs: Any) -> Any:
        several = not isinstance(value, Tensor)
        duals: list[Dual] = []
        _replace((args, kwargs), lambda dual: duals.append(dual) or dual.value)  # type: ignore[func-returns-value]

        def function(*primals: Tensor) -> Any:
            at = iter(primals)
            changed, named = _replace((args, kwargs), lambda _: next(at))
            found = func(*changed, **named)
            # With several results, forward mode accepts only tensors.
            return tuple(each for each in found if each is not None) if several else found

        primals = tuple(dual.value.detach() for dual in duals)
        with sdpa_kernel(SDPBackend.MATH), _no_draws(func), custom_operations():
            found = torch.func.jvp(function, primals, tuple(dual.tangent for dual in duals))[1]
        if not several:
            return found
        tangents = iter(found)
        return [None if each is None else next(tangents) for each in value]

    return rule


class _CustomOperations(TorchFunctionMode):
    """See custom_operations."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        overloads = _custom_overloads(func)
        moves = bool(overloads) and _moves((args, kwargs))
        if moves and any(each._schema.is_mutable for each in overloads):
            raise NotImplementedError(f"{func} {WRITES}")
        found = func(*args, **(kwargs or {}))
        if moves and _differentiable(found) and not _moves(found):
            raise NotImplementedError(f"{func} is a custom operation without forward mode")
        return found


def _custom_overloads(func: Any) -> list[OpOverload]:
    """Return the variants of an operation that is not torch's own; none for other functions."""
    if not isinstance(func, OpOverload | OpOverloadPacket) or str(func).startswith("aten."):
        return []
    if isinstance(func, OpOverload):
        return [func]
    return [getattr(func, name) for name in func.overloads()]


def custom_operations() -> AbstractContextManager[Any]:
    """Raise NotImplementedError if a custom operation (`torch.library`) loses a tangent.

    torch's forward mode takes the result of one that has no forward mode for a constant.
    """
    return nullcontext() if torch.compiler.is_compiling() else _CustomOperations()


def _moves(given: Any) -> bool:
    """Whether a tensor in here has a tangent of torch's own."""
    tensors = (each for each in pytree.tree_leaves(given) if isinstance(each, Tensor))
    return any(unpack_dual(each).tangent is not None for each in tensors)


def _linear_map(func: Callable[..., Any]) -> Rule:
    """The rule of a function that is linear in its first tensor, and uses only the shape or dtype
    of others."""

    def rule(value: Any, /, x: Any, *args: Any, **kwargs: Any) -> Any:
        return func(x.tangent, *args, **kwargs) if isinstance(x, Dual) else None

    return rule


def _view(value: Tensor, /, x: Any, *args: Any, **kwargs: Any) -> Any:
    """The tangent's memory layout may differ from the value's and not allow this view."""
    return x.tangent.reshape(value.shape) if isinstance(x, Dual) else None


def _symmetric(backward: Callable[..., Tensor]) -> Rule:
    """The rule of an activation, which uses its backward kernel."""

    def rule(value: Tensor, /, x: Dual, inplace: bool = False, **kwargs: Any) -> Tensor:
        del inplace
        return backward(x.tangent, x.value, **kwargs)

    return rule


def _sum_of_products(start: Any, *products: tuple[Any, Any]) -> Any:
    """Return start + Σ a b over the products without a None; a start of None is zero."""
    for a, b in products:
        if a is not None and b is not None:
            start = torch.mul(a, b) if start is None else torch.addcmul(start, a, b)
    return start


def _tangent(given: Any) -> Tensor | None:
    return given.tangent if isinstance(given, Dual) else None


def _add(value: Tensor, /, a: Any, other: Any, *, alpha: float = 1) -> Tensor:
    da, db = _tangent(a), _tangent(other)
    if db is None:
        assert da is not None
        return da
    return alpha * db if da is None else torch.add(da, db, alpha=alpha)


def _subtract(value: Tensor, /, a: Any, other: Any, *, alpha: float = 1) -> Tensor:
    return _add(value, a, other, alpha=-alpha)


def _multiply(value: Tensor, /, a: Any, other: Any) -> Any:
    da, db = _tangent(a), _tangent(other)
    return _sum_of_products(None if da is None else da * _value(other), (_factor(a, db), db))


def _factor(given: Any, beside: Tensor | None) -> Any:
    """Return the value; if it is a number and `beside` is given, as a tensor."""
    value = _value(given)
    return value if beside is None or isinstance(value, Tensor) else beside.new_tensor(value)


def _divide(value: Tensor, /, a: Any, other: Any, **kwargs: Any) -> Any:
    if kwargs or isinstance(other, Dual):
        return _forward_mode(torch.div)(value, a, other, **kwargs)
    return a.tangent / other


def _addcmul(value: Tensor, /, x: Any, a: Any, b: Any, **kwargs: Any) -> Any:
    if kwargs:
        return _forward_mode(torch.addcmul)(value, x, a, b, **kwargs)
    return _sum_of_products(_tangent(x), (_tangent(a), _value(b)), (_value(a), _tangent(b)))


def _matmul(value: Tensor, /, a: Any, other: Any) -> Any:
    da, db = _tangent(a), _tangent(other)
    first = None if da is None else torch.matmul(da, _value(other))
    second = None if db is None else torch.matmul(_value(a), db)
    if first is None or second is None:
        return second if first is None else first
    return first.add_(second)


def _alone(x: Any, *others: Any) -> bool:
    """Whether only the first argument has a tangent."""
    return isinstance(x, Dual) and not any(isinstance(each, Dual) for each in others)


def _of_its_first(func: Callable[..., Any], rule: Rule) -> Rule:
    """Use `rule` if only the first argument has a tangent, otherwise forward mode."""
    otherwise = _forward_mode(func)
    return lambda *given, **named: (rule if _alone(*given[1:]) else otherwise)(*given, **named)


def _linear(value: Tensor, /, x: Dual, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.linear(x.tangent, weight)


def _layer_norm(
    value: Tensor,
    /,
    x: Dual,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    dtype = torch.promote_types(x.value.dtype, x.tangent.dtype)
    point, tangent = x.value.to(dtype), x.tangent.to(dtype)
    _, mean, rstd = torch.native_layer_norm(point, normalized_shape, None, None, eps)
    mask = [True, False, False]
    change: Tensor = aten.native_layer_norm_backward(
        tangent, point, normalized_shape, mean, rstd, None, None, mask
    )[0]
    return change if weight is None else change * weight


def _group_norm(
    value: Tensor,
    /,
    x: Dual,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """The compiler has no forward mode for this function."""
    point, tangent = (each.to(value.dtype).contiguous() for each in (x.value, x.tangent))
    N, C = point.shape[:2]
    sizes = (N, C, point.shape[2:].numel(), num_groups)
    _, mean, rstd = torch.native_group_norm(point, None, None, *sizes, eps)
    change: Tensor = aten.native_group_norm_backward(
        tangent, point, mean, rstd, None, *sizes, [True, False, False]
    )[0]
    return change if weight is None else change * weight.view(C, *[1] * (point.dim() - 2))


def _glu(value: Tensor, /, x: Dual, dim: int = -1) -> Any:
    return aten.glu_jvp(value, x.value, x.tangent, dim)


def _softmax(value: Tensor, /, x: Dual, dim: int, *args: Any, **kwargs: Any) -> Any:
    return aten._softmax_backward_data(x.tangent.to(value.dtype), value, dim, value.dtype)


def _attention(
    output: Tensor,
    /,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """With A = softmax(S), S = Q Kᵀ / √d: dO = dA V + A dV, and dS = (dQ Kᵀ + Q dKᵀ) / √d.

    Up to A and dA in float32, like the fused kernels; both, [B, H, N, N], are in memory.
    """
    attend = functional.scaled_dot_product_attention
    _check_no_draws(attend, dropout_p)
    given = (query, key, value)
    masked = attn_mask is not None or is_causal
    if masked or enable_gqa or not all(isinstance(each, Dual) for each in given):
        options = {"scale": scale, "enable_gqa": enable_gqa}
        return _forward_mode(attend)(output, *given, attn_mask, dropout_p, is_causal, **options)
    q, k, v = (each.value for each in given)
    dq, dk, dv = (each.tangent for each in given)
    exact = torch.promote_types(q.dtype, torch.float32)
    # One product gives both terms of dS; S uses slices of the same tensors.
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    queries = torch.cat([dq, q], dim=-1).to(exact).mul_(scale)
    keys = torch.cat([k, dk], dim=-1).to(exact).transpose(-2, -1)  # [B, H, 2 D, N]
    D = q.shape[-1]
    A = torch.softmax(queries[..., D:] @ keys[..., :D, :], dim=-1)
    dA = aten._softmax_backward_data(queries @ keys, A, -1, exact)
    return (A.to(v.dtype) @ dv).add_(dA.to(v.dtype) @ v)


def _joining(func: Callable[..., Any]) -> Rule:
    """The rule of `cat` and `stack`."""

    def rule(value: Tensor, /, parts: Any, *args: Any, **kwargs: Any) -> Any:
        tangents = [
            each.tangent if isinstance(each, Dual) else torch.zeros_like(each) for each in parts
        ]
        return func(tangents, *args, **kwargs)

    return rule


def _check_no_draws(func: Callable[..., Any], chance: float) -> None:
    """Raise NotImplementedError if value and tangent would come from different draws."""
    if chance > 0:
        raise NotImplementedError(f"{_function_name(func)} {DRAWS}")


def _dropout(func: Callable[..., Any]) -> Rule:
    def rule(
        value: Tensor, /, x: Dual, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        del inplace
        _check_no_draws(func, p if training else 0)
        return x.tangent

    return rule


def _rrelu(
    value: Tensor,
    /,
    x: Dual,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Any:
    del inplace
    _check_no_draws(functional.rrelu, training)
    return _forward_mode(functional.rrelu)(value, x, lower, upper, training)


def _multi_head_attention(value: Any, /, *args: Any, training: bool = True, **kwargs: Any) -> Any:
    func = functional.multi_head_attention_forward
    dropout_p = args[10]
    _check_no_draws(func, dropout_p if training else 0)
    return _forward_mode(func)(value, *args, training=training, **kwargs)


def _batch_norm(
    value: Tensor,
    /,
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """In training it does not read the running statistics, which it has already updated. Otherwise
    it is linear, but the compiler has no forward mode for it."""
    if not training and _alone(x, weight, bias):
        zeros, scale = torch.zeros_like(running_mean), (weight, None, False, momentum, eps)
        return functional.batch_norm(x.tangent, zeros, running_var, *scale)
    func, read = functional.batch_norm, (None, None) if training else (running_mean, running_var)
    return _forward_mode(func)(value, x, *read, weight, bias, training, momentum, eps)


CONSTANT = {
    Tensor.detach,
    torch.detach,
    torch.bernoulli,
    Tensor.bernoulli,
    torch.floor_divide,
    Tensor.floor_divide,
    Tensor.__floordiv__,
    Tensor.__rfloordiv__,
    torch.rand_like,
    torch.randn_like,
    torch.randint_like,
    torch.zeros_like,
    torch.ones_like,
    torch.full_like,
    torch.empty_like,
    Tensor.new_zeros,
    Tensor.new_ones,
    Tensor.new_full,
    Tensor.new_empty,
    Tensor.new_tensor,
}
"""Functions whose results have no tangent although they are numbers."""

WRITES = "writes into a tensor that has a tangent"
READS = "reads a tensor that has a tangent and would lose it"
DRAWS = "draws at random: its tangent would come from another draw"
READING = ("item", "tolist", "numpy", "data_ptr", "untyped_storage", "storage")
_WRITING = {
    getattr(Tensor, name)
    for name in dir(Tensor)
    if name == "__setitem__"
    or (name.startswith("__i") and name not in ("__index__", "__init__", "__invert__", "__int__"))
} | {
    getattr(owner, name)
    for owner in (Tensor, torch, functional)
    for name in dir(owner)
    if name.endswith("_")
    and not name.startswith(("_", "resize"))  # __getattr__; Dynamo cannot hash those
}
REFUSED: dict[Any, str] = {
    **dict.fromkeys(_WRITING, WRITES),
    **dict.fromkeys([getattr(Tensor, name) for name in READING], READS),
    **dict.fromkeys([functional.gumbel_softmax, torch.normal, torch.poisson], DRAWS),
}
"""Functions that do not accept dual numbers, and why."""

INPLACE_AT: dict[Any, int] = {
    func: list(inspect.signature(func).parameters).index("inplace")
    for func in vars(functional).values()
    if inspect.isfunction(func) and "inplace" in inspect.signature(func).parameters
}
"""Position of the argument `inplace`; torch passes it by name, the compiler by position."""

_LINEAR_MAPS = (
    "chunk",
    "clone",
    "contiguous",
    "double",
    "expand",
    "expand_as",
    "flatten",
    "float",
    "mean",
    "movedim",
    "neg",
    "permute",
    "reshape",
    "split",
    "squeeze",
    "sum",
    "t",
    "to",
    "transpose",
    "type_as",
    "unbind",
    "unflatten",
    "unsqueeze",
    "__getitem__",
    "__neg__",
)

RULES: dict[Any, Rule] = {
    functional.linear: _of_its_first(functional.linear, _linear),
    functional.layer_norm: _of_its_first(functional.layer_norm, _layer_norm),
    functional.group_norm: _of_its_first(functional.group_norm, _group_norm),
    functional.glu: _glu,
    functional.gelu: _symmetric(aten.gelu_backward),
    functional.silu: _symmetric(aten.silu_backward),
    functional.scaled_dot_product_attention: _attention,
    functional.softmax: _softmax,
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
    functional.rrelu: _rrelu,
    functional.multi_head_attention_forward: _multi_head_attention,
    functional.batch_norm: _batch_norm,
    Tensor.view: _view,
    Tensor.view_as: _view,
    torch.addcmul: _addcmul,
    torch.cat: _joining(torch.cat),
    torch.stack: _joining(torch.stack),
}
for _name in _LINEAR_MAPS:
    for _func in (getattr(Tensor, _name, None), getattr(torch, _name, None)):
        if _func is not None:
            RULES[_func] = _linear_map(_func)
for _name in ("", "1d", "2d", "3d"):
    _func = getattr(functional, f"dropout{_name}")
    RULES[_func] = _dropout(_func)
for _func in (functional.alpha_dropout, functional.feature_alpha_dropout):
    RULES[_func] = _dropout(_func)
_PRODUCTS: dict[tuple[str, ...], Rule] = {
    ("add", "__add__", "__radd__"): _add,
    ("sub", "subtract", "__sub__"): _subtract,
    ("__rsub__", "rsub"): lambda value, b, a, **kwargs: _subtract(value, a, b, **kwargs),
    ("mul", "multiply", "__mul__", "__rmul__"): _multiply,
    ("div", "divide", "__truediv__"): _divide,
    ("matmul", "bmm", "mm", "__matmul__"): _matmul,
    ("addcmul",): _addcmul,
}
for _names, _rule in _PRODUCTS.items():
    for _name in _names:
        for _func in (getattr(Tensor, _name, None), getattr(torch, _name, None)):
            if _func is not None:
                RULES[_func] = _rule
