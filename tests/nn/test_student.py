"""The transformer as a student: what it is before training, for every family and both starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from inputs import Stream
from torch import Tensor, nn

from ffcore.draws import Draws
from ffcore.flow.derivative import Derivative
from ffcore.flow.derivative_check import self_check
from ffcore.interfaces import Condition, Context, FrozenTeacher, Unconditional
from ffcore.keys import ImpossibleValue
from ffcore.nn.size import TransformerSize
from ffcore.nn.student import TransformerStudent
from ffcore_dit.tables import DiTStudent, DiTTeacher
from ffcore_mlp.student import MlpVelocity
from ffcore_repa.tables import RepaStudent, RepaTeacher
from ffcore_sit.tables import SiTNetwork, SiTStudent, SiTTeacher

SIZE = TransformerSize(
    input_size=4, patch_size=2, channels=2, width=16, depth=2, heads=2, classes=3
)
FAMILIES: dict[str, tuple[Any, Any]] = {
    "sit": (SiTTeacher, SiTStudent),
    "repa": (RepaTeacher, RepaStudent),
    "dit": (DiTTeacher, DiTStudent),
}
VELOCITIES = ["sit", "repa"]
STARTS = ["euler", "teacher-time"]


def filled(network: nn.Module) -> None:
    """Give every parameter that starts at zero another value, as training would."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.2)


def teacher_of(family: str, size: TransformerSize = SIZE) -> FrozenTeacher:
    torch.manual_seed(0)
    built = FAMILIES[family][0](sizes=size).build(Context())
    assert isinstance(built, FrozenTeacher)
    filled(built)
    return built.double()


def student_of(
    teacher: FrozenTeacher, family: str, start: Any = "euler", **context: Any
) -> TransformerStudent:
    built = FAMILIES[family][1](start=start).build(Context(teacher=teacher, **context))
    assert isinstance(built, TransformerStudent)
    return built.double()


def inputs(size: int = 5) -> tuple[Tensor, Tensor, Condition]:
    stream = Stream(0)
    condition = Condition(size=size, label=stream.integers(3, size))
    return stream.normal(size, 2, 4, 4), stream.uniform(0, 1, size), condition


Expected = Callable[[FrozenTeacher, Tensor, Tensor, Condition], Tensor]
EXPECTED: dict[str, Expected] = {
    "euler": lambda u, z, delta, c: u(z, torch.ones_like(delta), c),
    "teacher-time": lambda u, z, delta, c: u(z, 1 - delta, c),
}


