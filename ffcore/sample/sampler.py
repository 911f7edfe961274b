"""Images from noise, in one or a few steps of a student or by a solver on a teacher.

Up to rounding, a sample depends only on the seed and its index, not on the batch size or the number
of processes. A search chooses among several noises for each index: then the noise depends on (seed,
index, number of the noise). Without a search the number is 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from operator import index
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from ffcore.draws import Draws
from ffcore.flow.flow_map import check_steps, generate
from ffcore.flow.guidance import Guided
from ffcore.flow.ode import integrate
from ffcore.flow.solver import Solver
from ffcore.interfaces import (
    Condition,
    ConditionSource,
    Decoder,
    Labels,
    Student,
    Teacher,
    Unconditional,
    is_image,
)
from ffcore.keys import did_you_mean
from ffcore.system.faults import require_memory
from ffcore.system.weights import fingerprint

Labelling = str | int | Sequence[int]
"""The class of each sample: "balanced" (index mod classes), "random", one class, or a list of
classes to cycle through by index."""
Choice = Literal["balanced", "random"] | tuple[str, ...] | None
"""The condition of each sample: "balanced" cycles through all names of the source by index,
"random" draws, a tuple holds the names to cycle through. None if there are no conditions."""
CHUNK = 256
"""Samples in a chunk."""


class SampleError(ValueError):
    """The requested samples cannot be generated, or cannot be saved in this format."""


class NotFinite(Exception):
    """A sample is not finite."""


class Generator(ABC):
    """Generates samples from prior noise: a student, or a teacher with its solver."""

    kind: Literal["student", "teacher"]
    sample_shape: tuple[int, ...]
    """*S, the shape of one sample before it is decoded."""
    conditions: ConditionSource
    scale: float
    """The default guidance scale γ."""

    @abstractmethod
    def generate(self, z: Tensor, condition: Condition, steps: int | None) -> Tensor:
        """Return a sample for each row of prior noise, both Float[B, *S]; see check on `steps`."""

    @abstractmethod
    def check(self, guidance: float, steps: int | None) -> None:
        """Raise SampleError if this scale γ or this number of steps is impossible.

        None means the default number of steps.
        """

    @abstractmethod
    def nfe(self, guidance: float, steps: int | None) -> int | None:
        """Return the evaluations of the base network for one sample; None for an adaptive
        solver."""

    @abstractmethod
    def to(self, device: str) -> Generator:
        """Move the network to `device`; return this generator."""

    @abstractmethod
    def record(self, guidance: float, steps: int | None) -> dict[str, Any]:
        """Return the conditions of such samples, and their NFE, as JSON values."""


class StudentSampler(Generator):
    """A student's flow map from noise to sample, by default in one step.

    Args:
        student: in eval mode.
        sample_shape: *S.
        conditions: the source of its conditions.
        scale: the scale that it was trained for; with a range, the default.
        range: the scales that it was trained for, if more than one.
    """

    kind = "student"

    def __init__(
        self,
        student: Student,
        sample_shape: tuple[int, ...],
        conditions: ConditionSource,
        *,
        scale: float = 1.0,
        range: tuple[float, float] | None = None,
    ) -> None:
        self.student = student
        self.sample_shape = sample_shape
        self.conditions = conditions
        self.scale = scale
        self.range = range

    def generate(self, z: Tensor, condition: Condition, steps: int | None) -> Tensor:
        """Return samples made in `steps` equal steps; see Generator."""
        return generate(self.student, z, condition, steps=steps or 1)

    def check(self, guidance: float, steps: int | None) -> None:
        """Raise SampleError for a scale or for steps that the student was not trained for."""
        try:
            check_steps(self.student, 1 if steps is None else steps)
        except ValueError as error:
            raise SampleError(f"steps: {error}") from None
        low, high = self.range or (self.scale, self.scale)
        if low <= guidance <= high:
            return
        trained = f"scale {low:g} only" if low == high else f"scales from {low:g} to {high:g}"
        raise SampleError(
            f"guidance: this student was trained for {trained}, found {guidance:g}. Another scale "
            "needs a student that was trained for it (guidance.scale or guidance.range in its "
            "recipe), or the teacher."
        )

    def nfe(self, guidance: float, steps: int | None) -> int:
        """Return the number of steps; see Generator."""
        del guidance
        return steps or 1

    def to(self, device: str) -> StudentSampler:
        """Move the student; see Generator."""
        self.student.to(device)
        return self

    def record(self, guidance: float, steps: int | None) -> dict[str, Any]:
        """Return the student's fingerprint and its steps; see Generator."""
        return {
            "kind": self.kind,
            "fingerprint": fingerprint(self.student),
            "guidance": {"scale": guidance},
            "solver": None,
            "steps": steps or 1,
            "nfe": self.nfe(guidance, steps),
        }


