"""The recipe tables of a converted network, and of a student that copies its teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self, get_args

import attrs

from ffcore.flow.convention import Convention, Time
from ffcore.keys import (
    ImpossibleValue,
    Proposal,
    ReadsWeights,
    StartsFromStudent,
    component,
    copied,
    did_you_mean,
    key,
    not_empty,
)
from ffcore.system.files import File

if TYPE_CHECKING:
    from ffcore.interfaces import ConditionSource, Context, Student, Teacher, VelocityField


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
        "its weights unless `weights` names them; the module may be in the current folder",
        validator=_names_a_function,
        imports=True,
    )
    weights: str | None = key(
        None,
        help="weights file of the network, such as a training checkpoint: a path, package:file of "
        "an installed package, or hf://organisation/repository/file; 'none': `network` loads them",
        validator=not_empty,
    )
    part: str | None = key(
        None, help=attrs.fields(ReadsWeights).part.metadata["help"], validator=not_empty
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
        if self.part is not None and self.weights is None:
            raise ValueError(f"part = {self.part!r} needs weights: name their file, or no part")
        if not self.sample_shape:
            raise ValueError("sample_shape must have at least one number")

    @classmethod
    def examples(cls) -> Iterator[Self]:
        """Yield small networks that predict EDM's output, and v at a time of one's own."""
        shared: dict[str, Any] = {
            "network": "ffcore_convert.example:network",
            "sample_shape": (2,),
            "classes": 3,
        }
        yield cls(
            prediction="edm-output",
            path="edm",
            time="c-noise",
            sigma_data=1.0,
            sigma_range=(0.002, 80.0),
            null_label=3,
            **shared,
        )
        yield cls(prediction="v", path="vp", time="index", schedule="scaled-linear", **shared)

    @property
    def files(self) -> tuple[File, ...]:
        """The weights file, if any."""
        if self.weights is None:
            return ()
        what = f"the weights of the network {self.network}"
        return (File(reference=self.weights, key="teacher.weights", what=what),)

    def without_weights(self, velocity: VelocityField) -> Self:
        """Return the table of the same network that reads no weights file."""
        del velocity
        return attrs.evolve(self, weights=None, part=None)

    def build(self, context: Context) -> Teacher:
        """Return the teacher.

        Raises ValueError for functions that return something else, WeightsError for a file that
        does not fit.
        """
        from torch import nn

        from ffcore.flow.convert import converted
        from ffcore.plugins import import_object
        from ffcore.system.weights import read_weights

        def load(name: str, target: str) -> Any:
            return import_object(target, f"{name} {target!r}")

        network = load("network", self.network)()
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"network {self.network!r} must return a torch module, found "
                f"{type(network).__name__}"
            )
        if self.weights is not None and not context.meta:
            read_weights(self.weights, self.part).load_into(network)
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


@attrs.frozen(kw_only=True)
class CopyStudent(StartsFromStudent):
    """A copy of the teacher's network, which reads the duration δ as its time."""

    times: tuple[float, float] | None = key(
        None,
        help="times (early, late) at which the copy runs, late at δ = 0 and early at δ = 1; "
        "'none': all, or those at which the teacher's conversion magnifies little",
        at_least=0,
        at_most=1,
    )
    teacher: Any = component(
        "teacher",
        None,
        help="table of the teacher to copy; 'none': the recipe's. ffcore writes it into the files "
        "of the finished student",
    )

    def __attrs_post_init__(self) -> None:
        if self.times is not None and self.times[0] >= self.times[1]:
            raise ImpossibleValue("times", self.times, "(early, late) with early below late")

    @property
    def needs(self) -> frozenset[str]:
        """Need a teacher that can be copied, unless the table names one."""
        return frozenset() if self.teacher is not None else frozenset({"trainable copy"})

    @classmethod
    def propose(cls, context: Context) -> Proposal | None:
        """Propose a copy of any teacher's network that is there to copy."""
        from ffcore_convert.student import learnable_times

        if (velocity := context.copy_of_teacher()) is None:
            return None
        try:
            learnable_times(velocity)
        except ValueError:
            return None
        return copied(2, "starts from the teacher's weights", velocity)

    def with_teacher(self, teacher: Any, student: Student) -> Self:
        """Return the table that rebuilds `student` from the table of its teacher."""
        from ffcore_convert.student import CopiedStudent

        assert isinstance(student, CopiedStudent)
        if without := getattr(teacher, "without_weights", None):
            teacher = without(student.velocity)
        return attrs.evolve(self, teacher=teacher, times=student.times)

    def build(self, context: Context) -> Student:
        """Return a student for the teacher of `context`.

        Raises ValueError for a teacher that cannot be copied, or whose copy cannot take γ.
        """
        from ffcore_convert.student import CopiedStudent, learnable_times

        velocity = self._copy(context)
        if velocity is None:
            raise ValueError(
                "student copy needs a teacher that can be copied: a function cannot. Use another "
                "student"
            )
        return CopiedStudent(velocity, self.times or learnable_times(velocity))

    def _copy(self, context: Context) -> VelocityField | None:
        assert context.teacher is not None
        ranged = context.guidance_range is not None
        if self.teacher is None:
            return context.teacher.trainable_copy(takes_guidance=ranged)
        again = attrs.evolve(context, conditions=context.teacher.conditions, meta=True)
        velocity: VelocityField | None = self.teacher.build(again).trainable_copy(
            takes_guidance=ranged
        )
        if context.meta or velocity is None or not any(p.is_meta for p in velocity.parameters()):
            return velocity
        teacher: Teacher = self.teacher.build(attrs.evolve(again, meta=False))
        return teacher.trainable_copy(takes_guidance=ranged)