def starts_at(
    family: str, start: Any, expected: Expected, delta: Tensor | None = None, **context: Any
) -> None:
    teacher = teacher_of(family)
    student = student_of(teacher, family, start, **context)
    z, drawn, condition = inputs()
    delta = drawn if delta is None else delta
    guided = attrs.evolve(condition, guidance=1 + drawn)
    F = student(z, torch.ones_like(delta), delta, guided)
    torch.testing.assert_close(F, expected(teacher, z, delta, condition), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("guidance_range", [None, (1.0, 3.0)])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("family", VELOCITIES)
def test_a_new_student_is_what_its_start_says_for_every_duration_and_scale(
    family: str, start: str, guidance_range: Any
) -> None:
    starts_at(family, start, EXPECTED[start], guidance_range=guidance_range)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("family", VELOCITIES)
def test_without_duration_a_new_student_is_the_velocity_at_the_prior(
    family: str, start: str
) -> None:
    starts_at(family, start, EXPECTED["euler"], torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("start", "wrong"),
    [
        ("euler", EXPECTED["teacher-time"]),
        ("teacher-time", EXPECTED["euler"]),
        ("teacher-time", lambda u, z, delta, c: u(z, delta, c)),
        ("euler", lambda u, z, delta, c: u(z, torch.zeros_like(delta), c)),
        ("euler", lambda u, z, delta, c: -EXPECTED["euler"](u, z, delta, c)),
    ],
    ids=["time that runs", "time that stands", "time reversed", "at the data", "sign"],
)
@pytest.mark.parametrize("family", VELOCITIES)
def test_another_start_would_be_seen(family: str, start: str, wrong: Expected) -> None:
    with pytest.raises(AssertionError):
        starts_at(family, start, wrong)


@pytest.mark.parametrize("start", STARTS)
def test_a_student_of_a_noise_predictor_starts_from_zero_with_the_teachers_body(
    start: str,
) -> None:
    starts_at("dit", start, lambda u, z, delta, c: torch.zeros_like(z))
    teacher = teacher_of("dit")
    there = teacher.state_dict()
    here = student_of(teacher, "dit", start).state_dict()
    shared = [name for name in here if name.startswith("velocity.transformer.")]
    assert len(shared) > 20
    for name in shared:
        same = torch.equal(here[name], there[name.replace("velocity.", "field.network.")])
        assert same != name.startswith("velocity.transformer.final_layer.linear."), name


def test_a_student_of_a_noise_predictor_never_predicts_noise() -> None:
    """Trained by one step on velocity gaps alone, it moves along them, in velocity units."""
    teacher = teacher_of("dit")
    student = student_of(teacher, "dit")
    z, delta, condition = inputs()
    ones, gap = torch.ones_like(delta), Stream(1).normal(5, 2, 4, 4)
    (student(z, ones, delta, condition) * gap).sum().backward()
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.grad is not None:
                parameter.sub_(1e-3 * parameter.grad)
    moved = student(z, ones, delta, condition).detach()
    assert float((moved * gap).sum()) < 0
    assert float(moved.abs().max()) < 10  # ε ↦ u would amplify it 157-fold at t = 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_student_reads_the_scale(family: str) -> None:
    teacher = teacher_of(family)
    student = student_of(teacher, family, guidance_range=(1.0, 3.0))
    filled(student)
    z, delta, condition = inputs()
    ones = torch.ones_like(delta)

    def at(scale: float | None) -> Tensor:
        gamma = None if scale is None else torch.full((5,), scale)
        out: Tensor = student(z, ones, delta, attrs.evolve(condition, guidance=gamma))
        return out

    assert ((at(1.0) - at(3.0)).flatten(1).abs().amax(1) > 1e-4).all()
    assert torch.equal(at(None), at(1.0))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_of_one_scale_has_no_input_for_it(family: str) -> None:
    student = student_of(teacher_of(family), family)
    assert not any("guidance" in name for name, _ in student.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_copy_to_train_reads_the_scale_where_it_must(family: str) -> None:
    teacher = teacher_of(family)
    z, t, condition = inputs()
    plain, reads = (teacher.trainable_copy(takes_guidance=it).double() for it in (False, True))
    guided = attrs.evolve(condition, guidance=torch.full((5,), 2.0))
    assert torch.equal(plain(z, t, condition), reads(z, t, guided))
    filled(reads)
    assert not torch.equal(reads(z, t, condition), reads(z, t, guided))
    assert torch.equal(plain(z, t, condition), plain(z, t, guided))


@pytest.mark.parametrize("family", VELOCITIES)
def test_the_copy_to_train_is_the_unguided_teacher(family: str) -> None:
    teacher = teacher_of(family)
    z, t, condition = inputs()
    copied = teacher.trainable_copy().double()  # by way of float32
    torch.testing.assert_close(
        copied(z, t, condition), teacher(z, t, condition), rtol=1e-5, atol=1e-6
    )


def test_the_copy_of_a_noise_predictor_is_a_velocity_that_starts_from_zero() -> None:
    copied = teacher_of("dit").trainable_copy().double()
    z, t, condition = inputs()
    assert not copied(z, t, condition).any()


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_trains_apart_from_its_teacher(family: str, start: Any) -> None:
    teacher = teacher_of(family)
    student = student_of(teacher, family, start)
    z, delta, condition = inputs()
    before = teacher(z, delta, condition)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1)
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert torch.equal(teacher(z, delta, condition), before)


@pytest.mark.parametrize(
    ("family", "start"), [(f, s) for f in FAMILIES for s in STARTS if (f, s) != ("dit", STARTS[1])]
)
def test_a_trained_student_depends_on_the_duration_smoothly(family: str, start: Any) -> None:
    student = student_of(teacher_of(family), family, start)
    filled(student)
    z, delta, condition = inputs()
    ones = torch.ones_like(delta)
    moved = student(z, ones, delta, condition) - student(z, ones, delta / 2, condition)
    assert (moved.flatten(1).abs().amax(1) > 1e-4).all()
    for derivative in (Derivative(backend="dual"), Derivative(backend="finite-difference")):
        error = self_check(student, derivative, z, condition, Draws(0, 0, 0, 5)).error
        assert error < 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_does_not_depend_on_the_rest_of_the_batch(family: str) -> None:
    teacher = teacher_of(family)
    student = student_of(teacher, family)
    filled(student)
    z, delta, condition = inputs()
    parts = [slice(i, i + 1) for i in range(5)]
    for network in (
        lambda i: teacher(z[i], delta[i], condition[i]),
        lambda i: student(z[i], torch.ones_like(delta[i]), delta[i], condition[i]),
    ):
        alone = torch.cat([network(i) for i in parts])
        torch.testing.assert_close(network(slice(None)), alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_count_in_both(family: str) -> None:
    teacher = teacher_of(family)
    student = student_of(teacher, family)
    filled(student)
    z, delta, condition = inputs()
    assert condition.label is not None
    other = attrs.evolve(condition, label=(condition.label + 1) % 4)
    ones = torch.ones_like(delta)
    for moved in (
        teacher(z, delta, other) - teacher(z, delta, condition),
        student(z, ones, delta, other) - student(z, ones, delta, condition),
    ):
        assert (moved.flatten(1).abs().amax(1) > 1e-4).all()


def test_a_network_without_classes_needs_no_labels() -> None:
    teacher = teacher_of("sit", attrs.evolve(SIZE, classes=None)).float()
    assert isinstance(teacher.conditions, Unconditional)
    z, delta, _ = inputs()
    assert teacher(z.float(), delta.float(), Condition(size=5)).shape == z.shape
    student = SiTStudent().build(Context(teacher=teacher))
    ones = torch.ones(5)
    assert student(z.float(), ones, delta.float(), Condition(size=5)).shape == z.shape


def test_only_a_teacher_of_its_family_starts_a_student() -> None:
    other = FrozenTeacher(MlpVelocity(2, 0, width=4, depth=1), (2, 4, 4), Unconditional())
    with pytest.raises(ValueError, match="needs a sit teacher to start from"):
        SiTStudent().build(Context(teacher=other))
    assert SiTStudent().needs == {"sit"}
    assert RepaTeacher(sizes=SIZE).offers == {"trainable copy", "repa"}


# A student that starts anywhere.


def anywhere(
    family: str, teacher: FrozenTeacher | None = None, **context: Any
) -> TransformerStudent:
    context = {"teacher": teacher or teacher_of(family), **context}
    built = FAMILIES[family][1](starts_at="anywhere").build(Context(**context))
    assert isinstance(built, TransformerStudent)
    return built.double()


def from_anywhere(size: int = 5) -> tuple[Tensor, Tensor, Tensor, Condition]:
    z, share, condition = inputs(size)
    t = Stream(2).uniform(0.1, 0.95, size)
    return z, t, share * t, condition


def equals_the_velocity(family: str, at: Callable[[Tensor, Tensor], Tensor]) -> None:
    teacher = teacher_of(family)
    student = anywhere(family, teacher, guidance_range=(1.0, 3.0))
    x_t, t, delta, condition = from_anywhere()
    guided = attrs.evolve(condition, guidance=1 + t)
    for duration in (0 * delta, delta, t):
        F = student(x_t, t, duration, guided)
        expected = teacher(x_t, at(t, delta), condition)
        torch.testing.assert_close(F, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", VELOCITIES)
def test_from_anywhere_a_new_student_is_the_velocity_for_every_duration(family: str) -> None:
    equals_the_velocity(family, lambda t, delta: t)


@pytest.mark.parametrize("family", VELOCITIES)
@pytest.mark.parametrize("wrong", [lambda t, delta: torch.ones_like(t), lambda t, delta: t - delta])
def test_a_new_student_of_another_time_would_be_seen(family: str, wrong: Any) -> None:
    with pytest.raises(AssertionError):
        equals_the_velocity(family, wrong)


@pytest.mark.parametrize("family", FAMILIES)
def test_from_anywhere_every_convention_is_that_of_the_start(family: str) -> None:
    """Its head filled, DiT's too: c_in and c_noise are those of t."""
    student = anywhere(family)
    filled(student.velocity)
    x_t, t, delta, condition = from_anywhere()
    expected = student.velocity(x_t, t, condition)
    assert torch.equal(student(x_t, t, delta, condition), expected)
    assert not torch.equal(student.velocity(x_t, torch.ones_like(t), condition), expected)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_from_anywhere_it_is_differentiable_in_point_time_and_duration(
    family: str, which: int
) -> None:
    student = anywhere(family)
    filled(student)
    *primals, condition = from_anywhere()
    _, t, delta = primals
    tangents = [torch.zeros_like(each) for each in primals]
    tangents[which] = torch.ones_like(primals[which])

    def function(*moved: Tensor) -> Tensor:
        output: Tensor = student(*moved, condition)
        return output

    room = (torch.minimum(delta, t - delta), 1 - t)
    given = {"value": function(*primals), "room": room}
    exact = Derivative(backend="dual")(function, primals, tangents, **given)
    # DiT's time has a thousand steps, and reaches its embedding in float32.
    step, tolerance = (1e-4, 1e-2) if (family, which) == ("dit", 1) else (1e-4, 1e-5)
    central = Derivative(backend="finite-difference", step=step, scheme="central")
    found = central(function, primals, tangents, **given)
    assert exact.norm() > 0.01
    assert (found - exact).norm() < tolerance * exact.norm()


def test_from_anywhere_there_is_no_teachers_time() -> None:
    with pytest.raises(ImpossibleValue, match="'euler', because with starts_at"):
        SiTStudent(start="teacher-time", starts_at="anywhere")
    velocity = student_of(teacher_of("sit"), "sit").velocity
    with pytest.raises(ValueError, match="reads t"):
        TransformerStudent(velocity, "teacher-time", "anywhere")


def test_where_it_starts_is_what_a_table_offers() -> None:
    assert SiTStudent().offers == frozenset()
    assert SiTStudent(starts_at="anywhere").offers == {"student starts anywhere"}


# A student of sizes of its own.


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_of_its_own_size_starts_from_zero_under_any_teacher(family: str) -> None:
    teacher = teacher_of("sit").float()
    own = attrs.evolve(SIZE, width=8, depth=1)
    table = FAMILIES[family][1](sizes=own)
    assert table.needs == frozenset()
    student = table.build(Context(teacher=teacher))
    z, delta, condition = (each for each in inputs())
    assert student.size == own
    assert not student(z.float(), torch.ones(5), delta.float(), condition).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"input_size": 8}, "sizes are for samples"), ({"classes": 5}, "sizes.classes is 5")],
)
def test_sizes_that_do_not_suit_the_teacher_are_refused(
    changes: dict[str, int], message: str
) -> None:
    teacher = teacher_of("sit")
    for table in (SiTStudent, SiTNetwork):
        with pytest.raises(ValueError, match=message):
            table(sizes=attrs.evolve(SIZE, **changes)).build(Context(teacher=teacher))