class TeacherSampler(Generator):
    """A teacher's flow, integrated by a solver.

    Args:
        teacher: unguided.
        solver: to integrate its flow.
        scale: the default.
        interval: the times at which guidance acts.
        channels: number of leading channels to guide, or "all".

    Raises ValueError for an impossible interval or impossible channels.
    """

    kind = "teacher"

    def __init__(
        self,
        teacher: Teacher,
        solver: Solver,
        *,
        scale: float = 1.0,
        interval: tuple[float, float] = (0.0, 1.0),
        channels: int | Literal["all"] = "all",
    ) -> None:
        self.guided = Guided(teacher, interval, channels)
        self.solver = solver
        self.sample_shape = teacher.sample_shape
        self.conditions = teacher.conditions
        self.scale = scale

    def generate(self, z: Tensor, condition: Condition, steps: int | None) -> Tensor:
        """Return the ends of the flow's paths; see Generator."""
        del steps
        return integrate(self.guided, z, condition, self.solver)

    def check(self, guidance: float, steps: int | None) -> None:
        """Raise SampleError for a scale other than 1 if the teacher cannot be guided, and for
        steps, which its solver sets."""
        if steps is not None:
            raise SampleError(
                f"steps: a request sets the steps of a student only, found {steps}; set a "
                "teacher's by load_teacher_sampler(…, steps=…)"
            )
        if guidance != 1:
            try:
                self.conditions.null(self.conditions.draw(Draws(0, 0, 0, 1)))
            except ValueError as error:
                raise SampleError(f"guidance: {error}; its only scale is 1") from None

    def nfe(self, guidance: float, steps: int | None) -> int | None:
        """Return the NFE of the solver, doubled where guidance acts; see Generator."""
        del steps
        return self.solver.nfe(None if guidance == 1 else self.guided.interval)

    def in_steps(self, steps: int) -> TeacherSampler:
        """Return the same teacher in another number of its solver's steps."""
        return TeacherSampler(
            self.guided.teacher,
            attrs.evolve(self.solver, steps=steps),
            scale=self.scale,
            interval=self.guided.interval,
            channels=self.guided.channels,
        )

    def to(self, device: str) -> TeacherSampler:
        """Move the teacher; see Generator."""
        self.guided.to(device)
        return self

    def record(self, guidance: float, steps: int | None) -> dict[str, Any]:
        """Return the teacher's fingerprint, its guidance and the solver; see Generator."""
        del steps
        interval, channels = self.guided.interval, self.guided.channels
        guides = guidance != 1
        where = {"interval": list(interval), "channels": channels} if guides else {}
        return {
            "kind": self.kind,
            "fingerprint": fingerprint(self.guided.teacher),
            "guidance": {"scale": guidance, **where},
            "solver": attrs.asdict(self.solver),
            "nfe": self.nfe(guidance, None),
        }


@attrs.frozen(kw_only=True)
class Request:
    """A complete, checked request for samples; made by a Sampler."""

    number: int
    seed: int
    conditions: Choice
    guidance: float
    steps: int | None = None
    """Of a student; None means one. A teacher's steps are its solver's."""
    noise: int | tuple[int, ...] = 0
    """The number of the noise of each sample: one for all, or one each."""


