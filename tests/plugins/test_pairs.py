"""The predictor on solved pairs: exact flows, guidance, precision, repetition, cost and memory."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from distillations import contents, ends_as
from hypothesis import given
from hypothesis import strategies as st
from inputs import GaussianCase, seeds, shapes
from networks import ExactStudent, FieldTeacher
from objectives import Even
from torch import Tensor

from ffcore.cost import Cost
from ffcore.draws import Draws
from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.flow.guidance import Guided
from ffcore.flow.ode import FlowError, integrate
from ffcore.flow.solver import Solver
from ffcore.interfaces import (
    Batch,
    Condition,
    Context,
    FunctionTeacher,
    Gap,
    Networks,
    Student,
    Teacher,
    VelocityField,
)
from ffcore.keys import ImpossibleValue
from ffcore.recipe import RecipeError, load_recipe
from ffcore.run.build import build
from ffcore.run.stages import run
from ffcore.testing.check import check_tables
from ffcore.testing.small import small_teacher
from ffcore.training.distillation import Distillation
from ffcore.training.loop import Stopped, train
from ffcore_mlp.student import MlpAverageVelocity
from ffcore_pairs import trajectories
from ffcore_pairs.objective import PairsPredictor
from ffcore_pairs.tables import Pairs

Solve = Callable[[Teacher, Batch, Sequence[float], Solver], Tensor]
DELTAS = (0.0, 0.125, 0.5, 1.0)
FINE = Solver("rk4", 64)
SOLVE: Solve = trajectories.average_velocities


def drawn(teacher: Teacher, start: int, stop: int) -> Batch:
    """Return noise in float64, and conditions."""
    draws = Draws(7, 0, start, stop)
    z = draws.normal("z", teacher.sample_shape).double()
    return Batch(z=z, condition=teacher.conditions.draw(draws), draws=draws)


def prepared(teacher: Teacher, **options: Any) -> PairsPredictor:
    given = {"pairs": 60, "deltas": DELTAS, "solver": FINE, "batch": 64, **options}
    predictor = PairsPredictor(**given)
    predictor.prepare(teacher, lambda start, stop: drawn(teacher, start, stop))
    return predictor


def gap_of(teacher: Teacher, student: Student) -> Gap:
    """Return the gap at 40 of 60 pairs; their batch has other noise and conditions."""
    batch = attrs.evolve(drawn(teacher, 64, 104), draws=Draws(3, 5, 0, 40))
    networks = Networks(student=student, teacher=teacher)
    (gap,) = prepared(teacher).gaps(networks, batch).gaps
    return gap


# On exact flows.


def vanishes(seed: int, shape: tuple[int, ...] = (3,), conditional: bool = False) -> None:
    """The gap of the exact map is the error of the solver, whose steps are 1/64."""
    teacher = GaussianCase.of(seed, shape, conditional).teacher
    found = gap_of(teacher, ExactStudent(teacher))
    assert found.gap.norm() <= 1e-4 * found.output.norm()


@given(seed=seeds, shape=shapes, conditional=st.booleans())
def test_the_gap_of_the_exact_map_is_zero(
    seed: int, shape: tuple[int, ...], conditional: bool
) -> None:
    vanishes(seed, shape, conditional)


def back_in_time(teacher: Teacher) -> Teacher:
    return FunctionTeacher(
        lambda x, t, c: teacher(x, 1 - t, c), teacher.sample_shape, teacher.conditions
    )


def undivided(teacher: Teacher, batch: Batch, deltas: Sequence[float], solver: Solver) -> Tensor:
    found = SOLVE(teacher, batch, deltas, solver)
    return torch.tensor(deltas, dtype=found.dtype)[:, None] * found


def shuffled(teacher: Teacher, batch: Batch, deltas: Sequence[float], solver: Solver) -> Tensor:
    condition = batch.condition[torch.arange(len(batch.z)).roll(1)]
    return SOLVE(teacher, attrs.evolve(batch, condition=condition), deltas, solver)


WRONG: dict[str, Solve] = {
    "the other sign": lambda *asked: -SOLVE(*asked),
    "time reversed": lambda teacher, *asked: SOLVE(back_in_time(teacher), *asked),
    "1/δ missing": undivided,
    "ends, not motions": lambda u, batch, *asked: batch.z[:, None] + SOLVE(u, batch, *asked),
    "durations reversed": lambda *asked: SOLVE(*asked).flip(1),
    "u(z, 1) missing": lambda u, batch, deltas, solver: SOLVE(
        u, batch, [1 / 64, *deltas[1:]], solver
    ),
    "noise of another pair": lambda *asked: SOLVE(*asked).roll(1, 0),
    "condition of another pair": shuffled,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_target_leaves_a_gap(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vanishes(0, conditional=True)
    monkeypatch.setattr(trajectories, "average_velocities", WRONG[wrong])
    with pytest.raises(AssertionError):
        vanishes(0, conditional=True)


def test_the_gap_of_a_map_that_is_off_points_back() -> None:
    teacher = GaussianCase.of(0).teacher
    off = gap_of(teacher, ExactStudent(teacher, offset=0.3)).gap
    torch.testing.assert_close(off, torch.full_like(off, 0.3), rtol=0, atol=1e-5)


def test_the_error_is_relative_to_the_solved_velocities() -> None:
    teacher = GaussianCase.of(0).teacher
    batch, networks = drawn(teacher, 0, 40), Networks(student=Recording(), teacher=teacher)
    (error,) = prepared(teacher).gaps(networks, batch).numbers.values()  # of F = 0
    assert error.root
    torch.testing.assert_close(error.part, error.whole)
    exact = Networks(student=ExactStudent(teacher), teacher=teacher)
    (error,) = prepared(teacher).gaps(exact, batch).numbers.values()
    assert (error.part.sum() / error.whole.sum()).sqrt() <= 1e-4


class Recording(Student):
    """F = 0 with a gradient; keeps what it is called with."""

    starts_at = "prior"

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        self.seen = x_t, t, delta, condition
        return self.scale * x_t


def test_every_pair_and_duration_is_drawn_equally_often_whatever_the_batch_holds() -> None:
    teacher = GaussianCase.of(0, conditional=True).teacher
    predictor, student = prepared(teacher), Recording()
    networks = Networks(student=student, teacher=teacher)
    counts: dict[tuple[int, float], int] = {}
    for step in range(10):
        batch = attrs.evolve(drawn(teacher, 0, 1024), draws=Draws(0, step, 0, 1024))
        predictor.gaps(networks, batch)
        z, t, delta, condition = student.seen
        pair = torch.cdist(z, predictor.trajectories.z).argmin(1)
        assert torch.equal(z, predictor.trajectories.z[pair])
        assert torch.equal(condition.label, predictor.trajectories.condition.label[pair])
        assert (t == 1).all()
        for each in zip(pair.tolist(), delta.tolist(), strict=True):
            counts[each] = counts.get(each, 0) + 1
    assert len(counts) == 60 * len(DELTAS)
    # A count of 10,240 draws from 240 is 43 ± 6.5; five of these are one in 3 million.
    assert all(10 <= each <= 76 for each in counts.values())


SOLVERS = (
    Solver("euler", 8),
    Solver("heun", 8),
    Solver("heun", 8, last_step="euler"),
    Solver("heun", 8, gate="step"),
    Solver("midpoint", 8),
    Solver("rk4", 8),
    Solver("dopri5", tolerance=1e-9),
)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_durations_on_the_way_leave_the_end_as_it_is(solver: Solver) -> None:
    teacher = Guided(MIXTURE, (0.2, 0.7))
    batch = drawn(teacher, 0, 40)
    batch = attrs.evolve(batch, condition=batch.condition.at(2.0))
    found = SOLVE(teacher, batch, DELTAS, solver)
    exact = solver.method == "dopri5"
    for k, delta in enumerate(DELTAS[1:], 1):
        end = integrate(teacher, batch.z, batch.condition, _until(solver, delta), stop=1 - delta)
        close = {"rtol": 0, "atol": 1e-5 if exact else 1e-12}
        torch.testing.assert_close(batch.z + delta * found[:, k], end, **close)


def _until(solver: Solver, delta: float) -> Solver:
    """Return a solver for the way to δ with steps of the same length."""
    last = solver.last_step if delta == 1 else "full"
    return attrs.evolve(solver, steps=round(solver.steps * delta), last_step=last)


# Guidance.

MIXTURE = GaussianMixture([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], 0.4, labels=[0, 1, 1])


def distillation(**arguments: Any) -> Distillation:
    torch.manual_seed(0)
    given = {
        "teacher": MIXTURE,
        "student": MlpAverageVelocity(2, 2, width=8, depth=2),
        "predictor": PairsPredictor(60, DELTAS, Solver(steps=8), 32),
        "balancer": Even(),
        "steps": 3,
        "batch": 24,
        **arguments,
    }
    return Distillation(**given)


def guided(**arguments: Any) -> tuple[Distillation, trajectories.Trajectories]:
    made = distillation(teacher=Guided(MIXTURE), student=Recording(), **arguments)
    made.prepare()
    return made, made.objectives["prediction"].trajectories


GUIDANCE = [{"guidance": 2.0}, {"guidance_range": (1.0, 3.0)}]


def follows_the_students_guidance(arguments: dict[str, Any]) -> None:
    """A target is the guided teacher's average velocity from what the student is called with."""
    made, _ = guided(**arguments)
    made.step()
    batch = made._batch("prediction", 24, slice(0, 24))
    (gap,) = made.objectives["prediction"].gaps(made.networks(), batch).gaps
    z, _, delta, condition = made.student.seen
    again = SOLVE(
        Guided(MIXTURE), Batch(z=z, condition=condition, draws=batch.draws), DELTAS, Solver(steps=8)
    )
    k = (delta[:, None] == torch.tensor(DELTAS)).int().argmax(1)
    expected = again[torch.arange(len(z)), k]
    torch.testing.assert_close(gap.output.detach() - gap.gap, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("arguments", GUIDANCE, ids=str)
def test_pairs_are_guided_as_the_student_is(arguments: dict[str, Any]) -> None:
    follows_the_students_guidance(arguments)
    _, kept = guided(**arguments)
    assert kept.condition.guidance is not None
    if "guidance" in arguments:
        assert (kept.condition.guidance == 2).all()
    else:
        assert 1 <= kept.condition.guidance.min() < 1.2
        assert 2.8 < kept.condition.guidance.max() <= 3


@pytest.mark.parametrize("arguments", GUIDANCE, ids=str)
def test_unguided_pairs_would_be_seen(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trajectories,
        "average_velocities",
        lambda teacher, batch, *asked: SOLVE(
            teacher,
            attrs.evolve(batch, condition=attrs.evolve(batch.condition, guidance=None)),
            *asked,
        ),
    )
    with pytest.raises(AssertionError):
        follows_the_students_guidance(arguments)


# The same pairs again.


def test_micro_batches_have_the_pairs_and_nearly_the_weights_of_whole_batches() -> None:
    runs = [distillation(accumulation=each) for each in (1, 2, 3)]
    for each in runs:
        for _ in train(each):
            pass
    whole, *parts = runs
    kept = whole.objectives["prediction"].trajectories
    for each in parts:
        again = each.objectives["prediction"].trajectories
        assert torch.equal(again.z, kept.z)
        assert torch.equal(again.average_velocity, kept.average_velocity)
        assert torch.equal(again.condition.label, kept.condition.label)
        for name, tensor in contents(whole).items():
            torch.testing.assert_close(contents(each)[name], tensor, rtol=1e-3, atol=1e-6)


def test_another_seed_has_other_pairs_and_the_solvers_batch_does_not_matter() -> None:
    def kept(**changes: Any) -> Tensor:
        batch = changes.pop("batch", 32)
        made = distillation(predictor=PairsPredictor(60, DELTAS, Solver(steps=8), batch), **changes)
        made.prepare()
        found: Tensor = made.objectives["prediction"].trajectories.average_velocity
        return found

    torch.testing.assert_close(kept(batch=7), kept(), rtol=0, atol=1e-5)
    assert (kept(seed=1) - kept()).abs().max() > 1


RECIPE = (
    "predictor={type='pairs', pairs=100, deltas=[0.5, 1.0], solver={steps=4}}",
    "training.batch=16",
    "training.steps=6",
    "training.checkpoint_every=3",
    "evaluation.samples=64",
    "evaluation.solver.steps=2",
)


def recipe(*overrides: str) -> Any:
    return load_recipe("gaussian.toml", ["corrector=none", *RECIPE, *overrides])


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(tmp_path: Path) -> None:
    run(recipe(), tmp_path / "whole")
    calls = iter([False, False, True])
    with pytest.raises(Stopped):
        run(recipe(), tmp_path / "parts", stop=lambda: next(calls, False))
    run(recipe(), tmp_path / "parts")
    assert ends_as(tmp_path / "parts", tmp_path / "whole")


# Precision.


def test_pairs_are_solved_in_float32_under_autocast() -> None:
    network = small_teacher((3,), 2)
    student = MlpAverageVelocity(3, 2, width=8, depth=2)
    plain = distillation(teacher=network, student=student)
    plain.prepare()
    wanted = plain.objectives["prediction"].trajectories
    mixed = distillation(teacher=network, student=student, precision="bfloat16")
    with torch.autocast("cpu", torch.bfloat16):
        mixed.prepare()
    mixed.step()
    found = mixed.objectives["prediction"].trajectories
    assert found.z.dtype == found.average_velocity.dtype == torch.float32
    assert torch.equal(found.average_velocity, wanted.average_velocity)
    with torch.autocast("cpu", torch.bfloat16):  # which would change them
        ends = integrate(network, found.z, found.condition, Solver(steps=8))
    assert (ends - found.z - wanted.average_velocity[:, -1]).abs().max() > 1e-4


def test_the_targets_of_a_bfloat16_run_are_not_rounded() -> None:
    network = small_teacher((3,), 2)
    student = MlpAverageVelocity(3, 2, width=8, depth=2)
    made = distillation(teacher=network, student=student, precision="bfloat16")
    made.prepare()
    batch = made._batch("prediction", 24, slice(0, 24))
    with torch.autocast("cpu", torch.bfloat16):
        (gap,) = made.objectives["prediction"].gaps(made.networks(), batch).gaps
    targets = gap.output.detach() - gap.gap
    kept = made.objectives["prediction"].trajectories.average_velocity.flatten(0, 1)
    assert (targets[:, None] - kept).abs().amax(2).amin(1).max() < 1e-6


# Cost.


class Counted(Teacher):
    """A teacher that counts its evaluations."""

    def __init__(self, field: Teacher) -> None:
        super().__init__()
        self.field, self.sample_shape, self.conditions = field, field.sample_shape, field.conditions
        self.evaluations = 0

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.evaluations += len(x_t)
        velocity: Tensor = self.field(x_t, t, condition)
        return velocity

    def trainable_copy(self, *, takes_guidance: bool = False) -> VelocityField | None:
        return None


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_the_evaluations_of_the_teacher_are_counted(
    solver: Solver, gamma: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ffcore")
    counted = Counted(MIXTURE)
    made = distillation(
        teacher=Guided(counted, (0.2, 0.7)),
        guidance=gamma,
        predictor=PairsPredictor(60, (1.0,), solver, 32),
    )
    made.self_check()
    before = counted.evaluations
    made.prepare()
    number = counted.evaluations - before
    assert made.prepare() == {"predictor/teacher_evaluations": number}
    assert counted.evaluations == before + number  # once is enough
    nfe = solver.nfe(None if gamma == 1 else (0.2, 0.7))
    assert nfe is None or number == 60 * nfe
    assert f"this took {number:,} evaluations of the teacher" in caplog.messages[-1]
    assert caplog.messages[:-1] == ["pairs: 0 of 60 are solved", "pairs: 32 of 60 are solved"]
    for report in train(made, log_every=1):
        assert report.metrics["predictor/teacher_evaluations"] == number
    assert counted.evaluations == before + number  # training needs no more


def test_what_they_will_cost_is_said_before_training() -> None:
    made = distillation(predictor=PairsPredictor(1000, (0.5, 1.0), Solver(steps=8)))
    assert made.self_check() == [
        "before training, 1,000 pairs are solved, by about 16,000 evaluations of the teacher; "
        "the student learns δ = 0.5, 1 and no other duration"
    ]


def test_a_dry_run_counts_what_the_run_does() -> None:
    asked = recipe("predictor.pairs=70", "predictor.solver.method=rk4")
    (each,) = Cost.of(asked).preparation
    made = build(asked).distillation
    assert made.prepare() == {"predictor/teacher_evaluations": each.rows}
    assert (each.part, each.network, each.rows) == ("preparation of prediction", "teacher", 1120)


# What is refused.


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("predictor.pairs=1000000000",),
            "[predictor] pairs: must be at most 166,666,666: a pair of samples (2,), kept at 2 "
            "durations, takes 24 bytes, and memory is 4 GB",
        ),
        (("predictor.memory=1e-6",), "[predictor] pairs: must be at most 41: a pair of samples"),
        (("predictor.pairs=0",), "[predictor] pairs: must be at least 1, found 0"),
        (("predictor.deltas=[]",), "deltas: must be at least one, each above the last"),
        (("predictor.deltas=[0.5, 0.5]",), "deltas: must be at least one, each above the last"),
        (("predictor.deltas=[0.5, 2]",), "deltas: must be at least 0 and at most 1"),
        (
            ("predictor.deltas=[0.3, 1.0]",),
            "deltas: must be multiples of 1 / 4, because solver.steps is that number",
        ),
    ],
)
def test_impossible_pairs_are_refused_before_the_run(
    overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(*overrides)
    assert message in str(caught.value)


def test_as_many_pairs_as_memory_holds_are_possible() -> None:
    context = Context(teacher=Gaussian([0.0, 0.0]))
    Pairs(pairs=41, deltas=(0.5, 1.0), memory=1e-6).build(context)
    with pytest.raises(ImpossibleValue, match="must be at most 41: a pair"):
        Pairs(pairs=42, deltas=(0.5, 1.0), memory=1e-6).build(context)


def test_dopri5_stops_at_any_duration() -> None:
    table = Pairs(deltas=(0.3, 1.0), solver=Solver("dopri5"))
    assert table.deltas == (0.3, 1.0)


def test_solutions_that_are_not_finite_are_no_targets() -> None:
    wild = FunctionTeacher(lambda x_t, t, c: 1e30 * x_t, (2,))  # finite, but not its flow
    made = distillation(teacher=wild, student=MlpAverageVelocity(2, 0, width=8, depth=2))
    for call in (made.self_check, made.step):
        with pytest.raises(FlowError, match="a solution of the teacher's flow is not finite"):
            call()


def test_gaps_need_pairs() -> None:
    teacher = FieldTeacher.around(MIXTURE)
    networks = Networks(student=Recording(), teacher=teacher)
    with pytest.raises(RuntimeError, match="call prepare before gaps"):
        PairsPredictor().gaps(networks, drawn(teacher, 0, 4))


# The table.


def test_the_table_builds_what_it_says() -> None:
    table = Pairs(pairs=7, deltas=(0.5, 1.0), solver=Solver("rk4", 2), batch=3)
    built = table.build(Context(teacher=MIXTURE))
    assert vars(built) == vars(PairsPredictor(7, (0.5, 1.0), Solver("rk4", 2), 3))
    assert vars(Pairs().build(Context(teacher=MIXTURE))) == vars(PairsPredictor())


def test_the_predictor_is_lawful() -> None:
    results = check_tables("predictor/pairs", "predictor", Pairs.examples())
    assert {each.status for each in results} <= {"holds", "not checked"}, results
