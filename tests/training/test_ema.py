"""The moving average of a network."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inputs import Stream, seeds
from torch import nn

from ffcore.training.ema import ema_copy, update

Update = Callable[[nn.Module, nn.Module, float, int], None]


class Network(nn.Module):
    """Two parameters and a buffer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        stream = Stream(seed)
        self.a, self.b = nn.Parameter(stream.normal(3)), nn.Parameter(stream.normal(2, 2))
        self.count: torch.Tensor
        self.register_buffer("count", stream.integers(100, 1))


def moves_as_the_formula_says(update: Update, seed: int, decay: float, step: int, d: float) -> None:
    average, network = Network(seed), Network(seed + 1)
    before = {name: each.detach().clone() for name, each in average.named_parameters()}
    now = {name: each.detach().clone() for name, each in network.named_parameters()}
    update(average, network, decay, step)
    for name, each in average.named_parameters():
        expected = d * before[name] + (1 - d) * now[name]
        torch.testing.assert_close(each.detach(), expected, rtol=1e-13, atol=1e-13)
        assert torch.equal(network.get_parameter(name), now[name])
    assert torch.equal(average.count, network.count)


@given(seed=seeds, decay=st.floats(0, 1), step=st.integers(0, 10**6))
def test_the_average_moves_by_its_decay(seed: int, decay: float, step: int) -> None:
    moves_as_the_formula_says(update, seed, decay, step, min(decay, (1 + step) / (10 + step)))


def swapped(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    update(average, network, 1 - min(decay, (1 + step) / (10 + step)), 10**9)


def without_warmup(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    del step
    update(average, network, decay, 10**9)


def without_buffers(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    kept = {name: each.clone() for name, each in average.named_buffers()}
    update(average, network, decay, step)
    average.load_state_dict(average.state_dict() | kept)


@pytest.mark.parametrize("wrong", [swapped, without_warmup, without_buffers])
def test_another_average_would_be_seen(wrong: Update) -> None:
    with pytest.raises(AssertionError):
        moves_as_the_formula_says(wrong, 0, 0.9, 4, 5 / 14)


def test_early_weights_are_forgotten() -> None:
    average, network = Network(0), Network(1)
    for step in range(200):
        update(average, network, 0.9999, step)
    # Π (1 + s) / (10 + s) = 9! · 200! / 209!, times the distance at the start
    torch.testing.assert_close(average.a.detach(), network.a.detach(), rtol=0, atol=1e-9)


def test_the_copy_is_independent_and_only_for_evaluation() -> None:
    network = Network(0).train()
    average = ema_copy(network)
    assert not average.training
    assert not any(parameter.requires_grad for parameter in average.parameters())
    with torch.no_grad():
        network.a.add_(1)
    assert not torch.equal(average.a, network.a)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
