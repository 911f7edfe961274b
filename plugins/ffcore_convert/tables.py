"""The recipe table of a converted network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self, get_args

import attrs

from ffcore.flow.convention import Convention, Time
from ffcore.keys import ImpossibleValue, did_you_mean, key

if TYPE_CHECKING:
    from ffcore.interfaces import ConditionSource, Context, Teacher


def _names_a_function(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and ":" not in value:
        raise ImpossibleValue(attribute.name, value, "'module:function'")


def _is_time(instance: object, attribute: attrs.Attribute[Any], value: str) -> None:
    if value not in get_args(Time) and ":" not in value:
        possible = f"one of {', '.join(map(repr, get_args(Time)))}, or 'module:function'"
        raise ImpossibleValue(attribute.name, value, possible, did_you_mean(value, get_args(Time)))


@attrs.frozen(kw_only=True)
class ConvertedTeacher(Convention):
    """A pretrained network, by its prediction, its path and its time."""

    network: str = key(
        help="'module:function' without arguments that returns your network, a torch module, with "
        "its weights; the module may be in the current folder",
        validator=_names_a_function,
        imports=True,
    )
    sample_shape: tuple[int, ...] = key(help="shape of one sample, without the batch", at_least=1)
    classes: int | None = key(
        None,
        help="number of classes, without the null class; 'none': the table [conditions], or no "
        "conditions",
        at_least=1,
    )
    null_label: int | None = key(
        None, help="label of no class, for guidance; 'none': the teacher cannot be guided"
    )
    call: str | None = key(
        None,
        help="'module:function' of (network, points, times, condition) that returns the "
        "prediction; 'none': network(points, times, condition)",
        validator=_names_a_function,
        imports=True,
    )
    time: str = key(
        help="time of the network: by its value at the noise ('noise-at-1', 'noise-at-0', "
        "'noise-at-1000'), the 'index' of a schedule, 'sigma' (σ/α), 'log-snr' (ln α²/σ²), "
        "'c-noise' (ln σ / 4), 'angle' (θ), or 'module:function' of our t, 1 = noise",
        validator=_is_time,
        imports=True,
    )
    offers = frozenset({"trainable copy"})

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.null_label is not None and self.null_label < (self.classes or math.inf):
            raise ValueError(
                f"null_label is {self.null_label} and classes is {self.classes or 'none'}, but it "
                "must be a label after the classes, often their number"
            )
        if not self.sample_shape:
            raise ValueError("sample_shape must have at least one number")

    @classmethod
    def examples(cls) -> Iterator[Self]:
        """Yield small networks that predict noise, and v at a time of one's own."""
        shared: dict[str, Any] = {
            "network": "ffcore_convert.example:network",
            "sample_shape": (2,),
            "classes": 3,
            "path": "vp",
        }
        yield cls(
            prediction="noise", time="log-snr", sigma_range=(0.01, 100.0), null_label=3, **shared
        )
        yield cls(prediction="v", time="index", schedule="scaled-linear", **shared)

    def build(self, context: Context) -> Teacher:
        """Return the teacher. Raises ValueError for functions that return something else."""
        from torch import nn

        from ffcore.flow.convert import converted
        from ffcore.plugins import import_object

        def load(name: str, target: str) -> Any:
            return import_object(target, f"{name} {target!r}")

        network = load("network", self.network)()
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"network {self.network!r} must return a torch module, found "
                f"{type(network).__name__}"
            )
        fields = {each.name: getattr(self, each.name) for each in attrs.fields(Convention)}
        if ":" in self.time:
            fields["time"] = load("time", self.time)
        call = None if self.call is None else load("call", self.call)
        conditions = self._conditions(context)
        return converted(network, Convention(**fields), self.sample_shape, conditions, call=call)

    def _conditions(self, context: Context) -> ConditionSource:
        from ffcore.interfaces import Labels, Unconditional

        if self.classes is not None:
            return Labels(self.classes, self.null_label)
        return context.conditions or Unconditional()
