"""Tensors that share memory, or that no file can hold."""

import pytest
import torch
from distillations import alone
from torch import Tensor, nn
from unusual import WIDTH, Network, Spectral, Tied, Viewed

from ffcore.training.ema import ema_copy, update
from ffcore.training.tensors import check_tensors, shared


class Both(nn.Module):
    """Two parameters made by a function of one tensor."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(first), nn.Parameter(second)


WHOLE = torch.zeros(6, 6)


def test_only_different_tensors_of_one_storage_share_it() -> None:
    assert shared(Tied()) == []
    network = Viewed()
    found = [{id(each) for each in group} for group in shared(network)]
    assert found == [
        {id(network.left), id(network.right)},
        {id(network.layer.weight), id(network.transposed)},
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (WHOLE, WHOLE.T),
        (WHOLE[:4], WHOLE[3:]),
        (WHOLE[:, :4], WHOLE[:, 3:]),
        (WHOLE, torch.view_as_complex(WHOLE.view(18, 2))),
    ],
)
def test_two_parameters_in_the_same_memory_are_refused(first: Tensor, second: Tensor) -> None:
    with pytest.raises(ValueError, match="it: first and second are two parameters in the same"):
        check_tensors(Both(first, second), "it", "cpu")


@pytest.mark.parametrize(
    ("first", "second"),
    [(WHOLE[:3], WHOLE[3:]), (WHOLE[:, :3], WHOLE[:, 3:]), (WHOLE[::2], WHOLE[1::2])],
)
def test_two_parameters_that_divide_memory_are_not(first: Tensor, second: Tensor) -> None:
    check_tensors(Both(first, second), "it", "cpu")


def test_a_parameter_with_one_number_in_several_places_is_refused() -> None:
    with pytest.raises(ValueError, match="it: second is an expanded view"):
        check_tensors(Both(WHOLE, torch.ones(1).expand(3)), "it", "cpu")


def test_a_buffer_that_would_leave_its_parameter_is_refused() -> None:
    check_tensors(Viewed(), "it", "cpu")
    with pytest.raises(ValueError, match=r"layer\.weight and the buffer transposed .* on meta"):
        check_tensors(Viewed(), "it", "meta")


def test_state_that_no_file_can_hold_is_refused_with_its_module() -> None:
    class Counts(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

    student = Network(nn.Sequential(Counts(WIDTH, WIDTH)))
    with pytest.raises(ValueError, match=r"the student: middle\.0 has state that is neither"):
        alone(student=student)


def test_a_state_dict_that_cannot_be_loaded_again_is_refused() -> None:
    network = Network(nn.Linear(WIDTH, WIDTH))
    network._register_state_dict_hook(lambda *given: {"other": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"the student: its state_dict\(\) lacks enter\.bias"):
        alone(student=network)


def test_a_parameter_without_a_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"middle\.weight of the student .* has no shape yet"):
        alone(student=Network(nn.LazyLinear(WIDTH)))


def test_an_average_shares_memory_as_its_network_does() -> None:
    network = Network(Viewed())
    average = ema_copy(network)
    weight = average.middle.layer.weight
    assert average.middle.transposed.data_ptr() == weight.data_ptr()
    assert weight.data_ptr() != network.middle.layer.weight.data_ptr()
    assert average.middle.plain.data_ptr() == weight.data_ptr()
    assert average.middle.bias is average.middle.layer.bias
    before, bias = weight.detach().clone(), average.middle.bias.detach().clone()
    with torch.no_grad():
        network.middle.layer.weight.add_(1)
        network.middle.layer.bias.add_(1)
    update(average, network, 0.5, 10**6)
    torch.testing.assert_close(weight.detach(), before + 0.5)
    torch.testing.assert_close(average.middle.bias.detach(), bias + 0.5)
    assert torch.equal(average.middle.transposed, weight.detach().T)


def test_an_average_copies_integers() -> None:
    network = Network(nn.Identity())
    network.index = nn.Parameter(torch.arange(3), requires_grad=False)
    average = ema_copy(network)
    network.index.data.add_(1)
    update(average, network, 0.5, 10**6, torch.tensor(False))
    assert average.index.tolist() == [0, 1, 2]
    update(average, network, 0.5, 10**6, torch.tensor(True))
    assert average.index.tolist() == [1, 2, 3]


def test_complex_parameters_move_as_pairs_of_real_ones() -> None:
    """AdamW's first step is −rate · sign of the gradient, and so for each part by itself."""
    torch.manual_seed(0)
    run = alone(student=Network(Spectral()), clip=None)
    gradients, before = {}, {}

    def keep(*_: object) -> None:
        for name, each in run.student.named_parameters():
            gradients[name], before[name] = each.grad.clone(), each.detach().clone()

    run.learner.optimizer.register_step_pre_hook(keep)
    run.step()
    rate = run.learner.table.learning_rate
    for name in ("middle.filter", "middle.gain"):
        moved = run.student.get_parameter(name).detach() - before[name]
        for part in ("real", "imag"):
            gradient = getattr(gradients[name], part)
            expected = -rate * gradient.sign() * (gradient.abs() > 1e-6)
            torch.testing.assert_close(
                getattr(moved, part)[gradient.abs() > 1e-4],
                expected[gradient.abs() > 1e-4],
                rtol=2e-3, atol=1e-7,
            )  # fmt: skip
        assert run.student.get_parameter(name).grad is None
        average = run.ema.get_parameter(name).detach()
        torch.testing.assert_close(average, before[name] + 0.9 * moved)  # d = 1 / 10 at step 0
