"""The numbers: distances between samples and a reference in feature spaces, and classes.

The Fréchet distance needs moments alone, which are streamed. The kernel distance, precision and
recall need the features of all samples, which are kept, 4 bytes a number. No sample is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from ffcore.features import (
    NEIGHBOUR,
    Moments,
    Statistics,
    frechet_distance,
    import_fidelity,
    kernel_distance,
    precision_recall,
)
from ffcore.fidelity.reference import Reference
from ffcore.fidelity.samples import Samples
from ffcore.fidelity.stored import FidelityError
from ffcore.interfaces import ClassFeatures, Features
from ffcore.sample import is_image

METRICS = {
    "fd": "Fréchet distance",
    "kid": "kernel distance",
    "pr": "precision and recall",
    "classes": "which class each sample is read as",
}
"""What can be measured."""
_DARK = 1.5 / 127.5 - 1
"""Pixels of 0 and 1 of 255 are below."""
_OF_ALL_FEATURES = {"kid", "pr"}

Progress = Callable[[str, int, int], None]
"""(what is going on, done, of how many)."""


def silent(what: str, done: int, total: int) -> None:
    """Report no progress."""
    del what, done, total


@attrs.frozen(kw_only=True)
class Classes:
    """As which classes samples are read by a classifier."""

    counts: tuple[int, ...]
    """Samples read as each class."""
    missing: tuple[int, ...]
    """Classes that no sample is read as."""
    as_asked: float | None
    """Share of samples that are read as the class they were asked for; None where it is unknown."""
    recall: tuple[float | None, ...] | None
    """The same among the samples of each class; None for one that was not asked for."""


@attrs.frozen(kw_only=True)
class Fidelity:
    """The numbers in one feature space; None where they were not asked for."""

    dimension: int
    fd: float | None = None
    kid: float | None = None
    kid_spread: float | None = None
    """Standard deviation over the subsets."""
    kid_subset: int | None = None
    """Samples in a subset; there are `ffcore.features.SUBSETS`."""
    precision: float | None = None
    recall: float | None = None
    classes: Classes | None = None


@attrs.frozen(kw_only=True)
class Measured:
    """All numbers, by the name of the features, and what is to be said of them."""

    features: dict[str, Fidelity]
    notes: tuple[str, ...]
    seconds: dict[str, float]
    """Where the time went: samples, features, statistics."""


def check_metrics(asked: Sequence[str], features: Sequence[Features], reference: Reference) -> None:
    """Raise FidelityError for metrics that there are not, or that cannot be had."""
    for name in asked:
        if name not in METRICS:
            raise FidelityError(f"metrics: there is no {name!r}; there are {', '.join(METRICS)}")
    if (kept := _OF_ALL_FEATURES & {*asked}) and reference.samples is None:
        raise FidelityError(
            f"{', '.join(sorted(kept))}: needs the samples of the reference, and "
            f"{reference.record['source']} has statistics alone"
        )
    if "classes" in asked and not any(isinstance(each, ClassFeatures) for each in features):
        names = ", ".join(each.name for each in features)
        raise FidelityError(f"classes: needs features of a classifier, and {names} tells none")
    if len({each.name for each in features}) < len(features):
        raise FidelityError(f"features: named once each, found {[each.name for each in features]}")
    for each in features:
        reference.statistics_of(each)


def measure(
    samples: Samples,
    reference: Reference,
    features: Sequence[Features],
    metrics: Sequence[str] = ("fd",),
    device: str = "cpu",
    progress: Progress = silent,
) -> Measured:
    """Measure samples against a reference.

    Args:
        samples, reference: of one shape.
        features: on `device`; one name each.
        metrics: of METRICS; see `check_metrics`. Classes are read by those features that can.
        device: where features are computed.
        progress: told of each batch.

    Raises FidelityError where samples are not finite, or the features cannot take them.
    """
    check_metrics(metrics, features, reference)
    _check_alike(samples, reference)
    import_fidelity()  # before the clock runs
    clock = _Clock()
    keeps, reads = bool(_OF_ALL_FEATURES & {*metrics}), "classes" in metrics
    stored = {
        each.name: reference.statistics_of(each) if "fd" in metrics else None for each in features
    }
    seen = {each.name: _Seen(each, stored[each.name], keeps, reads) for each in features}
    clock.lap("statistics")
    notes = _watch(samples, list(seen.values()), device, clock, progress, "samples")
    aside = {
        each.name: _Seen(each, None, keeps)
        for each in features
        if keeps or ("fd" in metrics and stored[each.name] is None)
    }
    if aside:
        assert reference.samples is not None
        notes += _watch(
            reference.samples, list(aside.values()), device, clock, progress, "reference"
        )
    if reference.note is not None and len(samples.shape) == 3:
        notes.append(reference.note)
    found: dict[str, Fidelity] = {}
    for name, each in seen.items():
        found[name] = _fidelity(each, aside.get(name), samples.labels, metrics)
        clock.lap("statistics")
        progress("distances", len(found), len(features))
    return Measured(features=found, notes=tuple(notes), seconds=clock.seconds)


class _Seen:
    """What is kept of samples in one feature space.

    Args:
        features: the space.
        stored: statistics of a reference that they are to be held against, if there are any.
        keeps: whether to keep all features.
        reads: whether to read classes, where the features tell them.
    """

    def __init__(
        self, features: Features, stored: Statistics | None, keeps: bool, reads: bool = False
    ) -> None:
        self.features = features
        self.stored = stored
        self.moments = Moments()
        self.kept: list[Tensor] | None = [] if keeps else None
        self.classifier = features if reads and isinstance(features, ClassFeatures) else None
        self.read: list[Tensor] = []

    @property
    def all(self) -> Tensor:
        assert self.kept is not None
        return torch.cat(self.kept)

    @torch.no_grad()
    def look(self, samples: Tensor, start: int) -> Tensor:
        """Return the features of samples; the first of them is number `start`."""
        try:
            found: Tensor = self.features(samples)
            if self.classifier is not None:
                self.read.append(self.classifier.classify(samples).cpu())
        except (ValueError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise FidelityError(
                f"features {self.features.name} cannot take samples of shape "
                f"{tuple(samples.shape[1:])}: {error}"
            ) from error
        if self.stored is not None and len(self.stored.mu) != found.shape[1]:
            raise FidelityError(
                f"features {self.features.name} are of {found.shape[1]} numbers, and the stored "
                f"statistics of {len(self.stored.mu)}: they are of another network"
            )
        bad = (~found.isfinite()).any(1).nonzero()
        if len(bad):
            raise FidelityError(
                f"features {self.features.name} of sample {start + int(bad[0])} are not finite"
            )
        return found.cpu()

    def keep(self, features: Tensor) -> None:
        """Take them into account."""
        self.moments.add(features)
        if self.kept is not None:
            self.kept.append(features)


class _Clock:
    """Where the time went."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("samples", "features", "statistics"), 0.0)
        self.last = time.perf_counter()

    def lap(self, what: str) -> None:
        """Count the time since the last lap for `what`."""
        now = time.perf_counter()
        self.seconds[what] += now - self.last
        self.last = now


