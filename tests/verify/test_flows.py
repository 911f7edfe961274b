"""A student's flow beside its teacher's."""

import attrs
import pytest
import torch
from networks import ExactStudent, FieldTeacher

from ffcore.evaluate.prior import Measurement, prior
from ffcore.evaluate.trajectory import DELTAS
from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.flow.guidance import Guided
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition
from ffcore.sample import NotFinite
from ffcore.verify.flows import compare_flows, exact_solution

TEACHER = Gaussian([1.0, -2.0, 0.5], 0.7)
MEASUREMENT = Measurement(samples=96, seed=0, solver=Solver("dopri5", tolerance=1e-6), batch=64)


def compare(student, teacher=TEACHER, measurement=MEASUREMENT):
    return compare_flows(student, teacher, measurement, lambda done, total: None)


def test_the_exact_flow_map_has_no_error_but_rounding():
    found = compare(ExactStudent(TEACHER))
    for errors in (found.identity, found.trajectory, found.closed_form):
        assert tuple(errors) == DELTAS
        # of the velocity or of the way: float32 rounding, and the solver's tolerance
        assert all(each.relative.high < 1e-5 for each in errors.values())
    assert found.solver_error < 1e-5
    assert (found.backend, found.derivative_error) == ("dual", 0)
    assert found.student.shape == found.teacher.shape == (96, 3)
    torch.testing.assert_close(found.student, found.teacher, rtol=1e-5, atol=1e-5)


def test_a_student_that_is_off_has_the_error_that_it_was_given():
    found = compare(ExactStudent(TEACHER, offset=0.3))
    z = torch.cat([z for z, _ in prior(TEACHER, MEASUREMENT, "verify")])
    ones = torch.ones(len(z))
    for delta in DELTAS:
        moved = TEACHER.flow_map(z, ones, delta * ones, Condition(size=len(z))) - z
        relative = delta * 0.3 * 3**0.5 / moved.norm(dim=1)
        for errors in (found.trajectory[delta], found.closed_form[delta]):
            assert errors.absolute.low == pytest.approx(delta * 0.3, rel=1e-3)
            assert errors.absolute.high == pytest.approx(delta * 0.3, rel=1e-3)
            assert errors.relative.median == pytest.approx(float(relative.median()), rel=0.05)


def test_a_flow_that_ends_where_it_began_has_no_relative_error_there():
    """From N(0, 1) to N(0, 1): there and back again."""
    teacher = Gaussian([0.0, 0.0], 1.0)
    found = compare(ExactStudent(teacher, offset=0.1), teacher)
    assert found.trajectory[1.0].relative is None
    assert found.trajectory[1.0].left_out == 96
    assert found.trajectory[1.0].absolute.median == pytest.approx(0.1, rel=1e-3)
    assert found.trajectory[0.5].relative is not None


def test_the_exact_flow_map_of_a_mixture_is_a_closed_form_too_and_a_guided_one_is_not():
    teacher = Guided(GaussianMixture([[1.0], [-1.0]], 0.5, labels=[0, 1]))
    off = ExactStudent(Gaussian([0.0], 1.0))
    assert compare(off, teacher).closed_form is not None
    guided = compare(off, teacher, attrs.evolve(MEASUREMENT, guidance=2.0))
    assert guided.closed_form is None
    z, condition = (
        torch.randn(4, 1),
        teacher.conditions.null(Condition(size=4, label=torch.ones(4, dtype=torch.int64))),
    )
    assert exact_solution(teacher, z, condition.at(1.5), 1.0) is None


@pytest.mark.parametrize(
    "solver", [Solver("heun", 32), Solver("rk4", 32), Solver("dopri5", tolerance=1e-3)]
)
def test_a_solvers_own_error_is_told_where_it_is_not_known(solver):
    teacher = GaussianMixture([[1.5, 1.5], [-1.5, 1.5], [-1.5, -1.5]], 0.1)
    student = ExactStudent(Gaussian([0.0, 0.0], 1.0))
    measurement = attrs.evolve(MEASUREMENT, solver=solver, samples=32)
    true = compare(student, teacher, measurement).solver_error
    told = compare(student, FieldTeacher.around(teacher), measurement)
    assert told.closed_form is None
    assert 1e-5 < true < told.solver_error < 30 * true


def test_a_student_that_is_not_finite_is_told():
    with pytest.raises(NotFinite, match=r"not finite at δ = 0\.125"):
        compare(ExactStudent(TEACHER, offset=float("nan")))
