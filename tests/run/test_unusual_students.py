"""Students built in unusual ways: trained, resumed, exported and loaded."""

from pathlib import Path

import pytest
import torch
from distillations import ends_as
from safetensors.torch import load_file
from small_runs import interrupted
from unusual import Masked, Spectral, Tied, Viewed

from ffcore.export import export, load_student
from ffcore.recipe import Recipe, load_recipe
from ffcore.run.stages import run
from ffcore.system.weights import Weights


def recipe(middle: str) -> Recipe:
    return load_recipe(
        "gaussian.toml",
        [
            f"student={{type='unusual:Unusual', middle='{middle}'}}",
            "training.steps=4", "training.batch=32", "training.log_every=2",
            "training.checkpoint_every=2", "training.ema_decay=[0.5, 0.9]",
            "predictor.derivative=dual", "evaluation.enabled=false", "evaluation.previews=0",
        ],
    )  # fmt: skip


@pytest.mark.parametrize("part", [Tied, Viewed, Spectral, Masked])
def test_a_student_can_be_kept_and_used(part: type, tmp_path: Path) -> None:
    run(recipe(part.__name__), tmp_path / "whole")
    interrupted(recipe(part.__name__), tmp_path / "resumed", 2)
    run(recipe(part.__name__), tmp_path / "resumed")
    assert ends_as(tmp_path / "whole", tmp_path / "resumed")
    export(tmp_path / "whole", tmp_path / "export")
    found = load_student(tmp_path / "export").state_dict()
    expected = load_student(tmp_path / "resumed").state_dict()
    assert found.keys() == expected.keys()
    for name, each in found.items():
        assert each.dtype == expected[name].dtype
        assert torch.equal(each, expected[name])


def test_one_name_of_a_tied_weight_is_enough_and_two_must_agree() -> None:
    network = Tied()
    state = {name: torch.randn(each.shape) for name, each in network.state_dict().items()}
    for name in ("two.weight", "again.weight"):
        state[name] = state["one.weight"]
    state["again.bias"] = state["one.bias"]
    few = {name: each for name, each in state.items() if name not in ("one.weight", "again.bias")}
    Weights(few, {}, "few").load_into(network)
    assert all(torch.equal(each, state[name]) for name, each in network.state_dict().items())
    state["two.weight"] = state["two.weight"] + 1
    with pytest.raises(Exception, match=r"one\.weight and two\.weight differ, but are one tensor"):
        Weights(state, {}, "both").load_into(network)
    assert torch.equal(network.one.weight, few["two.weight"])


def test_complex_numbers_are_written_as_pairs(tmp_path: Path) -> None:
    run(recipe("Spectral"), tmp_path)
    assert load_file(tmp_path / "student.safetensors")["middle.gain"].shape == (2,)
    assert load_student(tmp_path).state_dict()["middle.gain"].is_complex()