def test_the_ablations_student_is_the_published_size_b() -> None:
    context = Context(meta=True)
    teacher = SiTTeacher(model="XL/2", image_size=512).build(context)
    student = SiTStudent(model="B/2").build(Context(teacher=teacher, meta=True))
    assert isinstance(student, TransformerStudent)
    assert (student.size.width, student.size.depth, student.size.input_size) == (768, 12, 64)
    assert {parameter.device.type for parameter in student.parameters()} == {"meta"}


@pytest.mark.parametrize("keys", [{"start": "teacher-time"}, {"starts_at": "anywhere"}])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_is_rebuilt_without_its_teacher(family: str, keys: dict[str, Any]) -> None:
    teacher = teacher_of(family).float()
    table = FAMILIES[family][1](**keys)
    student = table.build(Context(teacher=teacher, guidance_range=(1.0, 2.0)))
    alone = table.alone(student)
    stranger = teacher_of("repa" if family == "sit" else "sit").float()
    again = alone.build(Context(teacher=stranger, guidance_range=(1.0, 2.0)))
    assert again.starts_at == student.starts_at
    filled(student)
    again.load_state_dict(student.state_dict())
    x_t, t, delta, condition = from_anywhere()
    x_t, t, delta = x_t.float(), t.float(), delta.float()
    assert torch.equal(again(x_t, t, delta, condition), student(x_t, t, delta, condition))