class Sampler:
    """Generates decoded samples: images, or whatever its decoder returns.

        sampler(16, seed=0)  # Float[16, C, H, W] in [−1, 1]

    Args:
        generator: turns noise into samples.
        decoder: turns samples into images.
        device: of both.
        origin: names and digests to add to the record of a sampling.

    Raises SampleError if the decoder cannot decode such samples.
    """

    def __init__(
        self,
        generator: Generator,
        decoder: Decoder,
        *,
        device: str = "cpu",
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.generator = generator.to(device)
        self.decoder = decoder.to(device).eval()
        self.device = device
        self.origin = dict(origin or {})
        try:
            with torch.no_grad():
                probe = self.decoder(torch.zeros(1, *generator.sample_shape, device=device))
        except ValueError as error:
            raise SampleError(f"decoder: {error}") from error
        self.shape = tuple(probe.shape[1:])
        """Of one decoded sample: (C, H, W) of an image."""

    def in_steps(self, steps: int) -> Sampler:
        """Return a sampler of the same teacher in another number of its solver's steps."""
        assert isinstance(self.generator, TeacherSampler)
        generator = self.generator.in_steps(steps)
        return Sampler(generator, self.decoder, device=self.device, origin=self.origin)

    @property
    def makes_images(self) -> bool:
        """Whether the decoded samples are images of one channel or three."""
        return is_image(self.shape)

    def __call__(
        self,
        number: int = 16,
        *,
        seed: int = 0,
        labels: Labelling | None = None,
        conditions: Literal["balanced", "random"] | Sequence[str] | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        batch: int = 64,
    ) -> Tensor:
        """Return the first `number` samples of a seed, decoded.

        Args:
            number: of samples.
            seed: of noise and conditions.
            labels: "balanced" (0, 1, 2, …, repeated), "random", or classes to cycle through.
            conditions: the same for conditions of any kind: "balanced" (all listed names in turn;
                the default if there are any), "random", or names to cycle through.
            guidance: the scale γ; by default that of the student's or teacher's recipe.
            steps: number of equal steps of a student that starts anywhere; by default one.
            batch: number of samples at a time.

        Returns:
            float32 on the CPU: images Float[number, C, H, W] in [−1, 1]. Vectors, and latents
            without a decoder, are returned unchanged.

        Raises SampleError for an impossible number, seed, condition, guidance scale, steps or
        batch; NotFinite if a sample is not finite; FlowError.
        """
        asked = self.request(
            number,
            seed=seed,
            labels=labels,
            conditions=conditions,
            guidance=guidance,
            steps=steps,
        )
        return self.make(asked, batch=batch)

    def make(self, asked: Request, *, batch: int = 64) -> Tensor:
        """Return all samples of a request, decoded, as `__call__` does, `batch` at a time."""
        batch = whole_number("batch", batch, 1)
        needed = 4 * asked.number * math.prod(self.shape)
        remedy = "Ask for fewer, or write them to disk with ffcore.sample.write_samples."
        require_memory(needed, f"{asked.number} samples", remedy)
        parts = [
            self.images(asked, start, min(asked.number, start + batch))
            for start in range(0, asked.number, batch)
        ]
        return torch.cat(parts)

    def request(
        self,
        number: int,
        *,
        seed: int = 0,
        labels: Labelling | None = None,
        conditions: Literal["balanced", "random"] | Sequence[str] | None = None,
        guidance: float | None = None,
        steps: int | None = None,
    ) -> Request:
        """Return the complete request. Raises SampleError if it is impossible."""
        if labels is not None and conditions is not None:
            raise SampleError("labels and conditions: only one of them can be given")
        source = self.generator.conditions
        scale = self.generator.scale if guidance is None else _checked_scale(guidance)
        steps = None if steps is None else whole_number("steps", steps, 1)
        self.generator.check(scale, steps)
        return Request(
            number=whole_number("number", number, 1),
            seed=whole_number("seed", seed, 0, 2**63 - 1),
            conditions=(
                _checked_conditions(conditions, source)
                if labels is None
                else _checked_labels(labels, source)
            ),
            guidance=scale,
            steps=steps,
        )

    def images(self, asked: Request, start: int, stop: int) -> Tensor:
        """Return the samples [start, stop) of a request at once, decoded, as `__call__` does.

        Raises NotFinite for one that is not finite.
        """
        z = self.noise(asked, start, stop)
        return self.decode(z, self.condition(asked, start, stop), asked.steps, start).cpu()

    def noise(self, asked: Request, start: int, stop: int) -> Tensor:
        """Return the prior noise Float[stop − start, *S] from which samples of a request start."""
        numbers = asked.noise
        if isinstance(numbers, int):
            return self._noise(asked.seed, numbers, start, stop)
        chosen = torch.tensor(numbers[start:stop], device=self.device)
        z = torch.zeros(stop - start, *self.generator.sample_shape, device=self.device)
        for number in sorted({*numbers[start:stop]}):
            at = (chosen == number).nonzero()[:, 0]
            first, last = int(at[0]), int(at[-1])
            z[at] = self._noise(asked.seed, number, start + first, start + last + 1)[at - first]
        return z

    def _noise(self, seed: int, number: int, start: int, stop: int) -> Tensor:
        draws = Draws(seed, number, start, stop, self.device).named("sample")
        return draws.normal("z", self.generator.sample_shape)

    def condition(self, asked: Request, start: int, stop: int) -> Condition:
        """Return the conditions of the samples [start, stop) of a request, on the device."""
        source = self.generator.conditions
        if (names := self._names(asked)) is None:
            draws = Draws(asked.seed, 0, start, stop, self.device).named("sample")
            condition = source.draw(draws)
        else:
            chosen = [names[place % len(names)] for place in range(start, stop)]
            condition = source.of(chosen).to(self.device)
        return condition if asked.guidance == 1 else condition.at(asked.guidance, self.device)

    @torch.no_grad()
    def decode(
        self, z: Tensor, condition: Condition, steps: int | None = None, first: int = 0
    ) -> Tensor:
        """Return the samples of prior noise Float[B, *S], decoded, on the device.

        Raises NotFinite for one that is not finite; `first` is the index that the first row has.
        """
        samples: Tensor = self.decoder(self.generator.generate(z, condition, steps))
        if not samples.isfinite().all():
            bad = (~samples.isfinite()).flatten(1).any(1).nonzero()
            raise NotFinite(
                f"sample {first + int(bad[0])} is not finite: the weights may be damaged, or the "
                "guidance scale too large"
            )
        return samples.clamp(-1, 1) if self.makes_images else samples

    def record(self, asked: Request, batch: int | None = None) -> dict[str, Any]:
        """Return the conditions of the samples, as JSON values.

        `batch` is the number of samples at a time: an adaptive solver's steps depend on it.
        """
        generated = self.generator.record(asked.guidance, asked.steps)
        adapts = (generated["solver"] or {}).get("method") == "dopri5"
        return {
            "schema": 1,
            **self.origin,
            **generated,
            **({"batch": batch} if adapts and batch is not None else {}),
            "number": asked.number,
            "seed": asked.seed,
            **self._recorded(asked.conditions),
            "shape": list(self.shape),
            **({"noise": list(asked.noise)} if isinstance(asked.noise, tuple) else {}),
            "ffcore": version("ffcore"),
        }

    def drawn_labels(self, asked: Request) -> list[int] | None:
        """Return the class of each sample of a request; None if its conditions have none."""
        found: list[int] = []
        for start in range(0, asked.number, CHUNK):
            label = self.condition(asked, start, min(asked.number, start + CHUNK)).label
            if label is None:
                return None
            found += label.tolist()
        return found

    def texts(self, asked: Request) -> list[str] | None:
        """Return a text for the condition of each sample of a request; None if there are only
        classes, or no conditions."""
        source = self.generator.conditions
        if isinstance(source, Labels | Unconditional):
            return None
        if (names := self._names(asked)) is not None:
            return [names[place % len(names)] for place in range(asked.number)]
        found: list[str] = []
        for start in range(0, asked.number, CHUNK):
            condition = self.condition(asked, start, min(asked.number, start + CHUNK))
            found += source.texts(condition)
        return found

    def of_each(self, asked: Request) -> dict[str, Any]:
        """Return the class or the text of each sample of a request, for a record of samples."""
        texts = self.texts(asked)
        told = {} if texts is None else {"condition_of_each": texts}
        return {"label_of_each": self.drawn_labels(asked), **told}

    def _names(self, asked: Request) -> Sequence[str] | None:
        """Return the names to cycle through; None if the conditions are drawn."""
        if asked.conditions == "balanced":
            return self.generator.conditions.names
        return asked.conditions if isinstance(asked.conditions, tuple) else None

    def _recorded(self, chosen: Choice) -> dict[str, Any]:
        """Return the choice of conditions, and which they are, for a record of samples."""
        source = self.generator.conditions
        if isinstance(source, Labels | Unconditional):
            told = [*map(int, chosen)] if isinstance(chosen, tuple) else chosen
            return {"labels": told}
        told_names = list(chosen) if isinstance(chosen, tuple) else chosen
        return {
            "labels": None,
            "conditions": {"chosen": told_names, "fingerprint": source.fingerprint()},
        }


def to_uint8(images: Tensor) -> Tensor:
    """Return pixels 0 to 255, UInt8[N, H, W, C], of images Float[N, C, H, W] in [−1, 1].

    x is clipped to [−1, 1]; then (x + 1) · 127.5 is rounded to the nearest integer, half to even.
    """
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1)


