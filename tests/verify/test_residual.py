"""The identity of a flow map: F + δ ∂_δ F = u(f, 1 − δ)."""

import pytest
import torch
from inputs import GaussianCase
from networks import ExactStudent, FunctionStudent
from torch import Tensor

from ffcore.evaluate.trajectory import DELTAS
from ffcore.flow.derivative_check import backend_for
from ffcore.interfaces import Condition, Student, VelocityField
from ffcore.verify.residual import STEP, residual


class Copied(torch.autograd.Function):
    """The identity, without a derivative in either way."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.empty_like(x).copy_(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class Opaque(Student):
    """A student that forward mode cannot pass."""

    starts_at = "prior"

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        return Copied.apply(self.student(x_t, t, Copied.apply(delta), condition))


@pytest.mark.parametrize("delta", DELTAS)
def test_the_exact_flow_map_obeys_it(delta):
    case = GaussianCase.of(1)
    found = residual(ExactStudent(case.teacher), case.teacher, case.z, case.condition, delta, "jvp")
    exact = case.teacher.flow_map(case.z, case.ones, delta * case.ones, case.condition)
    torch.testing.assert_close(found.end, exact, rtol=1e-12, atol=1e-12)
    assert found.gap.max() < 1e-12
    assert found.velocity.max() > 0.1
    assert not found.uncertainty.any()


@pytest.mark.parametrize("delta", DELTAS)
def test_a_student_that_is_off_misses_it_by_a_known_gap(delta):
    """F* + c has v_G* + c, and u at f* + δ c: together c (1 + δ slope_{1−δ})."""
    case, off = GaussianCase.of(2), 0.3
    student, t = ExactStudent(case.teacher, offset=off), 1 - delta
    found = residual(student, case.teacher, case.z, case.condition, delta, "jvp")
    variance = float(case.teacher.scale) ** 2
    slope = (t - (1 - t) * variance) / ((1 - t) ** 2 * variance + t**2)
    expected = torch.full_like(found.gap, off * abs(1 + delta * slope))
    torch.testing.assert_close(found.gap, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("delta", [DELTAS[0], 0.5, 1.0])
def test_differences_are_of_second_order_up_to_the_end_and_know_their_error(delta):
    """Of δ³, three points a step h apart miss the derivative by 2 h², and 2 h apart by 8 h²."""
    student = FunctionStudent(lambda z, d: z[:, :1] ** 0 * d[:, None] ** 3)
    still = VelocityField.of(lambda x, t, condition: 0 * x, (1,))
    z, condition = torch.ones(4, 1, dtype=torch.float64), Condition(size=4)
    exactly, about = (
        residual(student, still, z, condition, delta, backend)
        for backend in ("dual", "finite-difference")
    )
    miss = delta * 2 * STEP**2
    assert (about.gap - exactly.gap).abs().tolist() == pytest.approx([miss] * 4, rel=1e-6)
    assert about.uncertainty.tolist() == pytest.approx([3 * miss] * 4, rel=1e-6)


def test_forward_mode_is_taken_where_there_is_one_and_differences_agree_with_it():
    case = GaussianCase.of(3)
    plain = ExactStudent(case.teacher, offset=0.2)
    opaque = Opaque(plain)
    assert backend_for(plain, case.z, case.condition) == "dual"
    assert backend_for(opaque, case.z, case.condition) == "finite-difference"
    with pytest.raises(RuntimeError):
        residual(opaque, case.teacher, case.z, case.condition, 0.5, "jvp")
    exactly, same = (
        residual(plain, case.teacher, case.z, case.condition, 1.0, backend)
        for backend in ("jvp", "dual")
    )
    torch.testing.assert_close(same.gap, exactly.gap, rtol=1e-12, atol=1e-12)
    about = residual(opaque, case.teacher, case.z, case.condition, 1.0, "finite-difference")
    assert ((about.gap - exactly.gap).abs() <= about.uncertainty + 1e-9).all()
    assert about.uncertainty.max() < 1e-2
