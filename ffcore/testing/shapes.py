"""The shapes in the roles' annotations, checked while tests run.

    with checked_shapes():
        student(x_t, t, delta, condition)  # WrongShape if the output has another shape

Every implementation of a role's abstract method is checked against the annotations of that method
in ffcore/interfaces.py, also in classes defined meanwhile; its own annotations do not matter. A
letter means one number across the arguments and the result of a call, including conditions.

A dual number (ffcore/flow/dual.py) is checked by its value. Compiled code is not checked.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jaxtyping
import torch
from torch import Tensor

from ffcore import interfaces
from ffcore.draws import Draws
from ffcore.flow.dual import Dual
from ffcore.training.optimizer import Optimizer

ROLES: tuple[type, ...] = (
    interfaces.ConditionSource,
    interfaces.DataSource,
    interfaces.VelocityField,
    interfaces.Student,
    interfaces._Objective,
    interfaces.Balancer,
    interfaces.Features,
    interfaces.ClassFeatures,
    interfaces.Decoder,
)
"""Classes whose methods are checked."""

VALUES = (
    interfaces.Condition,
    interfaces.Batch,
    interfaces.Gap,
    interfaces.Gaps,
    interfaces.Norms,
)
"""Classes whose fields are checked in arguments and results."""

_NAMES = {**vars(jaxtyping), "Draws": Draws, "Optimizer": Optimizer}
"""Names in annotations that interfaces.py imports only for the type checker."""


class WrongShape(Exception):
    """A tensor has another shape or dtype than a role's method states.

    It is not a TypeError or ValueError, because a network refuses dual numbers with those.
    """


@contextmanager
def checked_shapes() -> Iterator[None]:
    """Check every call of a role's method in this block. Raises WrongShape."""
    replaced: list[tuple[type, str, Any]] = []

    def check(cls: type) -> None:
        for name, contract in _contracts(cls).items():
            own = vars(cls).get(name)
            if inspect.isfunction(own) and not getattr(own, "__isabstractmethod__", False):
                replaced.append((cls, name, own))
                setattr(cls, name, _checked(own, contract))

    roots: list[Any] = [role for role in ROLES if not set(ROLES) & set(role.__mro__[1:])]
    for root in roots:
        for cls in _subclasses(root):
            check(cls)
        root.__init_subclass__ = _checking_new(root, check)
    try:
        yield
    finally:
        for root in roots:
            del root.__init_subclass__
        for cls, name, own in replaced:
            setattr(cls, name, own)


def _checking_new(root: Any, check: Callable[[type], None]) -> Any:
    def init_subclass(cls: type, /, **named: Any) -> None:
        super(root, cls).__init_subclass__(**named)
        check(cls)

    return classmethod(init_subclass)


def _subclasses(cls: type) -> set[type]:
    below: set[type] = set(type.__subclasses__(cls))
    return below.union(*map(_subclasses, below))


def _contracts(cls: type) -> dict[str, Callable[..., Any]]:
    """Return the abstract methods of a class's roles, by name."""
    return {
        name: method
        for role in cls.__mro__
        if role in ROLES
        for name, method in vars(role).items()
        if getattr(method, "__isabstractmethod__", False)
    }


def _checked(own: Callable[..., Any], contract: Callable[..., Any]) -> Callable[..., Any]:
    signature = _signature(contract)
    hints = _shaped(contract)
    answers = hints.get("return")

    @functools.wraps(own)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return own(self, *args, **kwargs)
        arguments = signature.bind(self, *args, **kwargs).arguments
        checks = _Call(own, contract)
        with jaxtyping.jaxtyped("context"):
            for name, value in arguments.items():
                if name in hints:
                    checks.check(name, hints[name], value, "Call it with this shape and dtype")
            answer = own(self, *args, **kwargs)
            checks.check("result", answers, answer, "Return this shape and dtype")
        return answer

    return call


_signature = functools.cache(inspect.signature)


@functools.cache
def _shaped(stated: Any) -> dict[str, Any]:
    """Return the annotations with shapes of a method or a class, by name."""
    hints = typing.get_type_hints(stated, localns=_NAMES)
    return {name: hint for name, hint in hints.items() if _states_shape(hint)}


def _states_shape(hint: Any) -> bool:
    inner = typing.get_args(hint)
    return hint in VALUES or _is_shape(hint) or any(map(_states_shape, inner))


def _is_shape(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)


class _Call:
    """The shapes seen in a call of an implementation of a role's method."""

    def __init__(self, own: Callable[..., Any], contract: Callable[..., Any]) -> None:
        self.own, self.contract = own, contract
        self.seen: list[str] = []

    def check(self, name: str, hint: Any, value: Any, advice: str) -> None:
        """Raise WrongShape if a value does not match its annotation."""
        for at, stated, part in _stated(name, hint, value):
            if not isinstance(part.value if isinstance(part, Dual) else part, stated):
                beside = f" beside {', '.join(self.seen)}" if self.seen else ""
                raise WrongShape(
                    f"{self.own.__qualname__}: {at} is {_told(part)}{beside}; "
                    f"{self.contract.__qualname__} in ffcore/interfaces.py states "
                    f'{stated.dtype.__name__}[Tensor, "{stated.dim_str}"]. {advice}.'
                )
            self.seen.append(f"{at} {_told(part)}")


def _told(value: Any) -> str:
    if isinstance(value, Tensor | Dual):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return type(value).__name__


def _stated(name: str, hint: Any, value: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield each part of a value whose annotation states a shape: name, annotation, part.

    Parts of tuples of any length are left out: their letters may differ from part to part.
    """
    if _is_shape(hint):
        yield name, hint, value
    else:
        for each in _parts(name, hint, value):
            yield from _stated(*each)


def _parts(name: str, hint: Any, value: Any) -> Iterable[tuple[str, Any, Any]]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in VALUES and isinstance(value, hint):
        fields = _shaped(hint).items()
        return [(f"{name}.{field}", each, getattr(value, field)) for field, each in fields]
    if origin in (types.UnionType, typing.Union) and value is not None:
        return [(name, each, value) for each in inner]
    if origin is tuple and ... not in inner and len(value) == len(inner):
        pairs = enumerate(zip(inner, value, strict=True))
        return [(f"{name}[{index}]", *pair) for index, pair in pairs]
    if origin is Mapping:
        return [(f"{name}[{key!r}]", inner[1], each) for key, each in value.items()]
    return []