def whole_number(name: str, found: Any, low: int, high: int | None = None) -> int:
    """Return a whole number from `low` to `high`, or raise SampleError about `name`."""
    number = _index(found)
    if number < low or (high is not None and number > high):
        most = "" if high is None else f" and at most {high}"
        raise SampleError(f"{name}: must be a whole number, at least {low}{most}, found {found!r}")
    return number


def _index(found: Any) -> int:
    """Return a whole number of any type as an int; −1 for anything else, True and False too."""
    try:
        return -1 if isinstance(found, bool) else index(found)
    except TypeError:
        return -1


def _checked_scale(found: Any) -> float:
    """Return a guidance scale, or raise SampleError unless it is at least 0 and finite."""
    try:
        scale = math.nan if isinstance(found, bool | str) else float(found)
    except (TypeError, ValueError):
        scale = math.nan
    if not 0 <= scale <= torch.finfo(torch.float32).max:
        raise SampleError(f"guidance: must be at least 0 and finite in float32, found {found!r}")
    return scale


def _checked_conditions(chosen: str | Sequence[str] | None, source: ConditionSource) -> Choice:
    """Return a choice of conditions, or raise SampleError for an impossible one."""
    if isinstance(source, Unconditional):
        if chosen is not None:
            raise SampleError("conditions: these samples have none to choose from")
        return None
    if chosen is None:
        return "balanced" if source.names else "random"
    if chosen == "random":
        return "random"
    if chosen == "balanced":
        if not source.names:
            raise SampleError("conditions: there is no list of names to go through: use 'random'")
        return "balanced"
    return _checked_names(chosen, source)


