"""Measures of how far samples are from a reference, each blind to something else.

- `frechet`: Fréchet distance; sees mean and covariance only.
- `energy`: energy distance, which is 0 for equal distributions only (Székely & Rizzo, 2013).
- `sharpness`: mean distance from a sample to the nearest one of the reference; sees blur and
  samples between two modes.
- `coverage`: mean distance from a sample of the reference to the nearest sample; sees lost modes.
- `class`: energy distance within the class for which it is largest; sees a class that collapsed, or
  that samples of another class replaced. Classes with few samples count together, as one.
- `class_coverage`: coverage within the class for which it is largest, relative to the mean distance
  of the reference's own samples in that class to each other's nearest; sees a class that lost its
  variety, which hardly moves the coverage of all classes.
- `accuracy`: share of samples that a classifier reads as the class asked for.

Each comes as replicates: its value over all samples, then its value without each of DRAWS
independent draws of both samples and reference. The replicates of two sets of samples with the same
reference may be subtracted, so what they share cancels; see `verdict`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import torch
from torch import Tensor

from ffcore.evaluate.metrics import Moments

DRAWS = 10
"""Number of independent draws into which samples are divided, in their order."""
MOST = 5000
"""Most samples that are measured here, the first ones: the cost grows with their square."""
FEWEST = 10 * DRAWS
"""Fewest samples that can be measured here, and fewest of a class."""

Replicates = tuple[float, ...]
"""The value over all samples, then the value without each draw; 1 + DRAWS numbers."""


@attrs.frozen(kw_only=True, eq=False)
class Cloud:
    """Samples in a feature space."""

    points: Tensor
    """Float[N, D]."""
    labels: Tensor | None = None
    """Class asked for, Int[N]; None without classes."""
    read: Tensor | None = None
    """Class that a classifier reads, Int[N]; None without a classifier."""

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, part: slice) -> Cloud:
        """Return some of the samples."""
        return Cloud(
            points=self.points[part],
            labels=None if self.labels is None else self.labels[part],
            read=None if self.read is None else self.read[part],
        )

    @property
    def draws(self) -> Tensor:
        """The draw of each sample, Int[N]."""
        return draws_of(len(self))


def draws_of(number: int) -> Tensor:
    """Return the draw of each of `number` samples, Int[number]: equal parts in their order."""
    return torch.arange(number) * DRAWS // number


class Yardstick:
    """Measures samples against a reference.

    Args:
        reference: at least FEWEST samples.
        fewest_of_class: fewest samples of a class that is measured by itself.
    """

    def __init__(self, reference: Cloud, *, fewest_of_class: int = FEWEST) -> None:
        self.reference, self.fewest_of_class = reference, fewest_of_class
        self.centre = reference.points.double().mean(0)
        self.points = self._centred(reference)
        self.within = _sums(self.points, reference.draws, self.points, reference.draws)
        self.roots = [_root(each) for each in _moments(self.points, reference.draws)]

    @torch.no_grad()
    def measures(self, cloud: Cloud) -> dict[str, Replicates]:
        """Return the replicates of each measure, by name.

        Args:
            cloud: at least FEWEST samples, in the features of the reference.

        Without labels there are no `class` and `class_coverage`, and without a classifier no
        `accuracy`.
        """
        points, draws, there = self._centred(cloud), cloud.draws, self.reference.draws
        between, nearest, covered = _compare(points, draws, self.points, there)
        found = {
            "frechet": self._frechet(points, draws),
            "energy": _energy(between, _sums(points, draws, points, draws), self.within),
            "sharpness": _mean_nearest(nearest, draws),
            "coverage": _mean_nearest(covered, there),
        }
        found |= self._worst_class(cloud, points)
        if cloud.read is not None and cloud.labels is not None:
            found["accuracy"] = _shares(cloud.read == cloud.labels, draws)
        return found

    def _centred(self, cloud: Cloud) -> Tensor:
        """Return points around the mean of the reference, so that no distance cancels."""
        return cloud.points.double() - self.centre

    def _frechet(self, points: Tensor, draws: Tensor) -> Replicates:
        """Return ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_b^½ Σ_a Σ_b^½)^½)."""
        found = []
        for (mean, covariance), (there, trace, root) in zip(
            _moments(points, draws), self.roots, strict=True
        ):
            both = torch.linalg.eigvalsh(root @ covariance @ root).clamp(min=0).sqrt().sum()
            found.append(
                float((mean - there).square().sum() + covariance.trace() + trace - 2 * both)
            )
        return tuple(found)

    def _worst_class(self, cloud: Cloud, points: Tensor) -> dict[str, Replicates]:
        """Return the energy distance and the coverage within the worst class, each for itself.

        Empty with fewer than two classes. Classes with fewer than `fewest_of_class` samples count
        as one: the energy's mean is over the pairs within each of them.
        """
        here, there = cloud.labels, self.reference.labels
        if here is None or there is None or len(here.unique()) < 2:
            return {}
        found: list[Replicates] = []
        covered: list[Replicates] = []
        rare: list[tuple[_Sums, _Sums, _Sums]] = []
        left = torch.zeros_like(here, dtype=torch.bool), torch.zeros_like(there, dtype=torch.bool)
        for label in torch.cat([here, there]).unique().tolist():
            mine, theirs = here == label, there == label
            a, b = points[mine], self.points[theirs]
            i, j = cloud.draws[mine], self.reference.draws[theirs]
            sums = (_sums(a, i, b, j), _sums(a, i, a, i), _sums(b, j, b, j))
            if min(len(a), len(b)) < self.fewest_of_class:
                rare.append(sums)
                left[0].logical_or_(mine)
                left[1].logical_or_(theirs)
            else:
                found.append(_energy(*sums))
                covered.append(_coverage(a, i, b, j))
        if rare:
            together = [_together(each) for each in zip(*rare, strict=True)]
            if all(bool((_without_each(each.pairs) > 0).all()) for each in together):
                found.append(_energy(*together))
        if min(int(each.sum()) for each in left) >= FEWEST:
            b, j = self.points[left[1]], self.reference.draws[left[1]]
            covered.append(_coverage(points[left[0]], cloud.draws[left[0]], b, j))
        worst = {"class": max(found, default=None), "class_coverage": max(covered, default=None)}
        return {name: each for name, each in worst.items() if each is not None}


@attrs.frozen(eq=False)
class _Sums:
    """Sums of distances between the samples of two draws, [DRAWS, DRAWS], and their numbers."""

    total: Tensor
    pairs: Tensor

    def means(self) -> Tensor:
        """Return the mean distance over all draws, then without each draw on both sides."""
        return _without_each(self.total) / _without_each(self.pairs)


def _together(sums: Sequence[_Sums]) -> _Sums:
    total, pairs = (torch.stack([getattr(e, n) for e in sums]).sum(0) for n in ("total", "pairs"))
    return _Sums(total, pairs)


def _without_each(square: Tensor) -> Tensor:
    """Return the sum of a matrix, then its sum without row and column i, for each i."""
    whole = square.sum()
    less = whole - square.sum(0) - square.sum(1) + square.diagonal()
    return torch.cat([whole[None], less])


def _rows(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield the distances of some rows of a to all rows of b."""
    squares = b.square().sum(1)
    for start in range(0, len(a), 500):
        here = slice(start, min(start + 500, len(a)))
        part = a[here]
        square = part.square().sum(1, keepdim=True) + squares - 2 * part @ b.T
        yield here, square.clamp(min=0).sqrt()


