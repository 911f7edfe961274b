"""The five roles and the values between them. Read this file first.

Conventions (docs/conventions.md): time t runs from 1 (prior noise n ~ N(0, I)) to 0 (data x) on
the path x_t = (1 − t) x + t n. A velocity u = E[x − n | x_t] points from noise to data, so
dx/dt = −u. A flow map covers a duration δ: from the prior, f(z, δ) = z + δ F(z, δ), where F is
the average velocity.

Annotations give shapes in jaxtyping's notation: batch B, sample *S, batch first everywhere. A
letter means one number within a call; "rows" may be any number. Only tests check them
(ffcore/testing/shapes.py).

A method is a PredictorObjective, a CorrectorObjective or both. Each returns gaps: pairs of a
network output with gradient and the velocity gap by which it should move. A Balancer weighs them
into one loss. The trainer knows nothing else about a method.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
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

UNKNOWN = "unknown"
"""The fingerprint of a function, and of conditions that do not know theirs."""


@attrs.frozen(kw_only=True)
class Condition:
    """The conditions of a batch. Any field but `size` may be None.

    Raises ValueError if a field's first dimension is not `size`.
    """

    size: int
    """Number of samples, B."""
    label: Int[Tensor, "B"] | None = None
    """Class of each sample. A teacher's null label counts as a class."""
    embedding: Float[Tensor, "B L D"] | None = None
    """Tokens of each sample, for example of its prompt."""
    mask: Bool[Tensor, "B L"] | None = None
    """True for the tokens of `embedding` that count."""
    pooled: Float[Tensor, "B P"] | None = None
    """A vector of each sample: parameters such as a pose, or a pooled embedding of its prompt."""
    image: Float[Tensor, "B *I"] | None = None
    """An image of each sample, or another array with positions: a depth map, a mask, a clip.
    Several images are channels of one."""
    guidance: Float[Tensor, "B"] | None = None
    """Guidance scale γ of each sample. None and 1 both mean unguided."""

    def __attrs_post_init__(self) -> None:
        for name, value in self.tensors().items():
            if len(value) != self.size:
                raise ValueError(f"condition.{name} has {len(value)} rows for {self.size} samples")

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields that are not None, by name."""
        values = {a.name: getattr(self, a.name) for a in attrs.fields(Condition)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def __getitem__(self, index: slice | Tensor) -> Condition:
        """Return the samples that a slice, a boolean mask or an index tensor selects."""
        parts = {name: value[index] for name, value in self.tensors().items()}
        if isinstance(index, slice):
            size = len(range(*index.indices(self.size)))
        else:
            size = int(index.sum()) if index.dtype == torch.bool else len(index)
        return Condition(size=size, **parts)

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Concatenate along the batch. Raises ValueError if only some have a field."""
        names = [set(condition.tensors()) for condition in conditions]
        if any(name != names[0] for name in names):
            raise ValueError(f"cannot concatenate conditions with different fields: {names}")
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
        parts = {name: value.to(device) for name, value in self.tensors().items()}
        return Condition(size=self.size, **parts)


