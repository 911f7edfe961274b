"""Class accuracy of the student's samples, beside the teacher's."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from ffcore.interfaces import ClassFeatures


@attrs.frozen(kw_only=True)
class Agreement:
    """Predicted classes of a student's and its teacher's samples from the same noise."""

    alike: float
    """Share of the pairs that are predicted as the same class."""
    student: float
    """Class accuracy: the share of the student's samples that are predicted as their label."""
    teacher: float
    asked: tuple[int, ...]
    """Number of samples with each label."""
    student_by_class: tuple[float | None, ...]
    """The accuracy of each class; None for a label that no sample has."""
    teacher_by_class: tuple[float | None, ...]


@torch.no_grad()
def agreement(
    classifier: ClassFeatures, student: Tensor, teacher: Tensor, label: Tensor, chunk: int
) -> Agreement:
    """Return the accuracy of samples by a classifier.

    Args:
        classifier: of the classes of the labels.
        student: the student's samples, Float[N, *S].
        teacher: the teacher's samples from the same noise, Float[N, *S].
        label: of each pair, Int[N].
        chunk: number of samples to classify at a time.
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
