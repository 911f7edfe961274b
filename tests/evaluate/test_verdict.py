"""What a student is worth: the teacher's own steps in their places, faults by their names."""

from collections.abc import Callable, Mapping

import pytest
import torch
from inputs import Stream
from torch import Tensor

from ffcore.evaluate.distribution import DRAWS, Cloud, Replicates, Yardstick
from ffcore.evaluate.prior import Measurement, prior
from ffcore.evaluate.verdict import (
    MEASURES,
    Ladder,
    Standing,
    Worth,
    standing,
    verdict,
    worth,
)
from ffcore.flow.exact import GaussianMixture
from ffcore.flow.ode import integrate
from ffcore.flow.solver import Solver

SIX = [(3.0 * torch.tensor([torch.pi * k / 3]).cos().item(), 3.0 * (k % 3) - 3) for k in range(6)]
TEACHER = GaussianMixture(SIX, 0.1, labels=[0, 0, 0, 1, 1, 1])
EXACT = Solver("heun", 64)


def made(solver: Solver, purpose: str, number: int = 2000, seed: int = 0) -> Cloud:
    measurement = Measurement(samples=number, seed=seed, batch=number)
    ((z, condition),) = prior(TEACHER, measurement, purpose)
    return Cloud(points=integrate(TEACHER, z, condition, solver), labels=condition.label)


class Judge:
    """The teacher's ladder, and verdicts on students in one step."""

    def __init__(self, number: int = 2000, euler: tuple[int, ...] = (1, 2, 4, 8, 16)) -> None:
        self.number = number
        self.yardstick = Yardstick(made(EXACT, "reference", number))
        floor = self.yardstick.measures(made(EXACT, "floor", number))
        at = {
            k: self.yardstick.measures(made(Solver("euler", k), "student", number)) for k in euler
        }
        self.ladders = {
            name: Ladder(floor=each, euler={k: found[name] for k, found in at.items()})
            for name, each in floor.items()
        }

    def standings(self, student: Cloud) -> dict[str, Standing]:
        found = self.yardstick.measures(student)
        return {n: standing(n, {1: found[n]}, each) for n, each in self.ladders.items()}

    def __call__(self, student: Cloud):
        return verdict({"raw": self.standings(student)}, 1, self.number)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.mark.parametrize("steps", [3, 6, 12])
def test_the_teacher_s_own_euler_steps_are_worth_their_number(judge: Judge, steps: int) -> None:
    found = judge(made(Solver("euler", steps), "student"))
    assert found.limited_by is not None
    assert found.low <= steps * 1.1
    assert steps * 0.9 <= found.high < 2 * found.low


def test_samples_of_the_teacher_are_told_from_it_by_no_measure(judge: Judge) -> None:
    for seed in range(5):
        found = judge(made(EXACT, "student", seed=1 + seed))
        assert found.limited_by is None
        assert found.low >= 8
        assert found.sentence.endswith("no measure tells it from the converged teacher")


def blurred(exact: Cloud) -> Tensor:
    return exact.points + 0.2 * Stream(0).normal(*exact.points.shape).float()


def contracted(exact: Cloud) -> Tensor:
    centres = torch.tensor(SIX)
    nearest = centres[torch.cdist(exact.points, centres).argmin(1)]
    return nearest + 0.5 * (exact.points - nearest)


def one_mode_lost(exact: Cloud) -> Tensor:
    lost = torch.cdist(exact.points, torch.tensor(SIX)).argmin(1) == 0
    return torch.where(lost[:, None], exact.points - torch.tensor(SIX[0]) + torch.tensor(SIX[1]),
                       exact.points)  # fmt: skip


def one_class_without_variety(exact: Cloud) -> Tensor:
    assert exact.labels is not None
    one = exact.points[exact.labels == 1]
    here = exact.points.clone()
    here[exact.labels == 1] = one[torch.arange(len(one)) % 40]
    return here


@pytest.mark.parametrize(
    ("spoilt", "measures"),
    [
        (blurred, {"sharpness"}),
        (contracted, {"sharpness", "coverage"}),
        (one_mode_lost, {"coverage", "class", "class_coverage"}),
        (one_class_without_variety, {"coverage", "class", "class_coverage"}),
    ],
)
def test_a_fault_is_told_by_the_measure_that_sees_it(
    judge: Judge, spoilt: Callable[[Cloud], Tensor], measures: set[str]
) -> None:
    exact = made(EXACT, "student")
    found = judge(Cloud(points=spoilt(exact), labels=exact.labels))
    assert found.limited_by in measures
    assert found.high < 8
    assert MEASURES[str(found.limited_by)].title in found.sentence


def test_classes_that_are_swapped_are_seen_though_all_samples_together_are_right(judge: Judge):
    exact = made(EXACT, "student")
    found = judge(Cloud(points=exact.points, labels=1 - exact.labels))
    assert found.limited_by == "class"
    assert found.high <= 1
    assert found.sentence == "one step is worth less than 1 Euler step (limited by worst class)"


def test_few_samples_never_make_a_verdict_finer() -> None:
    """A hundred samples of the teacher itself are not worth what two thousand can show."""
    few = Judge(100)
    found = few(made(EXACT, "student", 100))
    assert found.high is None
    assert found.low <= 4
    assert found.sentence.startswith(f"one step is worth {int(found.low)} or more Euler steps")


def test_noise_alone_is_no_ladder() -> None:
    same: Replicates = tuple(0.1 + 0.01 * (-1) ** k for k in range(1 + DRAWS))
    ladder = Ladder(floor=same, euler={1: same, 2: same})
    found = worth("energy", same, ladder)
    assert found == Worth(text="not ordered", low=None, high=None, at=None, told=False, orders=0)
    place = standing("energy", {1: same}, ladder)
    told = verdict({"raw": {"energy": place}}, 1, 200)
    assert told.sentence.startswith("no verdict: 200 samples do not tell")
    assert told.low is None


