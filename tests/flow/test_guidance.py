"""Guidance: u_γ = γ u(· | c) + (1 − γ) u(· | ∅), within an interval, at no cost outside it."""

from collections.abc import Callable

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inputs import MixtureCase, Stream, seeds, shapes
from networks import FieldTeacher
from torch import Tensor

from ffcore.flow.guidance import Guided
from ffcore.flow.path import expand_like
from ffcore.interfaces import Condition, FrozenTeacher, Labels, Teacher

Field = Callable[[Tensor, Tensor, Condition], Tensor]


def guided_case(seed: int, shape: tuple[int, ...] = (2,)) -> tuple[MixtureCase, Condition]:
    """A conditional case, and its condition with a scale of each sample, 1 among them."""
    case = MixtureCase.of(seed, shape, conditional=True)
    guidance = Stream(seed + 1).uniform(0.0, 4.0, 8)
    guidance[::4] = 1.0
    case = attrs.evolve(case, t=torch.linspace(0.05, 0.95, 8, dtype=torch.float64))
    return case, attrs.evolve(case.condition, guidance=guidance)


def follows_the_formula(
    guided: Field, case: MixtureCase, condition: Condition, interval: tuple[float, float]
) -> None:
    assert condition.guidance is not None
    conditional = case.teacher(case.x, case.t, case.condition)
    null = case.teacher.conditions.null(case.condition)
    unconditional = case.teacher(case.x, case.t, null)
    gamma = expand_like(condition.guidance, case.x)
    inside = expand_like((case.t >= interval[0]) & (case.t <= interval[1]), case.x)
    u = torch.where(inside, gamma * conditional + (1 - gamma) * unconditional, conditional)
    torch.testing.assert_close(guided(case.x, case.t, condition), u, rtol=1e-12, atol=1e-12)


