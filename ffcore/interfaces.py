"""The five roles and the values between them. Read this file first.

Conventions (docs/conventions.md): time t runs from 1 (prior noise n ~ N(0, I)) to 0 (data x) on
the path x_t = (1 − t) x + t n. A velocity u = E[x − n | x_t] points from noise to data, so
dx/dt = −u. A flow map covers a duration δ: from the prior, f(z, δ) = z + δ F(z, δ), where F is
the average velocity.

Shapes stand in the annotations, as jaxtyping writes them: batch B, sample *S, batch first
everywhere. A letter means one number within a call, and "rows" are as many as there happen to be.
They are checked while tests run (ffcore/testing/shapes.py), and at no other time.

A method is a PredictorObjective, a CorrectorObjective or both. Each answers with gaps: pairs of a
network output that carries gradient and the velocity gap by which it should move. A Balancer
weighs them into one loss. The trainer knows nothing else about any method.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Int

    from ffcore.draws import Draws
    from ffcore.training.optimizer import Optimizer

Objective = Literal["prediction", "correction"]


@attrs.frozen(kw_only=True)
class Condition:
    """What each sample of a batch is conditioned on. Any field but `size` may be None.

    Raises ValueError if a field's first dimension is not `size`.
    """

    size: int
    """Number of samples, B."""
    label: Int[Tensor, "B"] | None = None
    """Class of each sample. A teacher's null label counts as a class."""
    embedding: Float[Tensor, "B L D"] | None = None
    """Tokens of each sample, as made from a prompt."""
    mask: Bool[Tensor, "B L"] | None = None
    """Which tokens of `embedding` count."""
    guidance: Float[Tensor, "B"] | None = None
    """Guidance scale γ of each sample. None and 1 both mean unguided."""

    def __attrs_post_init__(self) -> None:
        for name, value in self._tensors().items():
            if len(value) != self.size:
                raise ValueError(f"condition.{name} has {len(value)} rows for {self.size} samples")

    def _tensors(self) -> dict[str, Tensor]:
        values = {a.name: getattr(self, a.name) for a in attrs.fields(Condition)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def __getitem__(self, index: slice | Tensor) -> Condition:
        """Return the samples that a slice, a boolean mask or an index tensor chooses."""
        parts = {name: value[index] for name, value in self._tensors().items()}
        if isinstance(index, slice):
            size = len(range(*index.indices(self.size)))
        else:
            size = int(index.sum()) if index.dtype == torch.bool else len(index)
        return Condition(size=size, **parts)

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Concatenate along the batch. Raises ValueError if only some have a field."""
        names = [set(condition._tensors()) for condition in conditions]
        if any(name != names[0] for name in names):
            raise ValueError(f"cannot concatenate conditions that have different fields: {names}")
        parts = {
            name: torch.cat([getattr(condition, name) for condition in conditions])
            for name in names[0]
        }
        return Condition(size=sum(condition.size for condition in conditions), **parts)

    def at(self, scale: float, device: torch.device | str = "cpu") -> Condition:
        """Return the same condition with the guidance scale γ for every sample."""
        return attrs.evolve(self, guidance=torch.full((self.size,), scale, device=device))

    def to(self, device: torch.device | str) -> Condition:
        """Return the same condition on `device`."""
        parts = {name: value.to(device) for name, value in self._tensors().items()}
        return Condition(size=self.size, **parts)


class ConditionSource(ABC):
    """The source of conditions, which a data-free run draws beside the noise."""

    @abstractmethod
    def draw(self, draws: Draws) -> Condition:
        """Draw one condition for each sample of `draws`, unguided (γ None)."""

    @abstractmethod
    def null(self, condition: Condition) -> Condition:
        """Return the unconditional counterpart of `condition`, of the same size.

        Raises ValueError if the teacher has none (it cannot be guided then).
        """


class DataError(Exception):
    """Stored data cannot be read, or is not what it should be. One message, for a person."""


class DataSource(ABC):
    """The source of data, for the objectives that declare the need. Core chooses the samples of a
    step: every epoch has an order of its own, from the run's seed."""

    sample_shape: tuple[int, ...]
    """*S, the shape of one sample."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples, at least 1."""

    @abstractmethod
    def read(
        self, indices: Int[Tensor, "B"], draws: Draws
    ) -> tuple[Float[Tensor, "B *S"], Condition]:
        """Return the samples of `indices` and their conditions, unguided.

        Args:
            indices: in [0, len), on the CPU; some may be equal.
            draws: random streams for these B samples, on the CPU, for augmentation.

        Returns:
            Samples in float32 and a condition that the teacher understands. Each sample depends on
            its own index and draws alone, and is the same in a run that is built again.

        Raises DataError if the stored data cannot be used.
        """


class VelocityField(nn.Module, ABC):
    """A velocity u(x_t, t | c): what teachers, the online network g_ψ and own networks are."""

    @abstractmethod
    def forward(
        self, x_t: Float[Tensor, "B *S"], t: Float[Tensor, "B"], condition: Condition
    ) -> Float[Tensor, "B *S"]:
        """Return the velocity at each point.

        Args:
            x_t: points on the path.
            t: their times in [0, 1], 1 = prior.
            condition: of size B.

        Returns:
            Velocities of x_t's dtype, under autocast too; finite, pointing from noise to data;
            each sample independent of the rest of the batch.
        """

    @staticmethod
    def of(
        function: Callable[[Tensor, Tensor, Condition], Tensor],
        sample_shape: Sequence[int],
        conditions: ConditionSource | None = None,
    ) -> Teacher:
        """Make a teacher of a plain function of (x_t, t, condition), in our convention.

        `conditions` says what it is conditioned on, as in Labels(10): by default nothing.
        """
        return FunctionTeacher(function, tuple(sample_shape), conditions)


class Teacher(VelocityField):
    """A velocity field to distil: frozen, in eval mode; no gradient reaches its parameters."""

    sample_shape: tuple[int, ...]
    """*S, the shape of one sample."""
    conditions: ConditionSource
    """Draws the conditions that the teacher understands, and gives the null one."""

    @abstractmethod
    def trainable_copy(self, *, takes_guidance: bool = False) -> VelocityField | None:
        """Return an independent copy to train: unguided, in full precision, with gradients on.

        With `takes_guidance` the copy reads γ from its condition, through an input that starts
        without effect: a run over a range of γ needs this. Raises ValueError if the network has
        no place for it.

        None for a black box, whose online network the recipe must name.
        """


class Student(nn.Module, ABC):
    """An average velocity F: the network that a run trains for its user."""

    starts_at: Literal["prior", "anywhere"]
    """"prior": F is defined at t = 1 only, and `t` is not read. "anywhere": at every t ≥ δ."""

    @abstractmethod
    def forward(
        self,
        x_t: Float[Tensor, "B *S"],
        t: Float[Tensor, "B"],
        delta: Float[Tensor, "B"],
        condition: Condition,
    ) -> Float[Tensor, "B *S"]:
        """Return the average velocity over [t − δ, t].

        The flow map is x_t + δ F, hence the identity at δ = 0, where F is the velocity at x_t.
        If its derivative is wanted too, the inputs are dual numbers (ffcore.flow.dual). They go
        through torch's functions as tensors do, except through functions that write in place.

        Args:
            x_t: where the flow starts.
            t: times of the start in (0, 1].
            delta: durations in [0, t]; F is differentiable in them.
            condition: of size B.

        Returns:
            Average velocities of x_t's dtype, under autocast too.
        """


@attrs.frozen(kw_only=True, eq=False)
class Networks:
    """The networks of an objective. All are called through `forward` alone."""

    student: Student
    teacher: Teacher
    auxiliaries: Mapping[str, nn.Module] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True, eq=False)
