"""ffcore's laws for each component, then what is known of these three."""

import pytest
import torch
from acme_flow.balancer import HuberBalancer
from acme_flow.objective import HalvesPredictor
from acme_flow.teacher import Ring
from scipy.stats import rice

from ffcore import Condition, Draws, Gap, Gaussian, Student, integrate
from ffcore.interfaces import Batch, Networks
from ffcore.testing import plugin_tests

TestAcmeFlow = plugin_tests("acme-flow")

SIZE = 200


class Exact(Student):
    """The exact average velocity of a Gaussian teacher, and an error that grows with δ."""

    starts_at = "prior"

    def __init__(self, teacher, error=0.0):
        super().__init__()
        self.teacher = teacher
        self.error = torch.nn.Parameter(torch.tensor(error))

    def forward(self, x_t, t, delta, condition):
        exact = self.teacher.average_velocity(x_t, delta, condition)
        return exact + self.error * delta[:, None]


def _gap(steps, error=0.0):
    teacher = Gaussian([1.0, -2.0], 0.5).double()
    draws = Draws(seed=0, step=0, start=0, stop=SIZE)
    batch = Batch(z=draws.normal("z", (2,)).double(), condition=Condition(size=SIZE), draws=draws)
    networks = Networks(student=Exact(teacher, error).double(), teacher=teacher)
    (gap,) = HalvesPredictor(steps=steps).gaps(networks, batch).gaps
    return float(gap.norm().mean())


def test_the_ring_flows_to_the_same_angle_and_the_same_quantile_of_the_radius():
    radius, blur = 2.0, 0.3
    z = torch.randn(SIZE, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = integrate(Ring(radius, blur), z, Condition(size=SIZE))
    torch.testing.assert_close(x / x.norm(dim=1, keepdim=True), z / z.norm(dim=1, keepdim=True))
    before = 1 - torch.exp(-z.square().sum(1) / 2)
    after = torch.from_numpy(rice.cdf(x.norm(dim=1).numpy(), radius / blur, scale=blur))
    torch.testing.assert_close(after, before, atol=2e-3, rtol=0)  # of 64 Heun steps


def test_the_gap_of_an_exact_student_shrinks_as_heuns_error_does():
    assert _gap(2) / _gap(4) == pytest.approx(4, rel=0.3)
    assert _gap(16) < 1e-3


def test_a_wrong_student_has_a_gap():
    assert _gap(16, error=0.1) > 0.01


def test_no_sample_pulls_harder_than_the_bound():
    gap = Gap(
        output=torch.zeros(4, 2), gap=torch.tensor([0.0, 1e-3, 1.0, 1e6])[:, None].repeat(1, 2)
    )
    pull = HuberBalancer(bound=0.5).weights("prediction", gap) * gap.norm()
    assert (pull < 0.5 + 1e-6).all()
    assert pull[1] == pytest.approx(1e-3, rel=1e-4)
