"""What the strategies draw: within the ranges they promise, the ends met, and the same again."""

from typing import Any

import pytest
import torch
from healthy import Tutor
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.flow.flow_map import push
from ffcore.interfaces import Labels, Teacher
from ffcore.testing import strategies
from ffcore.testing.small import small_teacher

FEW = settings(max_examples=20)
TEACHERS: dict[str, Teacher] = {
    "vectors": Gaussian([0.0, 1.0, 2.0]),
    "vectors of classes": GaussianMixture([[0.0], [1.0]], labels=[0, 1]),
    "a network": Tutor(),
    "images of classes": small_teacher((1, 4, 4), 5),
}
teachers = pytest.mark.parametrize("teacher", TEACHERS.values(), ids=list(TEACHERS))


def reached(strategy: SearchStrategy[Any], wanted: Any) -> Any:
    """Draw until something is as `wanted`; hypothesis raises where nothing is."""
    return find(strategy, wanted, settings=settings(max_examples=500, phases=[Phase.generate]))


@FEW
@given(seed=strategies.seeds(), shape=strategies.shapes(), draws=strategies.draws())
def test_seeds_shapes_and_streams_are_small(seed: int, shape: Any, draws: Any) -> None:
    assert 0 <= seed < 2**31
    assert shape in strategies.SHAPES
    assert 1 <= len(draws) <= 9
    assert draws.normal("x", shape).shape == (len(draws), *shape)
    assert torch.equal(draws.normal("x", shape), draws.normal("x", shape))


@FEW
@given(draws=strategies.draws(size=st.just(33)))
def test_streams_are_as_long_as_is_asked(draws: Any) -> None:
    assert len(draws) == 33


@FEW
@given(data=st.data())
def test_times_and_durations_keep_to_their_range(data: Any) -> None:
    t = data.draw(strategies.times(5, low=0.1, high=0.9))
    delta = data.draw(strategies.durations(t))
    low, high = torch.tensor([0.1, 0.9])
    assert (t.shape, t.dtype, delta.shape) == ((5,), torch.float32, (5,))
    assert ((t >= low) & (t <= high)).all()
    assert ((delta >= 0) & (delta <= t)).all()


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_ends_are_met(end: float) -> None:
    reached(strategies.times(3), lambda t: bool((t == end).all()))
    reached(strategies.durations(torch.full((2,), 0.7)), lambda d: bool((d == 0.7 * end).all()))


@FEW
@given(teacher=strategies.exact_teachers())
def test_exact_teachers_are_vectors_whose_velocity_is_finite(teacher: Any) -> None:
    (dimension,) = teacher.sample_shape
    assert 1 <= dimension <= 4
    x, t = torch.zeros(2, dimension), torch.tensor([0.0, 1.0])
    assert teacher(x, t, teacher.conditions.draw(strategies.Draws(0, 0, 0, 2))).isfinite().all()


@pytest.mark.parametrize(
    ("kind", "classes"), [(Gaussian, None), (GaussianMixture, None), (GaussianMixture, 2)]
)
def test_exact_teachers_are_of_every_kind(kind: type, classes: int | None) -> None:
    def wanted(teacher: Teacher) -> bool:
        source = teacher.conditions
        found = source.classes if isinstance(source, Labels) else None
        return isinstance(teacher, kind) and found == classes

    reached(strategies.exact_teachers(), wanted)


@teachers
@FEW
@given(data=st.data())
def test_conditions_and_batches_are_the_teachers(teacher: Teacher, data: Any) -> None:
    condition = data.draw(strategies.conditions(teacher, 4))
    batch = data.draw(strategies.batches(teacher))
    assert condition.size == 4
    assert batch.z.shape == (len(batch.draws), *teacher.sample_shape)
    assert batch.condition.size == len(batch.z)
    assert batch.data is None
    assert teacher(batch.z, torch.ones(len(batch.z)), batch.condition).shape == batch.z.shape


@teachers
@FEW
@given(data=st.data())
def test_students_fit_their_teacher_and_leave_the_random_state(teacher: Teacher, data: Any) -> None:
    state = torch.get_rng_state()
    student, batch = (
        data.draw(strategies.small_students(teacher)),
        data.draw(strategies.batches(teacher)),
    )
    assert torch.equal(torch.get_rng_state(), state)
    t = data.draw(strategies.times(len(batch.z), low=0.01))
    delta = data.draw(strategies.durations(t))
    F = student(batch.z, t, delta, batch.condition)
    assert F.shape == batch.z.shape
    # A property of one's own: no time, no way.
    still = push(batch.z, student(batch.z, t, 0 * delta, batch.condition), 0 * delta)
    assert torch.equal(still, batch.z)


def test_a_strategy_that_misses_an_end_would_be_seen() -> None:
    from hypothesis.errors import NoSuchExample

    inner = strategies.times(3, low=0.1, high=0.9)
    with pytest.raises(NoSuchExample):
        reached(inner, lambda t: bool((t == 0).any()))
