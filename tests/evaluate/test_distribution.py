"""Measures against a reference: each replicate is the measure of the samples that it keeps."""

import math

import numpy as np
import pytest
import torch
from inputs import Stream
from torch import Tensor

from ffcore.evaluate.distribution import DRAWS, FEWEST, Cloud, Yardstick
from ffcore.evaluate.metrics import Statistics, frechet_distance
from ffcore.evaluate.verdict import Estimate


def cloud(seed: int, number: int = 200, dimension: int = 3, shift: float = 0.0) -> Cloud:
    stream = Stream(seed)
    points = stream.normal(number, dimension) + shift
    labels = torch.arange(number) % 2
    return Cloud(points=points, labels=labels, read=labels * (torch.arange(number) % 5 > 0))


def without(each: Cloud, draw: int) -> Tensor:
    return each.points[each.draws != draw].double()


def distances(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] - b[None]).square().sum(-1).sqrt()


def energy(a: Tensor, b: Tensor) -> float:
    n, m = len(a), len(b)
    within = distances(a, a).sum() / (n * (n - 1)) + distances(b, b).sum() / (m * (m - 1))
    return float(2 * distances(a, b).mean() - within)


PLAIN = {
    "frechet": lambda a, b: frechet_distance(Statistics.of(a), Statistics.of(b)),
    "energy": energy,
    "sharpness": lambda a, b: float(distances(a, b).amin(1).mean()),
    "coverage": lambda a, b: float(distances(a, b).amin(0).mean()),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("numbers", [(200, 200), (130, 247)], ids=str)
def test_each_replicate_is_the_measure_of_what_it_keeps(name: str, numbers: tuple[int, int]):
    here, there = cloud(0, numbers[0], shift=0.3), cloud(1, numbers[1])
    found = Yardstick(there).measures(here)[name]
    assert len(found) == 1 + DRAWS
    whole = PLAIN[name](here.points.double(), there.points.double())
    assert found[0] == pytest.approx(whole, rel=1e-6)
    for draw in range(DRAWS):
        kept = PLAIN[name](without(here, draw), without(there, draw))
        assert found[1 + draw] == pytest.approx(kept, rel=1e-6)


def test_the_worst_class_is_measured_within_itself() -> None:
    here, there = cloud(0, 400), cloud(1, 400)
    moved = here.points + 2.0 * (here.labels == 1)[:, None]
    found = Yardstick(there).measures(Cloud(points=moved, labels=here.labels))["class"]
    ones = energy(moved[here.labels == 1].double(), there.points[there.labels == 1].double())
    assert found[0] == pytest.approx(ones, rel=1e-6)
    kept, still = here.draws != 3, there.draws != 3
    ones = energy(
        moved[kept & (here.labels == 1)].double(),
        there.points[still & (there.labels == 1)].double(),
    )
    assert found[4] == pytest.approx(ones, rel=1e-6)


def test_a_class_that_is_swapped_for_another_shows_only_within_classes() -> None:
    here, there = cloud(0, 1000, 1), cloud(1, 1000, 1)
    apart = Cloud(points=there.points + 9.0 * there.labels[:, None], labels=there.labels)
    swapped = Cloud(points=here.points + 9.0 * (1 - here.labels)[:, None], labels=here.labels)
    found = Yardstick(apart).measures(swapped)
    assert abs(found["energy"][0]) < 0.05
    assert found["class"][0] > 10


def own(points: Tensor) -> float:
    """The mean distance of points to their nearest other."""
    apart = distances(points.double(), points.double())
    return float((apart + torch.diag(torch.full((len(points),), torch.inf))).amin(1).mean())


def test_the_coverage_of_the_worst_class_is_relative_to_the_class_itself() -> None:
    here, there = cloud(0, 600), cloud(1, 600)
    wide = 1.0 + 9.0 * (there.labels == 0)[:, None]  # its distances are the largest
    few = torch.where((here.labels == 1)[:, None], here.points[:1], wide * here.points)
    found = Yardstick(Cloud(points=wide * there.points, labels=there.labels)).measures(
        Cloud(points=few, labels=here.labels)
    )["class_coverage"]
    ones = there.points[there.labels == 1]
    lost = distances(here.points[:1].double(), ones.double()).mean() / own(ones)
    assert found[0] == pytest.approx(float(lost), rel=1e-4)
    assert found[0] > 2


def test_a_class_without_variety_shows_in_its_own_coverage_above_all() -> None:
    labels = torch.arange(2000) % 10
    there, here = (Stream(seed).normal(2000, 6) + 20.0 * labels[:, None] for seed in (1, 0))
    few = torch.where((labels == 0)[:, None], here[torch.arange(2000) % 20 * 10], here)
    yardstick = Yardstick(Cloud(points=there, labels=labels))
    whole, collapsed = (yardstick.measures(Cloud(points=p, labels=labels)) for p in (here, few))
    for name, least, most in (("coverage", 1.0, 1.25), ("class_coverage", 1.3, 3.0)):
        assert least < collapsed[name][0] / whole[name][0] < most


def test_rare_classes_are_covered_together() -> None:
    labels = torch.arange(1000) % 50
    there, here = (Stream(seed).normal(1000, 2) + 5.0 * labels[:, None] for seed in (1, 0))
    yardstick = Yardstick(Cloud(points=there, labels=labels))
    right = yardstick.measures(Cloud(points=here, labels=labels))["class_coverage"]
    plain = float(distances(here.double(), there.double()).amin(0).mean()) / own(there)
    assert right[0] == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("labels", [None, torch.zeros(400)])
def test_without_two_classes_of_enough_samples_none_is_the_worst(labels: Tensor | None) -> None:
    points = Stream(0).normal(400, 2)
    here = Cloud(points=points, labels=None if labels is None else labels.long())
    assert not {"class", "class_coverage"} & Yardstick(here).measures(here).keys()


def test_classes_with_few_samples_count_together() -> None:
    labels = torch.arange(1000) % 50  # 20 samples of each
    there = Stream(1).normal(1000, 2) + 5.0 * labels[:, None]
    here = Stream(0).normal(1000, 2) + 5.0 * labels[:, None]
    yardstick = Yardstick(Cloud(points=there, labels=labels))
    right = yardstick.measures(Cloud(points=here, labels=labels))["class"]
    assert abs(right[0]) < 0.1
    swapped = torch.where(labels == 3, 4, torch.where(labels == 4, 3, labels))
    wrong = yardstick.measures(Cloud(points=here, labels=swapped))["class"]
    assert wrong[0] > 0.3
    plain = [energy(here[labels == c].double(), there[labels == c].double()) for c in range(50)]
    assert right[0] == pytest.approx(sum(plain) / 50, abs=1e-6)  # all classes of one size


def test_a_swapped_class_shows_on_either_side_of_the_fewest_samples() -> None:
    for number in (FEWEST - 2, FEWEST + 2):
        labels = torch.ones(400, dtype=torch.long)
        labels[:number] = 0
        labels[200 : 200 + number] = 2
        there = Stream(1).normal(400, 2) + 9.0 * labels[:, None]
        here = Stream(0).normal(400, 2) + 9.0 * (2 - labels)[:, None]
        yardstick = Yardstick(Cloud(points=there, labels=labels))
        assert yardstick.measures(Cloud(points=here, labels=labels))["class"][0] > 10


def test_accuracy_is_the_share_that_is_read_as_asked() -> None:
    here = cloud(0, 400)
    found = Yardstick(cloud(1, 400)).measures(here)["accuracy"]
    right = (here.labels == here.read).double()
    assert found[0] == float(right.mean())
    assert found[7] == float(right[here.draws != 6].mean())
    assert "accuracy" not in Yardstick(here).measures(Cloud(points=here.points, read=here.read))


def test_distances_do_not_cancel_far_from_the_origin() -> None:
    """The nearest distance is a hundred-millionth of the distance to the origin."""
    here, there = cloud(0, dimension=2), cloud(1, dimension=2)
    expected = Yardstick(there).measures(here)
    far = [Cloud(points=each.points.double() + 1e8) for each in (here, there)]
    found = Yardstick(far[1]).measures(far[0])
    for name in PLAIN:
        assert found[name][0] == pytest.approx(expected[name][0], rel=1e-5, abs=1e-6)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    """The energy distance of N(1, 1) and N(0, 1): x − y is normal, so E|x − y| is known."""
    apart = 2 / math.sqrt(math.pi) * math.exp(-1 / 4) + math.erf(1 / 2)
    truth = 2 * apart - 2 * 2 / math.sqrt(math.pi)
    held = 0
    for seed in range(100):
        here = Cloud(points=Stream(2 * seed).normal(200, 1) + 1)
        there = Cloud(points=Stream(2 * seed + 1).normal(200, 1))
        found = Estimate.of(np.array(Yardstick(there).measures(here)["energy"]))
        held += found.low < truth < found.high
    assert 88 <= held <= 100  # 95 of 100; fewer than 88 has a chance of 1 in 300