def _sums(a: Tensor, draws_a: Tensor, b: Tensor, draws_b: Tensor) -> _Sums:
    ones_a, ones_b = _one_hot(draws_a), _one_hot(draws_b)
    total = torch.zeros(DRAWS, DRAWS, dtype=torch.float64)
    for here, distances in _rows(a, b):
        total += ones_a[here].T @ (distances @ ones_b)
    pairs = torch.outer(ones_a.sum(0), ones_b.sum(0))
    if a is b:  # a sample is no pair with itself
        pairs -= torch.diag(ones_a.sum(0))
    return _Sums(total, pairs)


def _compare(
    a: Tensor, draws_a: Tensor, b: Tensor, draws_b: Tensor
) -> tuple[_Sums, Tensor, Tensor]:
    """Return sums of distances, and the nearest distance of each a to each draw of b, and back."""
    ones_a, ones_b = _one_hot(draws_a), _one_hot(draws_b)
    total = torch.zeros(DRAWS, DRAWS, dtype=torch.float64)
    nearest = torch.full((len(a), DRAWS), torch.inf, dtype=torch.float64)
    covered = torch.full((len(b), DRAWS), torch.inf, dtype=torch.float64)
    for here, distances in _rows(a, b):
        total += ones_a[here].T @ (distances @ ones_b)
        for draw in draws_b.unique().tolist():
            nearest[here, draw] = distances[:, draws_b == draw].amin(1)
        for draw in draws_a[here].unique().tolist():
            least = distances[draws_a[here] == draw].amin(0)
            covered[:, draw] = torch.minimum(covered[:, draw], least)
    return _Sums(total, torch.outer(ones_a.sum(0), ones_b.sum(0))), nearest, covered