class Batch:
    """The inputs of an objective for one step."""

    z: Float[Tensor, "B *S"]
    """Prior noise."""
    condition: Condition
    """Of size B, with γ if the recipe guides."""
    draws: Draws
    """Random streams, named by purpose, for these B samples."""
    data: Float[Tensor, "B *S"] | None = None
    """Data samples: only for an objective that declares the need."""


@attrs.frozen(kw_only=True, eq=False)
class Gap:
    """An output and the direction in which the loss pushes it.

    The loss contributed is ⟨output, sg(weight · gap)⟩, so that its gradient is Jᵀ(weight · gap):
    that of half the squared error where gap = output − target, and of any other loss whose
    derivative with respect to the output is the gap.

    Raises TypeError for anything but tensors, ValueError for a gap that carries gradient or has
    another shape.
    """

    output: Float[Tensor, "rows *S"]
    """Carries gradient; a training step refuses one that does not."""
    gap: Float[Tensor, "rows *S"]
    """Carries none."""

    def __attrs_post_init__(self) -> None:
        for name, value in (("output", self.output), ("gap", self.gap)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} of a Gap is a tensor, found {type(value).__name__}")
        if self.gap.requires_grad:
            raise ValueError("a gap carries no gradient: detach it")
        if self.gap.shape != self.output.shape:
            found = f"{tuple(self.gap.shape)} beside an output of {tuple(self.output.shape)}"
            raise ValueError(f"a gap has the shape of its output: {found}")

    def norm(self) -> Float[Tensor, "rows"]:
        """Return ‖gap‖ / √d of each sample, d being the dimensions of a sample."""
        return self.gap.flatten(1).square().mean(1).sqrt()

    def inner(self, weight: Float[Tensor, "rows"]) -> Float[Tensor, ""]:
        """Return Σ over samples of weight · ⟨output, gap⟩ / d."""
        return (self.output * self.gap).flatten(1).mean(1) @ weight.to(self.output.dtype)


