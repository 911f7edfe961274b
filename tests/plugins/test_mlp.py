"""Perceptrons for vectors."""

from typing import Literal

import pytest
import torch
from inputs import Stream
from torch import Tensor

from ffcore.draws import Draws
from ffcore.flow.derivative import Derivative
from ffcore.flow.derivative_check import self_check
from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.interfaces import Condition, Context, Student, Teacher, VelocityField
from ffcore_mlp.student import MlpAverageVelocity, MlpVelocity
from ffcore_mlp.tables import MlpNetwork, MlpStudent


def student(classes: int = 3) -> MlpAverageVelocity:
    torch.manual_seed(0)
    return MlpAverageVelocity(2, classes, width=16, depth=3).double()


def inputs(size: int = 6) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    stream = Stream(0)
    condition = Condition(size=size, label=stream.integers(3, size))
    return stream.normal(size, 2), stream.uniform(0, 1, size), condition


def test_a_sample_does_not_depend_on_the_rest_of_the_batch() -> None:
    network, (z, delta, condition) = student(), inputs()
    ones = torch.ones_like(delta)
    together = network(z, ones, delta, condition)
    parts = [slice(i, i + 1) for i in range(6)]
    alone = torch.cat([network(z[i], ones[i], delta[i], condition[i]) for i in parts])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("what", ["z", "delta", "label"])
def test_the_output_depends_on_every_input(what: str) -> None:
    network, (z, delta, condition) = student(), inputs()
    ones = torch.ones_like(delta)
    before = network(z, ones, delta, condition)
    assert condition.label is not None
    moved = {
        "z": (z + 0.1, delta, condition),
        "delta": (z, delta * 0.9, condition),
        "label": (z, delta, Condition(size=6, label=(condition.label + 1) % 3)),
    }[what]
    changed = (network(moved[0], ones, *moved[1:]) - before).abs().amax(1)
    assert (changed > 1e-6).all()


def test_the_student_lives_at_the_prior_and_does_not_read_t() -> None:
    network, (z, delta, condition) = student(), inputs()
    assert network.starts_at == "prior"
    assert torch.equal(
        network(z, torch.ones_like(delta), delta, condition),
        network(z, torch.zeros_like(delta), delta, condition),
    )


@pytest.mark.parametrize("what", [0, 1, 2])
def test_from_anywhere_the_student_reads_point_time_and_duration(what: int) -> None:
    table = MlpStudent(width=16, depth=3, starts_at="anywhere")
    assert table.offers == {"student starts anywhere"}
    assert MlpStudent().offers == frozenset()
    network = table.build(Context(teacher=Gaussian([0.0, 1.0]))).double()
    x_t, t, _ = inputs()
    primals = [x_t, t, t / 3]
    tangents = [torch.zeros_like(each) for each in primals]
    tangents[what] = torch.ones_like(primals[what])

    def function(*moved: Tensor) -> Tensor:
        output: Tensor = network(*moved, Condition(size=6))
        return output

    given = {"value": function(*primals), "room": (t / 3, 1 - t)}
    exact = Derivative(backend="dual")(function, primals, tangents, **given)
    central = Derivative(backend="finite-difference", step=1e-4, scheme="central")
    assert (exact.abs().amax(1) > 1e-4).all()
    torch.testing.assert_close(
        central(function, primals, tangents, **given), exact, rtol=1e-5, atol=1e-6
    )


def test_the_null_label_has_an_embedding() -> None:
    network, (z, delta, _) = student(), inputs()
    null = Condition(size=6, label=torch.full((6,), 3))
    assert network(z, torch.ones_like(delta), delta, null).isfinite().all()


def test_both_derivative_backends_work_on_the_student() -> None:
    network, (z, _, condition) = student(), inputs()
    for derivative in (Derivative(backend="dual"), Derivative(backend="finite-difference")):
        error = self_check(network, derivative, z, condition, Draws(0, 0, 0, 6)).error
        assert error < 0.01


@pytest.mark.parametrize(
    ("teacher", "dimension", "classes"),
    [
        (Gaussian([0.0, 1.0, 2.0]), 3, 0),
        (Gaussian([[0.0, 1.0], [2.0, 3.0]], conditional=True), 2, 2),
        (GaussianMixture([[0.0], [1.0], [2.0]], labels=[0, 1, 0]), 1, 2),
    ],
)
def test_networks_have_the_sizes_of_the_teacher(
    teacher: Teacher, dimension: int, classes: int
) -> None:
    context = Context(teacher=teacher)
    built: Student = MlpStudent(width=8, depth=2).build(context)
    network: VelocityField = MlpNetwork(width=8, depth=2).build(context)
    condition = teacher.conditions.draw(Draws(0, 0, 0, 5))
    z, t = torch.zeros(5, dimension), torch.ones(5)
    assert built(z, t, t, condition).shape == network(z, t, condition).shape == (5, dimension)
    for each in (built, network):
        assert isinstance(each, MlpAverageVelocity | MlpVelocity)
        embedding = each.body.label
        assert (embedding is None) == (classes == 0)
        if embedding is not None:
            assert embedding.num_embeddings == classes + 1


@pytest.mark.parametrize("table", [MlpStudent(), MlpNetwork()])
def test_a_teacher_of_images_is_refused_by_name(table: MlpStudent | MlpNetwork) -> None:
    with pytest.raises(ValueError, match=r"(student|network) mlp is for vectors.*\(1, 2, 2\)"):
        table.build(Context(teacher=Gaussian(torch.zeros(1, 2, 2))))


def test_only_students_in_the_plane_that_start_at_the_prior_have_projections() -> None:
    def projections(dimension: int, starts_at: Literal["prior", "anywhere"]) -> Tensor | None:
        network = MlpAverageVelocity(dimension, 0, width=4, depth=1, starts_at=starts_at)
        return network.body.projections

    assert projections(1, "prior") is not None
    assert projections(2, "prior") is not None
    assert projections(3, "prior") is None
    assert projections(2, "anywhere") is None
    assert MlpVelocity(2, 0, width=4, depth=1).body.projections is None