def _energy(between: _Sums, a: _Sums, b: _Sums) -> Replicates:
    """Return 2 E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖, unbiased, so it can be slightly below 0."""
    return tuple((2 * between.means() - a.means() - b.means()).tolist())


def _mean_nearest(nearest: Tensor, draws: Tensor) -> Replicates:
    """Return the mean over samples of the distance to the nearest one in any draw."""
    best, which = nearest.min(1)
    second = nearest.scatter(1, which[:, None], torch.inf).amin(1)
    found = [best.mean()]
    for draw in range(DRAWS):
        kept = draws != draw
        found.append(torch.where(which == draw, second, best)[kept].mean())
    return tuple(map(float, found))


def _coverage(a: Tensor, draws_a: Tensor, b: Tensor, draws_b: Tensor) -> Replicates:
    """Return the mean distance from each b to the nearest a, relative to that to the nearest b."""
    _, _, covered = _compare(a, draws_a, b, draws_b)
    least = []
    for here, among in _rows(b, b):
        rows = torch.arange(len(b))[here]
        among[torch.arange(len(rows)), rows] = torch.inf
        least.append(among.amin(1))
    own = max(float(torch.cat(least).mean()), 1e-12)
    return tuple(each / own for each in _mean_nearest(covered, draws_b))


def _shares(right: Tensor, draws: Tensor) -> Replicates:
    right = right.double()
    return tuple(map(float, [right.mean(), *(right[draws != d].mean() for d in range(DRAWS))]))


def _moments(points: Tensor, draws: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return mean and covariance of all points, then of those without each draw."""
    parts = [points[draws == draw] for draw in range(DRAWS)]
    of_each = []
    for part in parts:
        mean = part.mean(0)
        of_each.append((len(part), mean, (part - mean).T @ (part - mean)))
    found = []
    for left_out in (None, *range(DRAWS)):
        moments = Moments()
        for draw, each in enumerate(of_each):
            if draw != left_out:
                moments.join(*each)
        found.append((moments.mean, moments.scatter / (moments.count - 1)))
    return found


def _root(moments: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean, the trace of the covariance, and its square root."""
    mean, covariance = moments
    values, vectors = torch.linalg.eigh(covariance)
    return mean, covariance.trace(), vectors * values.clamp(min=0).sqrt() @ vectors.T


def _one_hot(draws: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(draws, DRAWS).double()
