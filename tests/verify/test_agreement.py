"""Samples read as the class that was asked for."""

import torch
from torch import Tensor

from ffcore.interfaces import ClassFeatures
from ffcore.verify.agreement import agreement


class FirstNumber(ClassFeatures):
    """Reads a sample as the class that its first number is."""

    name = "first"
    classes = 4

    def forward(self, samples: Tensor) -> Tensor:
        return samples

    def logits(self, features: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(features[:, 0].long(), self.classes).float()


def test_shares_are_those_of_the_samples_and_of_each_class():
    label = torch.tensor([0, 0, 1, 1, 1, 3])
    student = torch.tensor([0, 1, 1, 1, 2, 3.0])[:, None]
    teacher = torch.tensor([0, 0, 1, 0, 2, 3.0])[:, None]
    found = agreement(FirstNumber(), student, teacher, label, chunk=4)
    assert found.alike == 4 / 6
    assert (found.student, found.teacher) == (4 / 6, 4 / 6)
    assert found.asked == (2, 3, 0, 1)
    assert found.student_by_class == (1 / 2, 2 / 3, None, 1)
    assert found.teacher_by_class == (1, 1 / 3, None, 1)
