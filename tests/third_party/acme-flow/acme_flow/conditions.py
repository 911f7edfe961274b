"""Centres of rings, by name."""

from collections.abc import Sequence

import torch

from ffcore import Condition, NamedConditions


class Centres(NamedConditions):
    """A list of places in the plane, and the origin as their null condition."""

    def __init__(self, names: Sequence[str], places: Sequence[tuple[float, float]]) -> None:
        null = Condition(size=1, pooled=torch.zeros(1, 2))
        super().__init__(names, Condition(size=len(names), pooled=torch.tensor(places)), null)