def _checked_names(names: str | Sequence[str], source: ConditionSource) -> tuple[str, ...]:
    """Return names of conditions, or raise SampleError unless the source knows them all."""
    if isinstance(names, str) or not all(isinstance(each, str) for each in names) or not names:
        raise SampleError(
            f"conditions: must be 'balanced', 'random' or a list of names, found {names!r}"
        )
    try:
        found = source.of(list(names))
    except ValueError as error:
        raise SampleError(f"conditions: {error}") from None
    except KeyError as error:  # the contract says ValueError; a table of names raises this
        raise SampleError(f"conditions: unknown name {error}") from None
    if found.size != len(names):
        kind = type(source).__name__
        raise SampleError(f"conditions: {kind} makes {found.size} of {len(names)} names")
    return tuple(names)


def _checked_labels(labels: Labelling, conditions: ConditionSource) -> Choice:
    """Return a choice of classes, or raise SampleError for an impossible one."""
    if not isinstance(conditions, Labels):
        if labels in ("balanced", "random") and not isinstance(conditions, Unconditional):
            return _checked_conditions(str(labels), conditions)
        other = (
            "" if isinstance(conditions, Unconditional) else "; choose conditions by their names"
        )
        raise SampleError(f"labels: these samples have no classes to choose from{other}")
    if isinstance(labels, str):
        if labels == "balanced":
            return "balanced"
        if labels == "random":
            return "random"
        hint = did_you_mean(labels, ("balanced", "random"))
        raise SampleError(
            f"labels: must be 'balanced', 'random' or classes as in 0,3,7, found {labels!r}{hint}"
        )
    listed = list(labels) if isinstance(labels, Iterable) else [labels]
    chosen = tuple(map(_index, listed))
    unknown = [
        repr(each)
        for each, label in zip(listed, chosen, strict=True)
        if not 0 <= label < conditions.classes
    ]
    if unknown or not chosen:
        found = f"found {', '.join(unknown)}" if unknown else "found none"
        raise SampleError(f"labels: must be classes from 0 to {conditions.classes - 1}, {found}")
    return tuple(map(str, chosen))
