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
    UNKNOWN,
    Auxiliary,
    Condition,
    ConditionSource,
    FrozenTeacher,
    Gap,
    Gaps,
    Labels,
    NamedConditions,
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
        pooled=stream.normal(size, 6),
        image=stream.normal(size, 1, 2, 3),
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


@pytest.mark.parametrize("field", ["label", "embedding", "mask", "pooled", "image", "guidance"])
def test_every_field_of_a_condition_has_a_row_for_each_sample(field: str) -> None:
    with pytest.raises(ValueError, match=f"condition.{field} has 3 rows for 2 samples"):
        Condition(size=2, **{field: torch.ones(3)})


def test_conditions_of_different_fields_are_not_concatenated() -> None:
    with pytest.raises(ValueError, match="different fields"):
        Condition.cat([Condition(size=1), Condition(size=1, guidance=torch.ones(1))])


def test_a_condition_moves_as_a_whole() -> None:
    moved = condition_of(0, 3).to("meta")
    tensors = [each for each in attrs.astuple(moved) if isinstance(each, Tensor)]
    assert [str(each.device) for each in tensors] == ["meta"] * 6


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "classes must be a whole number, at least 1, found 0"),
        ((-3,), "classes must be a whole number, at least 1, found -3"),
        ((10.0,), "classes must be a whole number, at least 1, found 10.0"),
        ((True,), "classes must be a whole number, at least 1, found True"),
        (
            (10, 3),
            "null_label must be None or a whole number after the classes, at least 10, found 3",
        ),
        ((10, -1), "at least 10, found -1"),
        ((10, "10"), "at least 10, found '10'"),
    ],
)
def test_impossible_classes_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Labels(*arguments)


def test_classes_are_named_by_their_numbers() -> None:
    source = Labels(3, null_label=7)
    assert same(source.of(["2", "0"]), Condition(size=2, label=torch.tensor([2, 0])))
    assert list(source.names) == ["0", "1", "2"]
    assert source.texts(Condition(size=2, label=torch.tensor([2, 7]))) == ["2", "null"]
    for wrong in ("3", "7", "-1", "two", "1.0", ""):
        with pytest.raises(ValueError, match=f"must be classes from 0 to 2, found '{wrong}'"):
            source.of(["0", wrong])
    with pytest.raises(ValueError, match=r"no conditions to choose from, found \['0'\]"):
        Unconditional().of(["0"])
    assert Unconditional().texts(Condition(size=2)) == ["", ""]


def test_other_classes_have_other_fingerprints() -> None:
    sources = [Labels(3), Labels(4), Labels(3, 3), Labels(3, 4), Unconditional()]
    assert len({each.fingerprint() for each in sources}) == len(sources)
    assert Labels(3, 3).fingerprint() == Labels(3, 3).fingerprint() != UNKNOWN


def test_a_source_that_says_nothing_is_drawn_only_and_unidentified() -> None:
    class Drawn(Unconditional):
        of, texts = ConditionSource.of, ConditionSource.texts
        fingerprint = ConditionSource.fingerprint

    with pytest.raises(ValueError, match="Drawn has no names: its conditions can only be drawn"):
        Drawn().of(["a"])
    assert Drawn().texts(Condition(size=2)) == ["", ""]
    assert Drawn().fingerprint() == UNKNOWN


class Often(Labels):
    """The first class only."""

    def draw(self, draws: Draws) -> Condition:
        return Condition(size=len(draws), label=torch.zeros(len(draws), dtype=torch.long))


class First(NamedConditions):
    """The first condition only."""

    def draw(self, draws: Draws) -> Condition:
        return self.of([self.names[0]] * len(draws))


class Centred(NamedConditions):
    """Made in another way, and drawn in the same."""

    def __init__(self) -> None:
        super().__init__(["a"], Condition(size=1, pooled=torch.zeros(1, 2)))


def test_who_draws_otherwise_has_another_identity() -> None:
    assert Often(3).fingerprint() == UNKNOWN
    one = Centred()
    assert First(one.names, one.conditions).fingerprint() == UNKNOWN
    assert one.fingerprint() == NamedConditions(one.names, one.conditions).fingerprint()


# Conditions with names.


@given(seed=seeds, count=st.integers(1, 6))
def test_named_conditions_are_drawn_named_told_and_left_out(seed: int, count: int) -> None:
    rows, stream = condition_of(seed, count), Stream(seed + 1)
    rows = attrs.evolve(rows, guidance=None, pooled=stream.normal(count, 6))
    null = condition_of(seed + 2, 1)
    null = attrs.evolve(null, guidance=None)
    names = [f"pose {each}" for each in range(count)]
    source = NamedConditions(names, rows, null)
    assert same(source.of(names), rows)
    drawn = source.draw(Draws(seed, 0, 0, 50))
    assert same(source.of(source.texts(drawn)), drawn)
    assert {*source.texts(drawn)} <= {*names}
    assert same(source.null(drawn.at(2.0)), Condition.cat([null] * 50))
    assert source.texts(null) == ["null"]
    assert source.texts(attrs.evolve(null, pooled=null.pooled + 1)) == [""]


@pytest.mark.parametrize("field", ["label", "embedding", "mask", "pooled", "image"])
def test_named_conditions_are_identified_by_every_field(field: str) -> None:
    rows = condition_of(0, 3)
    changed = getattr(rows, field).clone()
    changed.view(-1)[-1] = ~changed.view(-1)[-1] if field == "mask" else 9
    other = attrs.evolve(rows, **{field: changed})
    names = ["a", "b", "c"]
    found = [
        NamedConditions(names, rows),
        NamedConditions(names, other),
        NamedConditions(["a", "c", "b"], rows),
        NamedConditions(names, rows, rows[:1]),
        NamedConditions(names, rows, other[2:]),
        NamedConditions(names, Condition(size=3, **{field: rows.tensors()[field]})),
    ]
    assert len({each.fingerprint() for each in found}) == len(found)
    assert NamedConditions(names, condition_of(0, 3)).fingerprint() == found[0].fingerprint()


def test_named_conditions_that_do_not_fit_are_refused() -> None:
    rows = Condition(size=2, pooled=torch.zeros(2, 3))
    for names in (["a"], ["a", "a"], [], ["a", "b", "c"]):
        with pytest.raises(ValueError, match="each of the 2 conditions needs a name of its own"):
            NamedConditions(names, rows)
    for null in (rows, Condition(size=1), Condition(size=1, pooled=torch.zeros(1, 4))):
        with pytest.raises(ValueError, match="must be of size 1 and have the fields"):
            NamedConditions(["a", "b"], rows, null)
    source = NamedConditions(["a", "b"], rows)
    with pytest.raises(ValueError, match=r"\('a', 'b'\), found 'c'"):
        source.of(["a", "c"])
    with pytest.raises(ValueError, match="no null condition"):
        source.null(rows)
    many = NamedConditions([str(n) for n in range(30)], Condition(size=30, label=torch.arange(30)))
    with pytest.raises(ValueError, match="'9' and 20 more"):
        many.of(["x"])


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