class ConditionSource(ABC):
    """Source of conditions: those that a run draws with the noise, and those that a user names.

    All its conditions have the same fields. A source is a constant: what it draws depends on the
    draws alone.
    """

    names: Sequence[str] = ()
    """The names that a picture or `ffd sample` goes through by default; `of` may know more. Empty
    if there is no list of names."""

    @abstractmethod
    def draw(self, draws: Draws) -> Condition:
        """Draw one condition for each sample of `draws`, unguided (γ None), on its device.

        The condition of a sample depends on that sample's draws alone.
        """

    @abstractmethod
    def null(self, condition: Condition) -> Condition:
        """Return the unconditional counterpart of `condition`: unguided, of the same size and
        device, with fields of the same shapes and dtypes.

        Raises ValueError if the teacher has none and so cannot be guided.
        """

    def of(self, names: Sequence[str]) -> Condition:
        """Return the condition with each of these names, unguided, on the CPU.

        Names may be class numbers, words, prompts, or numbers as text. Raises ValueError for a name
        that is not known, saying which are, and by default for any name.
        """
        raise ValueError(f"{type(self).__name__} has no names: its conditions can only be drawn")

    def texts(self, condition: Condition) -> Sequence[str]:
        """Return a short text for each sample, which stands beside its picture.

        The text of a condition from `of` is its name, if that is in `names`. By default the texts
        are empty.
        """
        return [""] * condition.size

    def fingerprint(self) -> str:
        """Return what identifies the source: equal only for sources that draw, name and leave out
        the same conditions. `digest_of` makes one from texts and tensors.

        It belongs to the teacher's identity: stored statistics, checkpoints and exports hold for
        this fingerprint only. By default it is UNKNOWN: ffcore then uses no stored statistics and
        says that it cannot check the conditions.
        """
        return UNKNOWN


class DataError(Exception):
    """Stored data cannot be read, or is wrong. The message is for the user."""


class DataSource(ABC):
    """Source of data, for objectives that declare the need. ffcore chooses each step's samples:
    every epoch has its own order, derived from the run's seed."""

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
            indices: in [0, len), on the CPU; may repeat.
            draws: random streams for these B samples, on the CPU, for augmentation.

        Returns:
            Samples in float32 and a condition that the teacher accepts. Each sample depends only
            on its index and draws, and is the same if the run is built again.

        Raises DataError if the stored data cannot be used.
        """


class _Network(nn.Module, ABC):
    """A network whose answers have the dtype of its points, as far as casting loses nothing.

    It casts answers in float64, and those that autocast made.
    """

    casts = False
    """Whether an answer in float64 was cast."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Return the answer of `forward`."""
        found = super().__call__(*arguments, **named)
        given = arguments[0] if arguments else named.get("x_t")
        asked = getattr(given, "dtype", None)
        if not (isinstance(found, Tensor) and isinstance(asked, torch.dtype)):
            return found  # wrong; the check of networks says so
        if found.dtype == asked or not found.is_floating_point():
            return found
        if found.dtype == torch.float64:
            self.casts = True
            return found.to(asked)
        return found.to(asked) if torch.is_autocast_enabled(found.device.type) else found


class VelocityField(_Network):
    """A velocity u(x_t, t | c): a teacher, an online network g_ψ or a network of your own."""

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
            Velocities in x_t's dtype (a call casts float64 and autocast's dtype): finite, pointing
            from noise to data, each sample's independent of the rest of the batch.
        """

    def magnification(self, t: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Return by how much an error of the network counts in the velocity at times t.

        By default 1: the network answers with a velocity. A velocity computed from noise divides by
        1 − t, and so does its gradient: where this is large, the network hardly learns. ffcore
        divides the loss of an online network by this factor, and starts a copied student where it
        is small.
        """
        return torch.ones_like(t)

    @staticmethod
    def of(
        function: Callable[[Tensor, Tensor, Condition], Tensor],
        sample_shape: Sequence[int],
        conditions: ConditionSource | None = None,
    ) -> Teacher:
        """Make a teacher from a plain function of (x_t, t, condition), in our convention.

        `conditions` is the source of its conditions, such as Labels(10). By default there are none.
        """
        return FunctionTeacher(function, tuple(sample_shape), conditions)


class Teacher(VelocityField):
    """A velocity field to distil: frozen, in eval mode; no gradient reaches its parameters."""

    sample_shape: tuple[int, ...]
    """*S, the shape of one sample."""
    conditions: ConditionSource
    """Source of the conditions that the teacher accepts."""

    @abstractmethod
    def trainable_copy(self, *, takes_guidance: bool = False) -> VelocityField | None:
        """Return an independent copy to train: unguided, in full precision, with gradients on.

        With `takes_guidance` the copy reads γ from its condition: a run over a range of γ needs
        this. The input for γ starts without effect. Raises ValueError if the network cannot have
        one.

        Returns None for a black box. The recipe must then name an online network.
        """


