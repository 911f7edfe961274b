"""The values between the roles: conditions, gaps, the sources of conditions, wrapped teachers."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inputs import Stream, seeds, shapes
from networks import LinearStudent, LinearVelocity
from torch import Tensor, nn

from ffcore.draws import Draws
from ffcore.interfaces import (
    Auxiliary,
    Condition,
    FrozenTeacher,
    Gap,
    Gaps,
    Labels,
    Unconditional,
    VelocityField,
)
from ffcore.training.optimizer import Optimizer

Inner = Callable[[Gap, Tensor], Tensor]


# A gap is the gradient of half the squared error.


def is_half_the_squared_error(inner: Inner, seed: int, shape: tuple[int, ...]) -> None:
    """With gap = output − target, the gradient is that of Σ w ‖output − target‖² / 2d."""
    stream = Stream(seed)
    parameter = stream.normal(5, *shape).requires_grad_()
    target, weight = stream.normal(5, *shape), stream.uniform(0.1, 3.0, 5)

    def output() -> Tensor:
        return parameter.sin() + parameter.square()

    gap = Gap(output=output(), gap=(output() - target).detach())
    (found,) = torch.autograd.grad(inner(gap, weight), parameter)
    half_square = (output() - target).square().flatten(1).mean(1) / 2
    (expected,) = torch.autograd.grad((weight * half_square).sum(), parameter)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@given(seed=seeds, shape=shapes)
def test_a_gap_moves_the_output_as_half_its_squared_error_does(
    seed: int, shape: tuple[int, ...]
) -> None:
    is_half_the_squared_error(Gap.inner, seed, shape)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda gap, weight: 2 * gap.inner(weight),
        lambda gap, weight: -gap.inner(weight),
        lambda gap, weight: gap.inner(torch.ones_like(weight)),
        lambda gap, weight: gap.inner(weight / weight.sum()),
        lambda gap, weight: (gap.output * gap.gap).flatten(1).sum(1) @ weight,
    ],
    ids=["whole square", "ascent", "unweighted", "mean over samples", "sum over dimensions"],
)
def test_another_gradient_would_be_seen(wrong: Inner) -> None:
    with pytest.raises(AssertionError):
        is_half_the_squared_error(wrong, 0, (3,))


@given(seed=seeds, shape=shapes)
def test_the_norm_of_a_gap_is_per_dimension(seed: int, shape: tuple[int, ...]) -> None:
    gap = Stream(seed).normal(4, *shape)
    expected = torch.stack([each.norm() / each.numel() ** 0.5 for each in gap])
    torch.testing.assert_close(Gap(output=gap, gap=gap).norm(), expected, rtol=1e-12, atol=0)


def test_a_gap_carries_no_gradient() -> None:
    parameter = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match="detach"):
        Gap(output=parameter, gap=parameter * 2)


def test_a_gap_has_the_shape_of_its_output() -> None:
    with pytest.raises(ValueError, match=r"\(2, 1\) for an output of \(2, 3\)"):
        Gap(output=torch.ones(2, 3), gap=torch.ones(2, 1))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ((), "at least one Gap, found none"),
        ([Gap(output=torch.ones(2, 3), gap=torch.ones(2, 3))], "a tuple of Gap, found list"),
        (torch.ones(2, 3), "a tuple of Gap, found Tensor"),
        ((torch.ones(2, 3),), "a tuple of Gap, found Tensor in it"),
    ],
    ids=["none", "a list", "a tensor", "a tensor in a tuple"],
)
def test_an_answer_holds_a_tuple_of_gaps(found: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Gaps(gaps=found)


@pytest.mark.parametrize("name", ["output", "gap"])
def test_a_gap_is_of_tensors(name: str) -> None:
    tensors: dict[str, Any] = {"output": torch.ones(2, 3), "gap": torch.ones(2, 3)}
    with pytest.raises(TypeError, match=f"{name} of a Gap must be a tensor, found float"):
        Gap(**{**tensors, name: 0.5})


# Conditions.


def condition_of(seed: int, size: int) -> Condition:
    stream = Stream(seed)
    return Condition(
        size=size,
        label=stream.integers(5, size),
        embedding=stream.normal(size, 3, 4),
        mask=stream.integers(2, size, 3).bool(),
        guidance=stream.uniform(1, 3, size),
    )


def same(a: Condition, b: Condition) -> bool:
    pairs = zip(attrs.astuple(a), attrs.astuple(b), strict=True)
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in pairs)


@given(seed=seeds, size=st.integers(1, 9), data=st.data())
def test_the_parts_of_a_condition_make_the_whole(seed: int, size: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, size))
    whole = condition_of(seed, size)
    assert [whole[:cut].size, whole[cut:].size] == [cut, size - cut]
    assert same(Condition.cat([whole[:cut], whole[cut:]]), whole)


@given(seed=seeds, size=st.integers(1, 9))
def test_a_mask_chooses_the_samples_that_its_indices_choose(seed: int, size: int) -> None:
    whole, mask = condition_of(seed, size), Stream(seed + 1).integers(2, size).bool()
    chosen = whole[mask]
    assert chosen.size == int(mask.sum())
    assert same(chosen, whole[mask.nonzero().squeeze(1)])
    assert chosen.label is not None
    assert whole.label is not None
    assert torch.equal(chosen.label, whole.label[mask])


@pytest.mark.parametrize("field", ["label", "embedding", "mask", "guidance"])
def test_every_field_of_a_condition_has_a_row_for_each_sample(field: str) -> None:
    with pytest.raises(ValueError, match=f"condition.{field} has 3 rows for 2 samples"):
        Condition(size=2, **{field: torch.ones(3)})


def test_conditions_of_different_fields_are_not_concatenated() -> None:
    with pytest.raises(ValueError, match="different fields"):
        Condition.cat([Condition(size=1), Condition(size=1, guidance=torch.ones(1))])


def test_a_condition_moves_as_a_whole() -> None:
    moved = condition_of(0, 3).to("meta")
    tensors = [each for each in attrs.astuple(moved) if isinstance(each, Tensor)]
    assert [str(each.device) for each in tensors] == ["meta"] * 4


def test_labels_are_drawn_evenly_and_never_the_null_one() -> None:
    condition = Labels(4, null_label=4).draw(Draws(0, 0, 0, 4000))
    assert condition.label is not None
    counts = condition.label.bincount()
    assert len(counts) == 4
    assert ((counts - 1000).abs() < 5 * (4000 * 0.25 * 0.75) ** 0.5).all()  # 5 σ
    assert condition.guidance is None


def test_the_null_condition_is_unguided_and_keeps_the_rest() -> None:
    condition = condition_of(0, 3)
    null = Labels(5, null_label=5).null(condition)
    assert same(null, attrs.evolve(condition, label=torch.full((3,), 5), guidance=None))


def test_what_has_no_null_condition_cannot_be_guided() -> None:
    with pytest.raises(ValueError, match="no null label"):
        Labels(4).null(condition_of(0, 2))
    with pytest.raises(ValueError, match="unconditional"):
        Unconditional().null(Condition(size=2))
    with pytest.raises(ValueError, match="the condition has none"):
        Labels(4, null_label=4).null(Condition(size=2))


def test_without_conditions_only_the_size_is_drawn() -> None:
    assert same(Unconditional().draw(Draws(0, 0, 3, 8)), Condition(size=5))


# Teachers made of something else.


def test_a_frozen_teacher_is_out_of_reach_of_training() -> None:
    field = LinearVelocity(2).train()
    teacher = FrozenTeacher(field, (2,), Unconditional())
    assert not any(module.training for module in teacher.field.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    u = teacher(torch.ones(1, 2), torch.zeros(1), Condition(size=1))
    assert torch.equal(u, torch.ones(1, 2))


def test_the_trainable_copy_shares_nothing_with_its_teacher() -> None:
    teacher = FrozenTeacher(LinearVelocity(2).half(), (2,), Unconditional())
    copied = teacher.trainable_copy()
    assert all(p.requires_grad and p.dtype == torch.float32 for p in copied.parameters())
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    assert torch.equal(teacher.field.A, torch.eye(2).half())
    assert not teacher.field.A.requires_grad


def test_a_plain_function_is_a_teacher() -> None:
    teacher = VelocityField.of(lambda x, t, condition: x * t[:, None], [3])
    u = teacher(torch.ones(2, 3), torch.tensor([0.5, 1.0]), Condition(size=2))
    assert torch.equal(u, torch.tensor([[0.5] * 3, [1.0] * 3]))
    assert teacher.sample_shape == (3,)
    assert isinstance(teacher.conditions, Unconditional)
    assert teacher.trainable_copy() is None


def test_a_plain_function_may_have_classes() -> None:
    def velocity(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        del t
        assert condition.label is not None
        return x * condition.label[:, None]

    teacher = VelocityField.of(velocity, [2], Labels(3, null_label=3))
    condition = teacher.conditions.draw(Draws(0, 0, 0, 8))
    assert condition.label is not None
    x = torch.ones(8, 2)
    assert torch.equal(teacher(x, torch.ones(8), condition)[:, 0], condition.label.float())
    assert bool((teacher.conditions.null(condition).label == 3).all())


def loss(network: nn.Module, samples: Tensor, condition: Condition, draws: Draws) -> Tensor:
    del network, condition, draws
    return samples


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"optimizer": Optimizer()},
        {"loss": loss},
        {"optimizer": Optimizer(), "loss": loss, "ema_decay": 0.9},
    ],
    ids=["nothing", "no loss", "no optimizer", "both ways"],
)
def test_an_auxiliary_learns_in_one_of_two_ways(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="either an optimizer and a loss, or an ema_decay"):
        Auxiliary(network=LinearStudent(1), **arguments)
