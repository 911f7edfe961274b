"""Distances between samples and a reference in feature spaces, scores, and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from ffcore.evaluate.accumulate import Accumulated, Space
from ffcore.evaluate.distribution import MOST, Cloud
from ffcore.evaluate.metrics import (
    NEIGHBOUR,
    SPLITS,
    Statistics,
    frechet_distance,
    import_torch_fidelity,
    inception_score,
    kernel_distance,
    precision_recall,
)
from ffcore.evaluate.reference import Reference
from ffcore.evaluate.samples import Samples, same_samples
from ffcore.evaluate.stored import EvaluationError
from ffcore.evaluate.stream import Clock, Working, stream
from ffcore.interfaces import ClassFeatures, Features, is_image
from ffcore.keys import did_you_mean

METRICS = {
    "fd": "Fréchet distance",
    "is": "Inception Score",
    "kid": "kernel distance",
    "pr": "precision and recall",
    "classes": "predicted classes",
}
"""The metrics."""
_DARK = 1.5 / 127.5 - 1
"""Pixels of 0 and 1 of 255 are below it."""
_OF_BOTH = {"kid", "pr"}
"""Metrics that need the features of all samples and of the whole reference."""
_BLOCK = 1000
"""Features whose logits are computed at a time."""


@attrs.frozen(kw_only=True)
class Classes:
    """The classes that a classifier predicts for samples."""

    counts: tuple[int, ...]
    """Number of samples predicted as each class."""
    missing: tuple[int, ...]
    """Classes predicted for no sample."""
    as_asked: float | None
    """Class accuracy: the share of samples predicted as their label; None if labels are unknown."""
    recall: tuple[float | None, ...] | None
    """The same for the samples of each label; None for a label that no sample has."""


@attrs.frozen(kw_only=True)
class Scores:
    """The numbers in one feature space; None for those not requested."""

    dimension: int
    fd: float | None = None
    inception_score: float | None = None
    inception_score_spread: float | None = None
    """Standard deviation over the parts; there are `ffcore.evaluate.metrics.SPLITS`."""
    kid: float | None = None
    kid_spread: float | None = None
    """Standard deviation over the subsets."""
    kid_subset: int | None = None
    """Samples in a subset; there are `ffcore.evaluate.metrics.SUBSETS`."""
    precision: float | None = None
    recall: float | None = None
    classes: Classes | None = None


@attrs.frozen(kw_only=True)
class Measured:
    """All numbers, by the name of the features, and notes about them."""

    features: dict[str, Scores]
    notes: tuple[str, ...]
    seconds: dict[str, float]
    """Seconds spent on samples, features and statistics."""


def knows_classes(features: Features) -> bool:
    """Whether the features predict the classes that students are conditioned on."""
    return isinstance(features, ClassFeatures) and features.classes is not None


def check_metrics(asked: Sequence[str], features: Sequence[Features], reference: Reference) -> None:
    """Raise EvaluationError for unknown metrics, and for those that cannot be measured here."""
    for name in asked:
        if name not in METRICS:
            raise EvaluationError(
                f"metrics: unknown {name!r}; possible: {', '.join(METRICS)}"
                f"{did_you_mean(name, METRICS)}"
            )
    if (kept := _OF_BOTH & {*asked}) and reference.samples is None:
        raise EvaluationError(
            f"{' and '.join(sorted(kept))} needs samples as the reference, but "
            f"{reference.record['source']} has only statistics: name a recipe (its teacher), a run "
            "or stored samples as the reference"
        )
    names = ", ".join(each.name for each in features)
    if "classes" in asked and not any(map(knows_classes, features)):
        raise EvaluationError(
            f"classes: needs features of a classifier for the samples' labels, which {names} is not"
        )
    if "is" in asked and not any(isinstance(each, ClassFeatures) for each in features):
        raise EvaluationError(f"is: needs features of a classifier, but {names} has no logits")
    if len({each.name for each in features}) < len(features):
        raise EvaluationError(f"features: name each once, found {[each.name for each in features]}")
    for each in features:
        reference.statistics_of(each)


def measure(
    samples: Samples,
    reference: Reference,
    features: Sequence[Features],
    metrics: Sequence[str] = ("fd",),
    working: Working | None = None,
) -> Measured:
    """Measure samples against a reference.

    Args:
        samples, reference: of one shape.
        features: on the device of `working`; one name each.
        metrics: of METRICS; see `check_metrics`. Each is measured in those features that have it.
        working: how to compute; by default on the CPU, in this process.

    Raises EvaluationError if samples are not finite, or the features cannot take them;
    StoppedEvaluation.
    """
    working = working or Working()
    check_metrics(metrics, features, reference)
    _check_alike(samples, reference, metrics)
    if "classes" in metrics and samples.labels is not None:
        _check_labels(samples.labels, features)
    import_torch_fidelity()  # before the clock runs
    clock = Clock()
    reads = "classes" in metrics
    stored = {
        each.name: reference.statistics_of(each) if "fd" in metrics else None for each in features
    }
    seen = stream(
        samples,
        [
            Space(each, stored[each.name], keeps=_keeps(each, metrics), reads=reads)
            for each in features
        ],
        "samples",
        working,
        clock,
    )
    compared = bool(_OF_BOTH & {*metrics})
    aside = [
        Space(each, keeps=compared)
        for each in features
        if compared or ("fd" in metrics and stored[each.name] is None)
    ]
    beside: Accumulated | None = None
    if aside:
        assert reference.samples is not None
        beside = stream(reference.samples, aside, "reference", working, clock)
    notes = working.processes.first(partial(_notes, seen, beside, samples, reference))
    clock.lap("statistics")
    found: dict[str, Scores] = {}
    for name, space in seen.spaces.items():
        working.check("all samples were seen, before the distances")
        there = None if beside is None else beside.spaces.get(name)
        work = partial(_scores, space, there, samples.labels, metrics, working.device)
        found[name] = working.processes.first(work)
        clock.lap("statistics")
        working.progress("distances", len(found), len(features))
    return Measured(features=found, notes=tuple(notes), seconds=clock.seconds)


@attrs.frozen(kw_only=True, eq=False)
class Seen:
    """Samples as seen in a feature space."""

    statistics: Statistics
    """Of all samples."""
    cloud: Cloud
    """The first samples; see `ffcore.evaluate.distribution.MOST`."""


def observe(
    samples: Samples,
    features: Sequence[Features],
    working: Working | None = None,
    stored: Mapping[str, Statistics] | None = None,
) -> dict[str, Seen]:
    """Return samples as seen in each feature space; raises the errors of `measure`.

    Args:
        samples, features, working: as for `measure`.
        stored: statistics of a reference, whose dimensions the features must have.
    """
    spaces = [
        Space(each, (stored or {}).get(each.name), keeps=MOST, reads=True) for each in features
    ]
    seen = stream(samples, spaces, "samples", working or Working(), Clock())
    asked = samples.labels
    labels = None if asked is None else torch.tensor(asked[:MOST])
    return {
        name: Seen(
            statistics=space.moments.statistics(),
            cloud=Cloud(
                points=space.all_kept().float(),
                labels=labels,
                read=None if space.read is None else torch.cat(space.read)[:MOST],
            ),
        )
        for name, space in seen.spaces.items()
    }


def feature_statistics(
    samples: Samples, features: Sequence[Features], working: Working | None = None
) -> dict[str, Statistics]:
    """Return the statistics of samples in each feature space; raises the errors of `measure`."""
    spaces = [Space(each) for each in features]
    seen = stream(samples, spaces, "samples", working or Working(), Clock())
    return {name: space.moments.statistics() for name, space in seen.spaces.items()}


def _keeps(features: Features, metrics: Sequence[str]) -> bool:
    """Whether all features of the samples are needed."""
    scored = "is" in metrics and isinstance(features, ClassFeatures)
    return scored or bool(_OF_BOTH & {*metrics})


def _notes(
    seen: Accumulated, beside: Accumulated | None, samples: Samples, reference: Reference
) -> list[str]:
    """Return the notes about the samples and the reference."""
    notes = []
    for found, what in ((seen, "samples"), (beside, "reference")):
        if found is None:
            continue
        notes += found.notes(what)
        if is_image(samples.shape) and found.brightest < _DARK:
            notes.append(
                f"no pixel of the {what} is above 1 of 255: were floats in [0, 1] rounded?"
            )
    if seen.taken_up or (beside is not None and beside.taken_up):
        notes.append("this evaluation was resumed: the seconds count its last start only")
    if reference.samples is not None and same_samples(samples.record, reference.samples.record):
        notes.append("samples and reference are the same samples: zero distance means nothing")
    if reference.note is not None and is_image(samples.shape):
        notes.append(reference.note)
    return notes


def _scores(
    here: Space,
    there: Space | None,
    labels: list[int] | None,
    metrics: Sequence[str],
    device: str,
) -> Scores:
    found: dict[str, Any] = {}
    if "fd" in metrics:
        stored = here.stored
        if stored is None:
            assert there is not None
            stored = there.moments.statistics()
        found["fd"] = frechet_distance(here.moments.statistics(), stored)
    if "is" in metrics and isinstance(here.features, ClassFeatures):
        mean, spread = inception_score(_logits(here.features, here.all_kept(), device))
        found |= {"inception_score": mean, "inception_score_spread": spread}
    if "kid" in metrics:
        assert there is not None
        mean, spread, subset = kernel_distance(here.all_kept(), there.all_kept())
        found |= {"kid": mean, "kid_spread": spread, "kid_subset": subset}
    if "pr" in metrics:
        assert there is not None
        found["precision"], found["recall"] = precision_recall(here.all_kept(), there.all_kept())
    if here.read is not None:
        assert isinstance(here.features, ClassFeatures)
        assert here.features.classes is not None
        found["classes"] = _classes(torch.cat(here.read), labels, here.features.classes)
    return Scores(dimension=here.moments.dimension, **found)


@torch.no_grad()
def _logits(features: ClassFeatures, kept: Tensor, device: str) -> Tensor:
    return torch.cat([features.logits(each.to(device)).cpu() for each in kept.split(_BLOCK)])


def _check_labels(asked: list[int], features: Sequence[Features]) -> None:
    """Raise EvaluationError if the features do not know a sample's label."""
    for each in features:
        classes = each.classes if isinstance(each, ClassFeatures) else None
        if classes is not None and max(asked) >= classes:
            raise EvaluationError(
                f"classes: a sample has label {max(asked)}, but the features {each.name} know only "
                f"the classes 0 to {classes - 1}"
            )


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


def _check_alike(samples: Samples, reference: Reference, metrics: Sequence[str]) -> None:
    """Raise EvaluationError if samples and reference differ in shape, or are too few."""
    there = reference.samples
    if there is not None and there.shape != samples.shape:
        raise EvaluationError(
            f"samples have shape {samples.shape}, and those of the reference "
            f"{reference.record['source']} have {there.shape}"
        )
    fewest = min(samples.number, samples.number if there is None else there.number)
    if fewest <= NEIGHBOUR:
        raise EvaluationError(f"{fewest} samples are too few to measure; 50,000 are usual")
    if "is" in metrics and samples.number < SPLITS:
        raise EvaluationError(
            f"is: {samples.number} samples cannot be split into {SPLITS} parts; 50,000 are usual"
        )