class Student(_Network):
    """An average velocity F: the network that a run trains."""

    starts_at: Literal["prior", "anywhere"]
    """"prior": F is defined at t = 1 only and ignores `t`. "anywhere": at every t ≥ δ."""

    @abstractmethod
    def forward(
        self,
        x_t: Float[Tensor, "B *S"],
        t: Float[Tensor, "B"],
        delta: Float[Tensor, "B"],
        condition: Condition,
    ) -> Float[Tensor, "B *S"]:
        """Return the average velocity over [t − δ, t].

        The flow map is x_t + δ F: at δ = 0 it is the identity, and F is the velocity at x_t.
        When its derivative is needed, the inputs are dual numbers (ffcore.flow.dual). They work
        with torch's functions as tensors do, except with functions that write in place.

        Args:
            x_t: starting points.
            t: starting times in (0, 1].
            delta: durations in [0, t]; F is differentiable in them.
            condition: of size B.

        Returns:
            Average velocities in x_t's dtype (a call casts float64 and autocast's dtype).
        """


@attrs.frozen(kw_only=True, eq=False)
class Networks:
    """The networks of an objective, which calls only their `forward`."""

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
    """Data samples, if the objective declares the need."""


@attrs.frozen(kw_only=True, eq=False)
class Gap:
    """An output and the direction in which the loss pushes it.

    It adds ⟨output, sg(weight · gap)⟩ to the loss, with gradient Jᵀ(weight · gap). So a gap can be
    the derivative of any loss with respect to the output: for half the squared error it is
    output − target.

    Raises TypeError for anything but tensors, ValueError for a gap with gradient or of another
    shape.
    """

    output: Float[Tensor, "rows *S"]
    """Has gradient; a training step refuses an output without."""
    gap: Float[Tensor, "rows *S"]
    """Has no gradient."""

    def __attrs_post_init__(self) -> None:
        for name, value in (("output", self.output), ("gap", self.gap)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} of a Gap must be a tensor, found {type(value).__name__}")
        if self.gap.requires_grad:
            raise ValueError("a gap must not have gradient: detach it")
        if self.gap.shape != self.output.shape:
            found = f"{tuple(self.gap.shape)} for an output of {tuple(self.output.shape)}"
            raise ValueError(f"a gap must have the shape of its output, found {found}")

    def norm(self) -> Float[Tensor, "rows"]:
        """Return ‖gap‖ / √d of each sample, where d is the number of dimensions."""
        return self.gap.flatten(1).square().mean(1).sqrt()

    def inner(self, weight: Float[Tensor, "rows"]) -> Float[Tensor, ""]:
        """Return Σ over samples of weight · ⟨output, gap⟩ / d."""
        return (self.output * self.gap).flatten(1).mean(1) @ weight.to(self.output.dtype)


@attrs.frozen(kw_only=True, eq=False)
class Ratio:
    """A number that only an objective knows, for a run's reports: Σ part / Σ whole.

    The sums go over all samples between two reports, so a sample with zeros does not count.

    Raises ValueError for two shapes, or for a tensor with gradient.
    """

    part: Float[Tensor, "samples"]
    whole: Float[Tensor, "samples"]
    root: bool = False
    """Report the square root: for squared norms, a ratio of root mean squares."""

    def __attrs_post_init__(self) -> None:
        if self.part.shape != self.whole.shape:
            found = f"{tuple(self.part.shape)} and {tuple(self.whole.shape)}"
            raise ValueError(f"part and whole of a Ratio must have one shape, found {found}")
        if self.part.requires_grad or self.whole.requires_grad:
            raise ValueError("a Ratio must not have gradient: detach it")