@attrs.frozen(kw_only=True, eq=False)
class Gaps:
    """An objective's answer.

    Raises TypeError if `gaps` is no tuple of Gap, ValueError if it is empty.
    """

    gaps: tuple[Gap, ...]
    """At least one."""
    samples: Float[Tensor, "B *S"] | None = None
    """The student's samples, detached, on which the auxiliaries may train: one for each of the
    batch."""
    condition: Condition | None = None
    """The conditions of `samples`."""

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.gaps, tuple):
            raise TypeError(
                f"gaps of Gaps is a tuple of Gap, found {type(self.gaps).__name__}: write "
                "Gaps(gaps=(gap,))"
            )
        for each in self.gaps:
            if not isinstance(each, Gap):
                raise TypeError(
                    f"gaps of Gaps is a tuple of Gap, found {type(each).__name__} in it"
                )
        if not self.gaps:
            raise ValueError("Gaps holds at least one Gap, found none")


@attrs.frozen(kw_only=True, eq=False)
class Auxiliary:
    """A network that an objective needs beside the student; the trainer owns and saves it.

    It learns by a loss of its own on the objective's samples, or it is an EMA of the student.
    """

    network: nn.Module
    optimizer: Optimizer | None = None
    loss: Callable[[nn.Module, Tensor, Condition, Draws], Tensor] | None = None
    """(network, samples, condition, draws) -> one loss per sample, Float[Tensor, "B"]."""
    updates: int = 1
    """Optimizer steps per training step."""
    ema_decay: float | None = None
    """Decay, where the network is an EMA of the student instead."""

    def __attrs_post_init__(self) -> None:
        learns = self.optimizer is not None and self.loss is not None
        if learns == (self.ema_decay is not None):
            raise ValueError("an auxiliary has an optimizer and a loss, or an ema_decay")


class _Objective(ABC):
    """The contract of both kinds of objective; they differ in their share of the batch."""

    needs: frozenset[str] = frozenset()
    """With "data" in it, batches hold data, and their conditions are the data's. With "whole
    batch", the samples of a batch are coupled, and ffcore refuses to divide its step."""

    def auxiliaries(self, student: Student, teacher: Teacher) -> Mapping[str, Auxiliary]:
        """Return the networks to train beside the student, by name; called once, before step 0."""
        del student, teacher
        return {}

    def self_check(self, networks: Networks, batch: Batch) -> str | None:
        """Check, before training, that this objective works with these networks.

        Returns a sentence to report, if there is one; raises ValueError if the check fails.
        """
        del networks, batch
        return None

    @abstractmethod
    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        """Return the gaps of one batch.

        No gradient flows through the teacher, the auxiliaries or the gaps; the outputs come from
        a plain forward of `networks.student`. Randomness comes from `batch.draws` alone. Which
        networks are called, and how often, does not depend on the numbers: processes that share a
        batch wait for each other in every call. A sample's gap does not depend on the rest of the
        batch, which may be divided anywhere, unless `needs` says "whole batch".
        """


class PredictorObjective(_Objective):
    """Aligns the generating velocity with the teacher's: v_G → u."""


class CorrectorObjective(_Objective):
    """Aligns the noising velocity with the teacher's: v_N → u."""


