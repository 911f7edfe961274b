"""The shapes that the roles' annotations state, checked while tests run.

    with checked_shapes():
        student(x_t, t, delta, condition)  # WrongShape, where what it answers has another shape

Every method that a role leaves to its implementations is checked in all of them, classes made
meanwhile included, by the annotations of the role's own method in ffcore/interfaces.py. What an
implementation annotates does not matter. A letter means one number in what a call is handed and
what it answers, within conditions too.

A dual number (ffcore/flow/dual.py) is checked by its value. Code that is being compiled is not
checked: compiled code stays as it is.
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
"""Whose methods are checked."""

VALUES = (
    interfaces.Condition,
    interfaces.Batch,
    interfaces.Gap,
    interfaces.Gaps,
    interfaces.Norms,
)
"""Whose fields are checked where a call is handed one or answers with one."""

_NAMES = {**vars(jaxtyping), "Draws": Draws, "Optimizer": Optimizer}
"""What annotations name that interfaces.py imports for the type checker alone."""


class WrongShape(Exception):
    """A tensor of another shape or dtype than a role's method states.

    It is no TypeError or ValueError, by which a network refuses dual numbers: nothing that looks
    for a refusal may take it for one.
    """


@contextmanager
def checked_shapes() -> Iterator[None]:
    """Check every call of a role's method meanwhile. Raises WrongShape."""
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
    """Return the abstract methods of the roles that a class is of, by name."""
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
                    checks.check(name, hints[name], value, "Call it with such a one")
            answer = own(self, *args, **kwargs)
            checks.check("answer", answers, answer, "Let it answer so")
        return answer

    return call


_signature = functools.cache(inspect.signature)


@functools.cache
def _shaped(stated: Any) -> dict[str, Any]:
    """Return what annotations of a method or a class state the shape of, by name."""
    hints = typing.get_type_hints(stated, localns=_NAMES)
    return {name: hint for name, hint in hints.items() if _states_shape(hint)}


def _states_shape(hint: Any) -> bool:
    inner = typing.get_args(hint)
    return hint in VALUES or _is_shape(hint) or any(map(_states_shape, inner))


def _is_shape(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)


class _Call:
    """What has been seen of a call of an implementation of a role's method."""

    def __init__(self, own: Callable[..., Any], contract: Callable[..., Any]) -> None:
        self.own, self.contract = own, contract
        self.seen: list[str] = []

    def check(self, name: str, hint: Any, value: Any, advice: str) -> None:
        """Raise WrongShape where a value is not what its annotation says."""
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
    """Yield each part of a value that has a shape by its annotation: name, annotation, part.

    The parts of a tuple of any length are left out: each is by itself, and so are its letters.
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