@attrs.frozen(kw_only=True)
class Alarm:
    """A rule about one reported number that shows, while a run trains, that it goes wrong."""

    number: str
    """The name of the number in the reports."""
    rule: Literal["stays above", "stops falling"]
    limit: float
    """The number that is still healthy. A number that stops falling below it is no alarm."""
    title: str
    """What the number is, to begin a sentence with."""
    remedy: str
    """What to do, with the keys to change."""


@attrs.frozen(kw_only=True, eq=False)
class Gaps:
    """An objective's result.

    Raises TypeError if `gaps` is not a tuple of Gap, ValueError if it is empty.
    """

    gaps: tuple[Gap, ...]
    """At least one."""
    samples: Float[Tensor, "B *S"] | None = None
    """The student's samples, detached, one per sample of the batch; auxiliaries may train on
    them."""
    condition: Condition | None = None
    """The conditions of `samples`."""
    numbers: Mapping[str, Ratio] = attrs.field(factory=dict)
    """Numbers to report, by name; the same names in every call."""

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.gaps, tuple):
            raise TypeError(
                f"gaps of Gaps must be a tuple of Gap, found {type(self.gaps).__name__}: write "
                "Gaps(gaps=(gap,))"
            )
        for each in self.gaps:
            if not isinstance(each, Gap):
                raise TypeError(
                    f"gaps of Gaps must be a tuple of Gap, found {type(each).__name__} in it"
                )
        if not self.gaps:
            raise ValueError("Gaps must hold at least one Gap, found none")


@attrs.frozen(kw_only=True, eq=False)
class Auxiliary:
    """A network that an objective needs beside the student; the trainer owns and saves it.

    It trains with its own loss on the objective's samples, or it is an EMA of the student.
    """

    network: nn.Module
    optimizer: Optimizer | None = None
    loss: Callable[[nn.Module, Tensor, Condition, Draws], Tensor] | None = None
    """(network, samples, condition, draws) -> one loss per sample, Float[Tensor, "B"]."""
    updates: int = 1
    """Optimizer steps per training step."""
    ema_decay: float | None = None
    """Decay, if the network is an EMA of the student."""

    def __attrs_post_init__(self) -> None:
        learns = self.optimizer is not None and self.loss is not None
        if learns == (self.ema_decay is not None):
            raise ValueError("an auxiliary needs either an optimizer and a loss, or an ema_decay")


class _Objective(ABC):
    """The contract of both kinds of objective; they differ in their share of the batch."""

    needs: frozenset[str] = frozenset()
    """"data": batches hold data and the data's conditions. "whole batch": the samples of a batch
    are coupled, and ffcore refuses to divide a step."""
    alarms: Sequence[Alarm] = ()
    """Rules about the numbers of `Gaps.numbers`."""

    def auxiliaries(self, student: Student, teacher: Teacher) -> Mapping[str, Auxiliary]:
        """Return the networks to train beside the student, by name; called once, before step 0."""
        del student, teacher
        return {}

    def self_check(self, networks: Networks, batch: Batch) -> str | None:
        """Check, before training, that this objective works with these networks.

        Returns a sentence to report, or None. Raises ValueError if the check fails.
        """
        del networks, batch
        return None

    def prepare(self, teacher: Teacher, draw: Callable[[int, int], Batch]) -> Mapping[str, float]:
        """Do, before the first step, what all steps rely on; most objectives need nothing.

        Each process calls it once. A resumed run calls it again, so the result must depend only on
        the teacher and `draw`. It runs in the teacher's precision, outside autocast.

        Args:
            teacher: as in `Networks`, guided if the run guides.
            draw: (start, stop) -> samples [start, stop) of an endless batch without data, the same
                in every process. No step draws them.

        Returns numbers to report with the metrics, by name; for example, what this has cost.
        """
        del teacher, draw
        return {}

    @abstractmethod
    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        """Return the gaps of one batch; `prepare` was called before.

        No gradient flows through the teacher, the auxiliaries or the gaps; the outputs come from
        a plain forward of `networks.student`. Randomness comes from `batch.draws` alone.

        Processes that share a batch wait for each other in every call, so the sequence of network
        calls must not depend on values. ffcore may divide a batch anywhere, so a sample's gap
        must not depend on the rest of the batch, unless `needs` contains "whole batch".
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

    A single objective gets the whole batch: ffcore does not call `split`, and `scale` gets that
    objective alone.
    """

    @abstractmethod
    def split(self, batch: int, step: int) -> tuple[int, int]:
        """Return the sizes (prediction, correction) of the global batch at `step`; their sum is
        `batch`. Either may be 0."""

    @abstractmethod
    def weights(self, objective: Objective, gap: Gap) -> Float[Tensor, "rows"]:
        """Return a weight per sample, without gradient. It depends on that sample alone."""

    @abstractmethod
    def scale(self, norms: Mapping[Objective, Norms]) -> Mapping[Objective, Float[Tensor, ""]]:
        """Return a factor for each objective in `norms`, the same on every rank."""


