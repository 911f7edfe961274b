"""The pictures that a run leaves."""

import matplotlib.image
import pytest
import torch

from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, Student
from ffcore.report.plots import Points, draw_against_nfe, draw_curves, draw_samples
from ffcore.run.previews import in_order, rows_of_samples


class Still(Student):
    """F = 0."""

    starts_at = "prior"

    def forward(self, x_t, t, delta, condition):
        del t, delta, condition
        return torch.zeros_like(x_t)


def test_rows_start_from_the_same_noise():
    teacher = Gaussian([1.0, 2.0], 0.5)
    z = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    solver = Solver("rk4", 64)
    rows = rows_of_samples(Still(), teacher, z, Condition(size=6), solver=solver, euler=(1, 2))
    names = [name.replace("\n", ", ") for name in rows]
    assert names == ["teacher, converged", "student, 1 step", "teacher, 1 step", "teacher, 2 steps"]
    converged, student, one_step, _ = rows.values()
    torch.testing.assert_close(converged, teacher.mean + 0.5 * z, rtol=0, atol=1e-5)
    assert torch.equal(student, z)
    # u(z, 1) = μ − z, so one Euler step lands on the mean.
    torch.testing.assert_close(one_step, teacher.mean.expand(6, 2))


class Walking(Still):
    """F = x_t from anywhere: n equal steps multiply the noise by (1 + 1/n)^n."""

    starts_at = "anywhere"

    def forward(self, x_t, t, delta, condition):
        del t, delta, condition
        return x_t


def test_a_student_that_is_measured_in_several_steps_is_shown_in_them():
    z = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    rows = rows_of_samples(
        Walking(),
        Gaussian([1.0, 2.0], 0.5),
        z,
        Condition(size=6),
        solver=Solver("rk4", 4),
        student_steps=(4, 2),
    )
    names = [name.replace("\n", ", ") for name in rows]
    assert names[1:4] == ["student, 1 step", "student, 2 steps", "student, 4 steps"]
    for steps, row in zip((1, 2, 4), list(rows.values())[1:4], strict=True):
        torch.testing.assert_close(row, z * (1 + 1 / steps) ** steps)


def test_columns_are_in_class_order_where_there_are_classes():
    teacher = GaussianMixture([[0.0], [1.0], [2.0]], labels=[0, 1, 2])
    condition = Condition(size=5, label=torch.tensor([2, 2, 2, 2, 2]))
    assert in_order(teacher.conditions, condition).label.tolist() == [0, 1, 2, 0, 1]
    plain = Condition(size=5)
    assert in_order(Gaussian([0.0]).conditions, plain) is plain


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (4, 8, 8), (2,), (1,), (5,)])
def test_every_shape_of_sample_can_be_drawn(tmp_path, shape):
    generator = torch.Generator().manual_seed(0)
    rows = {name: torch.randn(4, *shape, generator=generator) for name in ("teacher", "student")}
    draw_samples(tmp_path / "samples.png", rows)
    picture = matplotlib.image.imread(tmp_path / "samples.png")
    assert picture[..., :3].std() > 0.05


def test_light_and_dark_pixels_stand_where_the_sample_has_them(tmp_path):
    rows = {}
    for name, value in {"light": 1.0, "dark": -1.0}.items():
        rows[name] = torch.full((2, 1, 8, 8), value)
    draw_samples(tmp_path / "samples.png", rows)
    picture = matplotlib.image.imread(tmp_path / "samples.png")[..., 0]
    column = picture[:, int(picture.shape[1] * 0.9)]
    quarter = len(column) // 4
    assert column[quarter] == 1
    assert column[3 * quarter] == 0


def test_curves_are_drawn_of_what_was_measured(tmp_path):
    history = [
        {"step": 1, "loss": 1.0, "gap_prediction": 0.5},
        {"step": 2, "loss": 0.5, "gap_prediction": 0.4, "gap_correction": 0.3, "loss_online": 0.2},
    ]
    draw_curves(tmp_path / "both.png", history)
    draw_curves(tmp_path / "alone.png", history[:1])
    both, alone = (matplotlib.image.imread(tmp_path / f"{n}.png") for n in ("both", "alone"))
    assert both.shape[1] > alone.shape[1]  # a panel for the online network


@pytest.mark.parametrize(
    ("panels", "rows", "columns"), [(1, 1, 1), (3, 1, 3), (4, 2, 2), (5, 2, 3)]
)
def test_scores_are_drawn_against_nfe_in_rows_of_at_most_three(panels, rows, columns, tmp_path):
    lines = {
        "one": Points(nfe=[1, 4], values=[0.1, 0.3], errors=[0.01, 0.02], end="N = 4"),
        "two": Points(nfe=[16, 80], values=[0.2, 0.2]),
    }
    draw_against_nfe(tmp_path / "all.png", {f"panel {i}": lines for i in range(panels)})
    draw_against_nfe(
        tmp_path / "one.png", {f"panel {i}": lines | {"two": lines["one"]} for i in range(panels)}
    )
    pixels = matplotlib.image.imread(tmp_path / "all.png")
    assert pixels.shape[:2] == (round(150 * (2.6 * rows + 0.4)), 150 * 3.4 * columns)
    other = matplotlib.image.imread(tmp_path / "one.png")
    assert (pixels != other).any()