@attrs.frozen(kw_only=True, eq=False)
class Norms:
    """E‖gap‖/√d of one objective, over the global batch, without gradient."""

    raw: Float[Tensor, ""]
    weighted: Float[Tensor, ""]


class Balancer(ABC):
    """Weighs the gaps of both objectives into one loss.

    A single objective gets the whole batch: `split` is not called, and `scale` gets that objective
    alone.
    """

    @abstractmethod
    def split(self, batch: int, step: int) -> tuple[int, int]:
        """Return the sizes (prediction, correction) of the global batch at `step`; their sum is
        `batch`. Either may be 0."""

    @abstractmethod
    def weights(self, objective: Objective, gap: Gap) -> Float[Tensor, "rows"]:
        """Return a weight per sample, without gradient, from that sample alone."""

    @abstractmethod
    def scale(self, norms: Mapping[Objective, Norms]) -> Mapping[Objective, Float[Tensor, ""]]:
        """Return a factor for each objective in `norms`, global over all ranks."""


class Features(nn.Module, ABC):
    """Maps samples to the feature vectors between which Fréchet distances are measured."""

    name: str

    @abstractmethod
    def forward(self, samples: Float[Tensor, "B *S"]) -> Float[Tensor, "B D"]:
        """Return the features of samples."""