@given(seed=seeds, shape=shapes, ends=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_guidance_follows_its_formula_inside_its_interval_only(
    seed: int, shape: tuple[int, ...], ends: tuple[float, float]
) -> None:
    case, condition = guided_case(seed, shape)
    interval = min(ends), max(ends)
    follows_the_formula(Guided(case.teacher, interval), case, condition, interval)


def with_one_scale(teacher: Teacher) -> Field:
    def field(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        assert condition.guidance is not None
        mean = condition.guidance.mean().expand(condition.size)
        velocity: Tensor = Guided(teacher, (0.2, 0.5))(x, t, attrs.evolve(condition, guidance=mean))
        return velocity

    return field


def swapped(teacher: Teacher) -> Field:
    def field(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        assert condition.guidance is not None
        other = attrs.evolve(condition, guidance=1 - condition.guidance)
        velocity: Tensor = Guided(teacher, (0.2, 0.5))(x, t, other)
        return velocity

    return field


@pytest.mark.parametrize(
    "wrong",
    [
        lambda teacher: Guided(teacher),
        lambda teacher: Guided(teacher, (0.5, 0.8)),
        with_one_scale,
        swapped,
    ],
    ids=["no interval", "interval reversed", "one scale for all", "branches swapped"],
)
def test_another_guidance_would_be_seen(wrong: Callable[[Teacher], Field]) -> None:
    case, condition = guided_case(1)
    with pytest.raises(AssertionError):
        follows_the_formula(wrong(case.teacher), case, condition, (0.2, 0.5))


def is_the_identity(guided: Field, case: MixtureCase, condition: Condition) -> None:
    """Bit for bit."""
    assert torch.equal(
        guided(case.x, case.t, condition), case.teacher(case.x, case.t, case.condition)
    )


@given(seed=seeds, shape=shapes)
def test_guidance_at_scale_one_is_the_identity(seed: int, shape: tuple[int, ...]) -> None:
    case = MixtureCase.of(seed, shape, conditional=True)
    for guidance in (None, torch.ones(8), torch.ones(8, dtype=torch.float64)):
        condition = attrs.evolve(case.condition, guidance=guidance)
        is_the_identity(Guided(case.teacher), case, condition)


@given(seed=seeds, shape=shapes)
def test_guidance_outside_its_interval_is_the_identity(seed: int, shape: tuple[int, ...]) -> None:
    case, condition = guided_case(seed, shape)  # its times end at 0.95
    is_the_identity(Guided(case.teacher, (0.96, 1.0)), case, condition)


def test_guidance_that_is_not_the_identity_would_be_seen() -> None:
    case, condition = guided_case(0)
    with pytest.raises(AssertionError):
        is_the_identity(Guided(case.teacher), case, condition)


def rows_asked(guided: Callable[[Teacher], Field], case: MixtureCase, condition: Condition) -> int:
    counting = FieldTeacher.around(case.teacher)
    guided(counting)(case.x, case.t, condition)
    return sum(len(x) for x, _, _ in counting.calls)


@given(seed=seeds, low=st.floats(0, 1))
def test_the_unconditional_branch_costs_only_where_it_counts(seed: int, low: float) -> None:
    case, condition = guided_case(seed)
    assert condition.guidance is not None
    inside = int(((case.t >= low) & (condition.guidance != 1)).sum())
    assert rows_asked(lambda teacher: Guided(teacher, (low, 1.0)), case, condition) == 8 + inside


def test_the_unguided_pay_for_no_second_branch() -> None:
    case, _ = guided_case(0)
    assert rows_asked(Guided, case, case.condition) == 8


def test_the_teacher_within_sees_no_scale() -> None:
    case, condition = guided_case(0)
    counting = FieldTeacher.around(case.teacher)
    Guided(counting)(case.x, case.t, condition)
    assert [asked.guidance for _, _, asked in counting.calls] == [None]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_only_the_leading_channels_are_guided(channels: int) -> None:
    case, condition = guided_case(0, (3, 2, 2))
    plain = case.teacher(case.x, case.t, case.condition)
    fully = Guided(case.teacher)(case.x, case.t, condition)
    partly = Guided(case.teacher, channels=channels)(case.x, case.t, condition)
    assert torch.equal(partly[:, :channels], fully[:, :channels])
    assert torch.equal(partly[:, channels:], plain[:, channels:])
    assert not torch.equal(fully[:, 2], plain[:, 2])


def test_both_ends_of_the_interval_are_guided() -> None:
    case, condition = guided_case(0)
    condition = attrs.evolve(condition, guidance=torch.full((8,), 2.0))
    t = torch.tensor([0.25, 0.75] * 4, dtype=torch.float64)
    found = Guided(case.teacher, (0.25, 0.75))(case.x, t, condition)
    assert torch.equal(found, Guided(case.teacher)(case.x, t, condition))


def test_another_interval_wraps_the_same_teacher() -> None:
    case, condition = guided_case(0, (3, 2, 2))
    guided = Guided(case.teacher, (0.0, 0.9), channels=2).within((0.2, 0.6))
    expected = Guided(case.teacher, (0.2, 0.6), channels=2)
    assert torch.equal(guided(case.x, case.t, condition), expected(case.x, case.t, condition))


def test_a_guided_teacher_passes_for_the_teacher_it_wraps() -> None:
    case, _ = guided_case(0)
    field = FieldTeacher.around(case.teacher)
    frozen = FrozenTeacher(field, (2,), Labels(3, null_label=3))
    guided = Guided(frozen)
    assert (guided.sample_shape, guided.conditions) == ((2,), Labels(3, null_label=3))
    assert isinstance(guided.trainable_copy(), FieldTeacher)  # unguided
    assert Guided(case.teacher).trainable_copy() is None


def test_a_teacher_without_null_label_is_not_guided() -> None:
    teacher = FieldTeacher(lambda x, t, c: x, (2,), Labels(3))
    condition = Condition(
        size=2, label=torch.zeros(2, dtype=torch.long), guidance=torch.full((2,), 2.0)
    )
    with pytest.raises(ValueError, match="no null label"):
        Guided(teacher)(torch.ones(2, 2), torch.ones(2), condition)


@pytest.mark.parametrize("interval", [(0.7, 0.2), (-0.1, 0.5), (0.5, 1.5)])
def test_an_interval_that_is_none_is_refused(interval: tuple[float, float]) -> None:
    case, _ = guided_case(0)
    with pytest.raises(ValueError, match="0 ≤ low ≤ high ≤ 1"):
        Guided(case.teacher, interval)


@pytest.mark.parametrize("channels", [0, 3])
def test_more_channels_than_there_are_cannot_be_guided(channels: int) -> None:
    case, _ = guided_case(0)
    with pytest.raises(ValueError, match=f"{channels} guided channels"):
        Guided(case.teacher, channels=channels)