def _watch(
    samples: Samples,
    seen: Sequence[_Seen],
    device: str,
    clock: _Clock,
    progress: Progress,
    what: str,
) -> list[str]:
    """Pass samples through feature spaces once; return what is to be said of them."""
    done, brightest = 0, -1.0
    for chunk in samples:
        clock.lap("samples")
        placed = chunk.to(device)
        found = [each.look(placed, done) for each in seen]
        clock.lap("features")
        for each, features in zip(seen, found, strict=True):
            each.keep(features)
        done += len(chunk)
        brightest = max(brightest, float(chunk.max()))
        clock.lap("statistics")
        progress(what, done, samples.number)
    notes = [
        f"{done} {what} in {each.moments.dimension} dimensions ({each.features.name}): their "
        "covariance is singular, and the Fréchet distance tells more of their number than of "
        "them; take more"
        for each in seen
        if done <= each.moments.dimension
    ]
    if is_image(samples.shape) and brightest < _DARK:
        notes.append(f"no pixel of the {what} is above 1 of 255: were floats in [0, 1] cut down?")
    return notes


def _fidelity(
    seen: _Seen, aside: _Seen | None, labels: list[int] | None, metrics: Sequence[str]
) -> Fidelity:
    found: dict[str, Any] = {}
    here = seen.moments.statistics()
    if "fd" in metrics:
        there = seen.stored
        if there is None:
            assert aside is not None
            there = aside.moments.statistics()
        found["fd"] = frechet_distance(here, there)
    if "kid" in metrics:
        assert aside is not None
        mean, spread, subset = kernel_distance(seen.all, aside.all)
        found |= {"kid": mean, "kid_spread": spread, "kid_subset": subset}
    if "pr" in metrics:
        assert aside is not None
        found["precision"], found["recall"] = precision_recall(seen.all, aside.all)
    if seen.classifier is not None:
        found["classes"] = _classes(torch.cat(seen.read), labels, seen.classifier.classes)
    return Fidelity(dimension=len(here.mu), **found)


def _classes(read: Tensor, asked: list[int] | None, classes: int) -> Classes:
    counts = torch.bincount(read, minlength=classes).tolist()
    recall = as_asked = None
    if asked is not None:
        labels = torch.tensor(asked)
        right = read == labels
        as_asked = float(right.double().mean())
        of_each = ((labels == each).nonzero()[:, 0] for each in range(classes))
        recall = tuple(float(right[at].double().mean()) if len(at) else None for at in of_each)
    return Classes(
        counts=tuple(counts),
        missing=tuple(each for each, count in enumerate(counts) if count == 0),
        as_asked=as_asked,
        recall=recall,
    )


def _check_alike(samples: Samples, reference: Reference) -> None:
    """Raise FidelityError where samples and reference are of different shapes, or too few."""
    there = reference.samples
    if there is not None and there.shape != samples.shape:
        raise FidelityError(
            f"samples are of shape {samples.shape}, and those of the reference "
            f"{reference.record['source']} of {there.shape}"
        )
    fewest = min(samples.number, samples.number if there is None else there.number)
    if fewest <= NEIGHBOUR:
        raise FidelityError(f"{fewest} samples are too few to be measured; 50,000 are usual")
