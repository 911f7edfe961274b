"""Whether samples are read as the class that was asked for, beside the teacher's own."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from ffcore.interfaces import ClassFeatures


@attrs.frozen(kw_only=True)
class Agreement:
    """How samples of a student and of its teacher, from the same noise, are read."""

    alike: float
    """Share of the noise from which both are read as the same class."""
    student: float
    """Share of the student's samples that are read as the class that was asked for."""
    teacher: float
    asked: tuple[int, ...]
    """How many samples of each class were asked for."""
    student_by_class: tuple[float | None, ...]
    """The share of each class; None for one that was not asked for."""
    teacher_by_class: tuple[float | None, ...]


@torch.no_grad()
def agreement(
    classifier: ClassFeatures, student: Tensor, teacher: Tensor, label: Tensor, chunk: int
) -> Agreement:
    """Return how a classifier reads samples.

    Args:
        classifier: of as many classes as labels are drawn from.
        student: the student's samples, Float[N, *S].
        teacher: the teacher's from the same noise, Float[N, *S].
        label: the class that each was asked for, Int[N].
        chunk: samples that are read at a time.
    """
    mine, its = (
        torch.cat([classifier.classify(part) for part in each.split(chunk)]).cpu()
        for each in (student, teacher)
    )
    classes, label = classifier.classes, label.cpu()
    assert classes is not None
    asked = torch.bincount(label, minlength=classes)

    def shares(read: Tensor) -> tuple[float | None, ...]:
        right = torch.bincount(label[read == label], minlength=classes)
        pairs = zip(right.tolist(), asked.tolist(), strict=True)
        return tuple(each / count if count else None for each, count in pairs)

    return Agreement(
        alike=_share(mine == its),
        student=_share(mine == label),
        teacher=_share(its == label),
        asked=tuple(asked.tolist()),
        student_by_class=shares(mine),
        teacher_by_class=shares(its),
    )


def _share(right: Tensor) -> float:
    return float(right.double().mean())
