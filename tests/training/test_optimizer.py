"""The optimizer that a recipe asks for, and its learning rate."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ffcore.keys import ImpossibleValue
from ffcore.training.optimizer import Optimizer

Factor = Callable[[Optimizer, int, int], float]

optimizers = st.builds(
    Optimizer,
    warmup=st.integers(0, 20),
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
    final=st.floats(0, 1),
)


def warms_up_then_falls(factor: Factor, optimizer: Optimizer, steps: int) -> None:
    """Rises to the peak within the warm-up, never rises again, and ends at `final`."""
    factors = [factor(optimizer, step, steps) for step in range(steps)]
    rising, falling = factors[: optimizer.warmup], factors[optimizer.warmup :]
    assert all(0 < a < b <= 1 for a, b in pairwise([*rising, 1.0]))
    assert falling[0] == 1
    assert all(a >= b for a, b in pairwise(falling))
    end = 1.0 if optimizer.schedule == "constant" else optimizer.final
    assert factor(optimizer, steps, steps) == pytest.approx(end, abs=1e-12)
    assert factor(optimizer, steps + 5, steps) == pytest.approx(end, abs=1e-12)


@given(optimizer=optimizers, steps=st.integers(21, 200))
def test_the_learning_rate_warms_up_then_falls_to_its_end(optimizer: Optimizer, steps: int) -> None:
    warms_up_then_falls(Optimizer.factor, optimizer, steps)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda optimizer, step, steps: optimizer.factor(step + 1, steps),
        lambda optimizer, step, steps: min(1.0, step / optimizer.warmup),
        lambda optimizer, step, steps: optimizer.factor(step, 2 * steps),
        lambda optimizer, step, steps: optimizer.factor(step, steps) * (step < steps),
        lambda optimizer, step, steps: optimizer.factor(min(step, 30), steps),
    ],
    ids=["a step early", "a step of nothing", "half the way", "ends at nothing", "stands still"],
)
def test_another_schedule_would_be_seen(wrong: Factor) -> None:
    with pytest.raises(AssertionError):
        warms_up_then_falls(wrong, Optimizer(warmup=10, schedule="cosine", final=0.1), 100)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1.0, 1.0, 1.0]),
        ("linear", [0.875, 0.75, 0.625]),
        # ½ (1 + cos πp), between 1 and ½
        ("cosine", [0.9267766952966369, 0.75, 0.5732233047033631]),
    ],
)
def test_schedules_are_known_at_the_quarters(schedule: str, factors: list[float]) -> None:
    optimizer = Optimizer(warmup=4, schedule=schedule, final=0.5)
    found = [optimizer.factor(4 + quarter, 8) for quarter in (1, 2, 3)]
    assert found == pytest.approx(factors, abs=1e-12)
    assert [optimizer.factor(step, 8) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_only_what_is_to_be_trained_is_optimized() -> None:
    network = nn.Linear(2, 3)
    network.bias.requires_grad_(False)
    built = Optimizer(learning_rate=0.5, betas=(0.8, 0.7), weight_decay=0.1).build(
        network.parameters()
    )
    (group,) = built.param_groups
    assert [id(each) for each in group["params"]] == [id(network.weight)]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.5, (0.8, 0.7), 0.1)


def test_the_first_step_of_adam_is_the_learning_rate() -> None:
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    built = Optimizer(learning_rate=0.25).build([parameter])
    (parameter * torch.tensor([1.0, -2.0, 300.0])).sum().backward()
    built.step()
    expected = torch.tensor([-0.25, 0.25, -0.25], dtype=torch.float64)
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-7, atol=0)  # Adam's ε, 1e-8


@pytest.mark.parametrize(
    "impossible",
    [
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
        {"warmup": -1},
        {"final": 1.5},
        {"betas": (0.9, 1.0)},
    ],
    ids=str,
)
def test_impossible_values_are_refused(impossible: dict[str, float]) -> None:
    with pytest.raises(ImpossibleValue):
        Optimizer(**impossible)
