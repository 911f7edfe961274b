"""What a checkpoint holds, and under which names."""

import pytest
import torch
from distillations import alone, joint
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from ffcore.training.checkpoint.contents import not_finite, tensors_of
from ffcore_mlp.student import MlpAverageVelocity


def test_every_part_is_there_by_the_names_of_its_parameters():
    names = set(tensors_of(joint()))
    for part in ("student", "ema/0.9", "auxiliary/online"):
        assert f"{part}/body.enter.weight" in names
    for part in ("optimizer", "auxiliary-optimizer/online"):
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert f"{part}/body.enter.weight/{key}" in names


def test_a_checkpoint_has_the_same_tensors_at_any_step():
    run = joint()
    before = {name: each.shape for name, each in tensors_of(run).items()}
    for _ in range(3):
        run.step()
    assert {name: each.shape for name, each in tensors_of(run).items()} == before


def test_moments_that_are_made_before_the_first_step_are_those_that_adamw_makes():
    plain, prepared = joint(), joint()
    tensors_of(prepared)
    for _ in range(3):
        plain.step()
        prepared.step()
    found = tensors_of(prepared)
    assert all(torch.equal(each, found[name]) for name, each in tensors_of(plain).items())


def test_a_parameter_that_is_not_trained_has_no_moments():
    student = MlpAverageVelocity(2, 0, width=8, depth=2)
    frozen, parameter = next(student.named_parameters())
    parameter.requires_grad_(False)
    run = alone(student=student)
    assert f"student/{frozen}" in tensors_of(run)
    assert not any(name.startswith(f"optimizer/{frozen}/") for name in tensors_of(run))


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch.compile's own
def test_names_do_not_depend_on_wrappers():
    bare = set(tensors_of(alone()))
    wrapped, compiled = alone(), alone()
    wrapped.student.body.enter = checkpoint_wrapper(wrapped.student.body.enter)  # type: ignore
    assert set(tensors_of(wrapped)) == bare
    # Not called, so that nothing is compiled.
    compiled.student.body.enter = torch.compile(compiled.student.body.enter)  # type: ignore
    assert any("_orig_mod" in name for name in compiled.student.state_dict())
    assert set(tensors_of(compiled)) == bare


def test_the_tensors_are_the_distillations_own():
    run = joint()
    run.step()
    for each in tensors_of(run).values():
        each.zero_()
    assert not any(each.any() for each in run.student.parameters())
    assert not any(each.any() for each in tensors_of(run).values())


BUFFERS = {
    f"{part}/{name}"
    for part in ("student", "ema/0.9", "auxiliary/online")
    for name in ("around.gaussian.mean", "around.gaussian.scale", "body.projections")
}
"""Not checked; see `not_finite`."""


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", sorted(set(tensors_of(joint())) - BUFFERS))
def test_any_number_that_is_not_finite_is_found_by_name(name, value):
    run = joint()
    assert not_finite(run) == []
    tensors_of(run)[name].view(-1)[-1] = value
    assert not_finite(run) == [name]


def test_a_buffer_may_hold_infinities():
    run = alone()
    run.student.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    assert not_finite(run) == []