class ClassFeatures(Features):
    """Features of a classifier, which say how likely each class is."""

    classes: int | None
    """Number of classes, if they are the labels that students are conditioned on: this shows
    collapse. None for other classes."""

    @abstractmethod
    def logits(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """Return the logits of features, K being `classes` if there are."""

    def classify(self, samples: Float[Tensor, "B *S"]) -> Int[Tensor, "B"]:
        """Return the class that each sample is read as."""
        return self.logits(self(samples)).argmax(1)


class Decoder(nn.Module, ABC):
    """Turns samples into images: latents through a decoder, or pixels as they are."""

    @abstractmethod
    def forward(self, samples: Float[Tensor, "B *S"]) -> Float32[Tensor, "B *image"]:
        """Return the images of samples, each [C, H, W] and nominally in [−1, 1].

        Samples that cannot be images may be handed on as they are.

        Raises ValueError for samples of another shape than it decodes.
        """


class Tracker(ABC):
    """Receives a run's metrics and pictures, beside the run's own metrics.jsonl, and stores them.

    Only the process of rank 0 tracks. Its training waits for each call: do slow work in the
    background. No tracker ends a run: ffcore reports the Exception of a call once, closes the
    tracker and does not call it again. If something is missing before training, such as a library,
    `build` raises MissingFile.
    """

    @abstractmethod
    def open(self, folder: Path, run: str, recipe: Mapping[str, Any], step: int) -> None:
        """Begin, or continue an interrupted run; called once, before all else.

        Args:
            folder: for files, in the run's directory; the run's other trackers share it. It is
                there, and holds what an interrupted run left.
            run: the run's name, for a person.
            recipe: resolved, in values that TOML can hold. Do not write to it.
            step: steps made already, 0 for a new run. After an interruption, the numbers of later
                steps come again.
        """

    @abstractmethod
    def track(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers measured after `step` steps, by name.

        A slash groups names, as in "seconds/predictor". Names come and go from one call to the
        next, and a number may not be finite.
        """

    @abstractmethod
    def show(self, step: int, name: str, picture: Path) -> None:
        """Take a picture, a PNG file that the next run in this directory may overwrite."""

    @abstractmethod
    def close(self, *, finished: bool) -> None:
        """Store all that came, and end; nothing is called afterwards.

        `finished` says whether the run came to its end; if not, it may continue later.
        """


@attrs.frozen(kw_only=True, eq=False)
class Context:
    """The argument of a recipe table's `build`. Global random state is seeded meanwhile."""

    teacher: Teacher | None = None
    """The teacher, built already; None while it is being built. For a data source it is guided
    if the recipe guides, for all others never."""
    student: Student | None = None
    """The student, built already; None until it is."""
    guidance: float = 1.0
    """The scale γ, for a data source that samples the teacher; 1: unguided."""
    guidance_range: tuple[float, float] | None = None
    """The range of scales γ for the student; None: one scale, which no network reads."""
    meta: bool = False
    """Whether only shapes are wanted: no weights file is read, and a large network may stand on
    the meta device."""

    @property
    def classes(self) -> int | None:
        """The teacher's number of classes, the null label not counted; None: no labels."""
        assert self.teacher is not None
        source = self.teacher.conditions
        return source.classes if isinstance(source, Labels) else None


class Unconditional(ConditionSource):
    """For teachers without conditions."""

    def draw(self, draws: Draws) -> Condition:
        """Return the empty condition."""
        return Condition(size=len(draws))

    def null(self, condition: Condition) -> Condition:
        """Raise ValueError: there is nothing to guide towards."""
        raise ValueError("an unconditional teacher has no null condition and cannot be guided")


@attrs.frozen
class Labels(ConditionSource):
    """Class labels drawn uniformly."""

    classes: int
    null_label: int | None = None

    def draw(self, draws: Draws) -> Condition:
        """Draw labels in [0, classes)."""
        return Condition(size=len(draws), label=draws.integers("label", self.classes))

    def null(self, condition: Condition) -> Condition:
        """Return the null label for every sample, unguided."""
        if self.null_label is None:
            raise ValueError("this teacher has no null label and cannot be guided")
        label = torch.full_like(_label(condition), self.null_label)
        return attrs.evolve(condition, label=label, guidance=None)


def class_condition(conditions: ConditionSource, labels: Int[Tensor, "B"]) -> Condition:
    """Return the condition of data with these labels; empty for an unconditional teacher.

    Raises ValueError for a label outside the teacher's classes, and for a teacher that is
    conditioned on something else.
    """
    if isinstance(conditions, Unconditional):
        return Condition(size=len(labels))
    if not isinstance(conditions, Labels):
        kind = type(conditions).__name__
        raise ValueError(f"the data has labels, and the teacher's conditions are {kind}")
    outside = labels[(labels < 0) | (labels >= conditions.classes)]
    if len(outside):
        classes = f"0 to {conditions.classes - 1}"
        raise ValueError(f"the data has label {int(outside[0])}, the teacher classes {classes}")
    return Condition(size=len(labels), label=labels)


def _label(condition: Condition) -> Tensor:
    if condition.label is None:
        raise ValueError("this network is conditioned on labels, and the condition has none")
    return condition.label


class FrozenTeacher(Teacher):
    """A trained velocity field as a teacher.

    Freezes `field` in place, in eval mode.

    Args:
        field: the velocity.
        sample_shape: *S.
        conditions: what the field is conditioned on.
        trainable: makes the trainable copy; its argument says whether that must read γ. By default
            a copy of the field, which has no input for γ.
    """

    def __init__(
        self,
        field: VelocityField,
        sample_shape: tuple[int, ...],
        conditions: ConditionSource,
        trainable: Callable[[bool], VelocityField] | None = None,
    ) -> None:
        super().__init__()
        self.field = field.requires_grad_(False).eval()
        self.sample_shape = sample_shape
        self.conditions = conditions
        self.trainable = trainable
        self.eval()

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the field's velocity."""
        velocity: Tensor = self.field(x_t, t, condition)
        return velocity

    def trainable_copy(self, *, takes_guidance: bool = False) -> VelocityField:
        """Return a float32 copy with gradients on."""
        if self.trainable is not None:
            return self.trainable(takes_guidance)
        if takes_guidance:
            raise ValueError(f"{type(self.field).__name__} has no input for γ")
        return copy.deepcopy(self.field).float().requires_grad_(True)


class FunctionTeacher(Teacher):
    """A plain function as a teacher: a black box, which cannot be copied to train.

    Args:
        function: the velocity of (x_t, t, condition); see VelocityField.
        sample_shape: *S.
        conditions: what it is conditioned on; by default nothing.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor, Condition], Tensor],
        sample_shape: tuple[int, ...],
        conditions: ConditionSource | None = None,
    ) -> None:
        super().__init__()
        self.function = function
        self.sample_shape = sample_shape
        self.conditions = conditions or Unconditional()

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the function's velocity."""
        return self.function(x_t, t, condition)

    def trainable_copy(self, *, takes_guidance: bool = False) -> None:
        """Return None: nobody knows what a function is made of."""
        del takes_guidance
        return None


IMAGE_CHANNELS = (1, 3)
"""Decoded samples with so many channels are images; others are arrays of numbers."""


def is_image(shape: Sequence[int]) -> bool:
    """Whether a decoded sample of this shape, (C, H, W), is an image of one channel or three."""
    return len(shape) == 3 and shape[0] in IMAGE_CHANNELS