class Features(nn.Module, ABC):
    """Maps samples to feature vectors, for Fréchet distances."""

    name: str

    @abstractmethod
    def forward(self, samples: Float[Tensor, "B *S"]) -> Float[Tensor, "B D"]:
        """Return the features of samples."""


class ClassFeatures(Features):
    """Features of a classifier, with its logits."""

    classes: int | None
    """Number of classes, if they are the labels that students are conditioned on: an evaluation
    then shows collapse. None for other classes."""

    @abstractmethod
    def logits(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """Return the logits of features; K is `classes`, unless that is None."""

    def classify(self, samples: Float[Tensor, "B *S"]) -> Int[Tensor, "B"]:
        """Return the most likely class of each sample."""
        return self.logits(self(samples)).argmax(1)


class Decoder(nn.Module, ABC):
    """Turns samples into images: latents through a decoder, or pixels as they are."""

    @abstractmethod
    def forward(self, samples: Float[Tensor, "B *S"]) -> Float32[Tensor, "B *image"]:
        """Return the images of samples, each [C, H, W] and nominally in [−1, 1].

        Samples that cannot be images may be returned unchanged.

        Raises ValueError for samples of a shape that it cannot decode.
        """


class Tracker(ABC):
    """Stores a run's metrics and pictures, in addition to the run's own metrics.jsonl.

    Only rank 0 tracks. Training waits for each call: do slow work in the background. A tracker
    cannot end a run: if a call raises an Exception, ffcore reports it once, closes the tracker and
    does not call it again. If something is missing, such as a library, `build` raises MissingFile.
    """

    @abstractmethod
    def open(self, folder: Path, run: str, recipe: Mapping[str, Any], step: int) -> None:
        """Start, or continue an interrupted run; called once, before all other methods.

        Args:
            folder: an existing folder in the run's directory, shared by the run's trackers. It
                holds the files of an interrupted run.
            run: the run's name, for display.
            recipe: the resolved recipe, in TOML's types. Do not change it.
            step: steps already made, 0 for a new run. After an interruption, numbers of later
                steps come a second time.
        """

    @abstractmethod
    def track(self, step: int, numbers: Mapping[str, float]) -> None:
        """Store the numbers measured after `step` steps, by name.

        A slash groups names, as in "seconds/predictor". Names may differ from call to call.
        Numbers may be infinite or NaN.
        """

    @abstractmethod
    def show(self, step: int, name: str, picture: Path) -> None:
        """Store a picture: a PNG file that the next run in this directory may overwrite."""

    @abstractmethod
    def close(self, *, finished: bool) -> None:
        """Store everything and stop; ffcore calls no method afterwards.

        `finished` is False if the run was interrupted; it may continue later.
        """


@attrs.frozen(kw_only=True, eq=False)
class Moments:
    """The mean and the spread of a teacher's data, over all its conditions."""

    mean: Float[Tensor, "*S"]
    spread: float
    """Root mean square of x − mean, over samples and dimensions; above 0."""

    @staticmethod
    def standard(shape: tuple[int, ...]) -> Moments:
        """Return mean 0 and spread 1, as of the prior."""
        return Moments(mean=torch.zeros(shape), spread=1.0)


@attrs.frozen(kw_only=True, eq=False)
class Context:
    """The argument of a recipe table's `build`, which runs with seeded global random state."""

    conditions: ConditionSource | None = None
    """What the recipe's table [conditions] has built, for a teacher that needs it, which has it as
    its `conditions`; None without such a table."""
    teacher: Teacher | None = None
    """The built teacher; None while it is being built. A data source gets it guided, if the recipe
    guides; all other components get it unguided."""
    student: Student | None = None
    """The built student; None before."""
    guidance: float = 1.0
    """Scale γ, for a data source that samples the teacher; 1 is unguided."""
    guidance_range: tuple[float, float] | None = None
    """Range of scales γ for the student. None: one scale, which is no input of any network."""
    meta: bool = False
    """Build for shapes only: read no weights file; a large network may be on the meta device."""
    measure: Callable[[], Moments] | None = None
    """Measures the teacher's moments; None where networks get their weights from a file."""

    def copy_of_teacher(self) -> VelocityField | None:
        """Return a trainable copy of the teacher, with an input for γ if there is a range of it.

        None if the teacher cannot be copied so.
        """
        assert self.teacher is not None
        try:
            return self.teacher.trainable_copy(takes_guidance=self.guidance_range is not None)
        except ValueError:
            return None

    @property
    def moments(self) -> Moments:
        """The mean and the spread of the teacher's data, for a new network to start from.

        They are those of the prior where the network's weights, and so its moments, come from a
        file.
        """
        assert self.teacher is not None
        if self.measure is None:
            return Moments.standard(tuple(self.teacher.sample_shape))
        return self.measure()

    @property
    def classes(self) -> int | None:
        """Number of the teacher's classes, without the null label; None if it has no labels."""
        assert self.teacher is not None
        source = self.teacher.conditions
        return source.classes if isinstance(source, Labels) else None


def digest_of(text: str, tensors: Iterable[tuple[str, Tensor]] = ()) -> str:
    """Return a digest of a text and of named tensors: their dtypes, shapes and values."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Unconditional(ConditionSource):
    """For teachers without conditions."""

    def draw(self, draws: Draws) -> Condition:
        """Return the empty condition."""
        return Condition(size=len(draws))

    def null(self, condition: Condition) -> Condition:
        """Raise ValueError: there is no null condition."""
        raise ValueError("an unconditional teacher has no null condition and cannot be guided")

    def of(self, names: Sequence[str]) -> Condition:
        """Raise ValueError: there is nothing to name."""
        raise ValueError(f"there are no conditions to choose from, found {list(names)}")

    def fingerprint(self) -> str:
        """Return "none"; UNKNOWN for a subclass that does something else."""
        return "none" if _is_as(self, Unconditional) else UNKNOWN


def _is_as(source: ConditionSource, kind: type[ConditionSource]) -> bool:
    """Whether a source of a kind makes its conditions as that kind does."""
    methods = ("draw", "null", "of")
    return all(getattr(type(source), name) is getattr(kind, name) for name in methods)


def _is_count(labels: Labels, attribute: attrs.Attribute[Any], value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"Labels: classes must be a whole number, at least 1, found {value!r}")


def _is_no_class(labels: Labels, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (type(value) is not int or value < labels.classes):
        raise ValueError(
            f"Labels: null_label must be None or a whole number after the classes, at least "
            f"{labels.classes}, found {value!r}"
        )


@attrs.frozen
class Labels(ConditionSource):
    """Class labels drawn uniformly; their names are their numbers.

    Raises ValueError for less than one class, and for a null label that is one of the classes.
    """

    classes: int = attrs.field(validator=_is_count)
    null_label: int | None = attrs.field(default=None, validator=_is_no_class)

    @property
    def names(self) -> Sequence[str]:  # type: ignore[override]
        """The numbers of all classes."""
        return [str(each) for each in range(self.classes)]

    def draw(self, draws: Draws) -> Condition:
        """Draw labels in [0, classes)."""
        return Condition(size=len(draws), label=draws.integers("label", self.classes))

    def null(self, condition: Condition) -> Condition:
        """Return the null label for every sample, unguided."""
        if self.null_label is None:
            raise ValueError("this teacher has no null label and cannot be guided")
        label = torch.full_like(_label(condition), self.null_label)
        return attrs.evolve(condition, label=label, guidance=None)

    def of(self, names: Sequence[str]) -> Condition:
        """Return the classes with these numbers."""
        unknown = [name for name in names if not self._is_class(name)]
        if unknown:
            found = ", ".join(map(repr, unknown))
            raise ValueError(f"must be classes from 0 to {self.classes - 1}, found {found}")
        return Condition(size=len(names), label=torch.tensor([*map(int, names)], dtype=torch.long))

    def texts(self, condition: Condition) -> Sequence[str]:
        """Return the numbers of the classes, "null" for the null label."""
        labels = _label(condition).tolist()
        return ["null" if each == self.null_label else str(each) for each in labels]

    def fingerprint(self) -> str:
        """Return the number of classes and the null label in words; UNKNOWN for a subclass that
        draws otherwise."""
        if not _is_as(self, Labels):
            return UNKNOWN
        null = "" if self.null_label is None else f", null label {self.null_label}"
        return f"{self.classes} classes{null}"

    def _is_class(self, name: str) -> bool:
        return name.isdecimal() and int(name) < self.classes


class NamedConditions(ConditionSource):
    """A list of conditions with names, drawn uniformly: poses, cached prompts, images.

    Args:
        names: one for each condition, no two the same and none empty.
        conditions: of any fields, finite, in the order of the names.
        null: the null condition, of size 1 and with the same fields; None if there is none.

    Raises ValueError if these do not fit together.
    """

    def __init__(
        self, names: Sequence[str], conditions: Condition, null: Condition | None = None
    ) -> None:
        if isinstance(names, str) or not all(isinstance(each, str) and each for each in names):
            raise ValueError(f"names must be a list of texts, none of them empty, found {names!r}")
        if not (fields := conditions.tensors()):
            raise ValueError("the conditions have no field, such as pooled, so that all are alike")
        for name, each in fields.items():
            if each.is_floating_point() and not each.isfinite().all():
                row = int((~each.isfinite().reshape(len(each), -1).all(1)).nonzero()[0])
                raise ValueError(f"{name} of condition {row} holds NaN or infinity")
        if not 0 < len(names) == len(set(names)) == conditions.size:
            raise ValueError(
                f"each of the {conditions.size} conditions needs a name of its own, found "
                f"{len(names)} names, {len(set(names))} of them different"
            )
        if null is not None:
            here, there = (
                {n: t.shape[1:] for n, t in c.tensors().items()} for c in (conditions, null)
            )
            if null.size != 1 or here != there:
                raise ValueError(
                    f"the null condition must be of size 1 and have the fields {here}, found size "
                    f"{null.size} and {there}"
                )
        self.names = tuple(names)
        self.conditions, self.null_condition = conditions, null

    def draw(self, draws: Draws) -> Condition:
        """Draw conditions of the list."""
        here = attrs.evolve(draws, device="cpu")  # where the list is
        index = here.integers("condition", len(self.names))
        return self.conditions[index].to(draws.device)

    def null(self, condition: Condition) -> Condition:
        """Return the null condition for every sample, unguided."""
        if self.null_condition is None:
            raise ValueError("these conditions have no null condition: no teacher can be guided")
        device = next(each.device for each in condition.tensors().values())
        row = self.null_condition.to(device)
        return row[torch.zeros(condition.size, dtype=torch.long, device=device)]

    def of(self, names: Sequence[str]) -> Condition:
        """Return the conditions with these names."""
        places = {name: place for place, name in enumerate(self.names)}
        if unknown := [name for name in names if name not in places]:
            some = ", ".join(map(repr, self.names[:SHOWN]))
            more = f" and {len(self.names) - SHOWN} more" if len(self.names) > SHOWN else ""
            found = ", ".join(map(repr, unknown))
            raise ValueError(f"must be names of conditions ({some}{more}), found {found}")
        return self.conditions[torch.tensor([places[name] for name in names], dtype=torch.long)]

    def texts(self, condition: Condition) -> Sequence[str]:
        """Return the name of each condition, "null" for the null condition."""
        known = self.conditions
        if self.null_condition is not None:
            known = Condition.cat([known, self.null_condition])
        names = (*self.names, "null", "")
        return [names[place] for place in _places(condition.to("cpu"), known)]

    def fingerprint(self) -> str:
        """Return a digest of the names and of all conditions; UNKNOWN for a subclass that draws
        otherwise."""
        if not _is_as(self, NamedConditions):
            return UNKNOWN
        rows = {"": self.conditions} | (
            {} if self.null_condition is None else {"null ": self.null_condition}
        )
        named = (
            (f"{which}{name}", each)
            for which, condition in rows.items()
            for name, each in sorted(condition.tensors().items())
        )
        return digest_of(repr(self.names), named)


SHOWN = 10
"""Most names in a message."""


def _places(rows: Condition, known: Condition) -> list[int]:
    """Return the place of each row among known conditions; -1 for one that is not there."""
    found = []
    for row in range(rows.size):
        same = torch.ones(known.size, dtype=torch.bool)
        for name, values in known.tensors().items():
            here = same.nonzero()[:, 0]
            equal = values[here] == rows.tensors()[name][row]
            same[here] = equal.flatten(1).all(1) if equal.ndim > 1 else equal
        at = same.nonzero()[:, 0]
        found.append(int(at[0]) if len(at) else -1)
    return found


def class_condition(conditions: ConditionSource, labels: Int[Tensor, "B"]) -> Condition:
    """Return the condition of data with these labels; empty for an unconditional teacher.

    Raises ValueError for a label outside the teacher's classes, and for a teacher whose conditions
    are not labels.
    """
    if isinstance(conditions, Unconditional):
        return Condition(size=len(labels))
    if not isinstance(conditions, Labels):
        kind = type(conditions).__name__
        raise ValueError(f"the data has labels, but the teacher's conditions are {kind}")
    outside = labels[(labels < 0) | (labels >= conditions.classes)]
    if len(outside):
        classes = f"the teacher's classes are 0 to {conditions.classes - 1}"
        raise ValueError(f"the data has label {int(outside[0])}, but {classes}")
    return Condition(size=len(labels), label=labels)


def _label(condition: Condition) -> Tensor:
    if condition.label is None:
        raise ValueError("this network is conditioned on labels, but the condition has none")
    return condition.label


class FrozenTeacher(Teacher):
    """A trained velocity field as a teacher.

    Freezes `field` in place, in eval mode.

    Args:
        field: the velocity.
        sample_shape: *S.
        conditions: source of the field's conditions.
        trainable: makes the trainable copy; its argument is `takes_guidance`. By default it copies
            the field, without an input for γ.
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
        conditions: source of its conditions; by default it has none.
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
        """Return None: a function cannot be copied to train."""
        del takes_guidance
        return None


IMAGE_CHANNELS = (1, 3)
"""Numbers of channels of images; other decoded samples are plain arrays."""


def is_image(shape: Sequence[int]) -> bool:
    """Whether a decoded sample of this shape is an image (C, H, W) with C of 1 or 3."""
    return len(shape) == 3 and shape[0] in IMAGE_CHANNELS