def test_a_student_that_is_worse_than_every_step_is_told_though_steps_are_not_ordered() -> None:
    """Few Euler steps exaggerate classes: accuracy does not order them, but sees a poor student."""
    euler = {1: still(1.0), 2: still(0.99)}
    ladder = Ladder(floor=still(0.98, 1e-3), euler=euler)
    poor = standing("accuracy", {1: still(0.5, 1e-3)}, ladder)
    assert poor.worth[1].text == "less than 1"
    assert verdict({"raw": {"accuracy": poor}}, 1, 200).sentence == (
        "one step is worth less than 1 Euler step (limited by class accuracy)"
    )
    assert not worth("accuracy", still(0.98, 1e-3), ladder).told


def still(value: float, spread: float = 0.0) -> Replicates:
    """Replicates of a value with a jackknife error of about 3 · spread."""
    return (value, *(value + spread * (-1) ** k for k in range(DRAWS)))


def test_without_euler_steps_there_is_no_verdict() -> None:
    alone = standing("energy", {1: still(0.1)}, Ladder(floor=still(0.0), euler={}))
    told = verdict({"raw": {"energy": alone}}, 1, 200)
    assert told.sentence == "no verdict: evaluation.euler names no steps to compare with"


def placed(name: str, student: float, floor: float, euler: Mapping[int, float]) -> Worth:
    ladder = Ladder(floor=still(floor), euler={k: still(each) for k, each in euler.items()})
    return worth(name, still(student, 1e-6), ladder)


def test_a_place_between_two_rungs_follows_a_power_law() -> None:
    euler = {1: 8.1, 2: 4.1, 4: 2.1, 8: 1.1}
    for steps in (1.5, 2.5, 6.0):
        found = placed("energy", 0.1 + 8 / steps, 0.1, euler)
        assert found.at == pytest.approx(steps, rel=0.05)
        assert found.low <= steps <= found.high * 1.05
    assert placed("energy", 0.1 + 8 / 0.3, 0.1, euler).at == pytest.approx(0.3, rel=0.05)
    assert placed("energy", 0.2, 0.1, euler).text == "8 or more"


def test_sharper_than_the_teacher_is_no_better_than_blurred() -> None:
    euler = {1: 2.0, 2: 0.5, 4: 0.8, 8: 0.9}
    for ratio in (1.5, 1 / 1.5):
        found = placed("sharpness", ratio, 1.0, euler)
        assert 2 < found.low <= found.high < 4


def test_a_measure_that_crosses_its_floor_on_the_way_orders_steps_by_the_worst_to_come() -> None:
    """At 2 Euler steps the sharpness is right by accident: 4 are further off."""
    euler = {1: 3.0, 2: 1.0, 4: 0.6, 8: 0.85}
    found = placed("sharpness", 1.4, 1.0, euler)
    assert 4 < found.low <= found.high < 8
    assert placed("sharpness", 1.0, 1.0, euler).low is None


def test_a_teacher_that_makes_the_same_sample_always_has_a_place_for_its_copy() -> None:
    found = placed("sharpness", 0.0, 0.0, {1: 3.0, 2: 1.0})
    assert not found.told
    assert found.orders == 2
    assert placed("sharpness", 1.0, 0.0, {1: 3.0, 2: 0.5}).told


def test_a_twentieth_of_a_nearest_distance_is_no_difference() -> None:
    euler = {1: 3.0, 2: 1.6, 4: 1.03}
    assert not placed("sharpness", 1.04, 1.0, euler).told
    assert placed("sharpness", 1.2, 1.0, euler).told
    assert placed("sharpness", 1.0, 1.0, euler).orders == 2


def test_the_verdict_is_the_worst_measure_of_all_spaces_by_name() -> None:
    euler = {k: still(8 / k) for k in (1, 2, 4, 8)}
    ladder = Ladder(floor=still(0.0), euler=euler)
    good, poor = still(8 / 7.9, 1e-6), still(8 / 2.5, 1e-6)
    spaces = {
        "a": {"energy": standing("energy", {1: good, 4: good}, ladder)},
        "b": {"frechet": standing("frechet", {1: poor, 4: good}, ladder)},
    }
    assert verdict(spaces, 1, 2000).sentence == (
        "one step is worth 2 to 3 Euler steps (limited by Fréchet distance in features b)"
    )
    assert verdict(spaces, 4, 2000).sentence.startswith("4 steps are worth 7 to 8 Euler steps")


def test_a_blur_that_takes_coverage_with_it_is_called_a_blur() -> None:
    ladder = Ladder(floor=still(1.0), euler={1: still(1.5), 2: still(1.3), 4: still(1.1)})
    steep = Ladder(floor=still(1.0), euler={1: still(9.0), 2: still(4.0), 4: still(2.0)})
    for blur, limited in ((1.6, "sharpness"), (1.2, "coverage")):
        measures = {
            "sharpness": standing("sharpness", {1: still(blur, 1e-6)}, steep),
            "coverage": standing("coverage", {1: still(1.4, 1e-6)}, ladder),
        }
        found = verdict({"raw": measures}, 1, 2000)
        assert found.limited_by == limited
        assert found.low == measures["coverage"].worth[1].low  # the worst place all the same


def test_an_interval_widens_the_place() -> None:
    ladder = Ladder(floor=still(0.0), euler={k: still(8 / k) for k in (1, 2, 4, 8)})
    sure, unsure = (worth("energy", still(8 / 3, s), ladder) for s in (1e-3, 0.1))
    assert unsure.low < sure.low <= sure.high < unsure.high
