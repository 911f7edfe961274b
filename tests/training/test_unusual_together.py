"""Students built in unusual ways, trained by two processes."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import unusual_runs
from forked import apart
from safetensors.torch import load_file

from ffcore.system.distributed import Processes
from ffcore.training.learner import Learner

PARTS = ("Tied", "Spectral", "Masked", "ByLabel", "SharedBlocks", "Mixed", "ByKeyword")
WAYS = [*itertools.product(PARTS, ("ddp", "fsdp"), (1, 2))]
REFUSED = {
    "Direct": r"the student uses the weights of middle\.blocks\.0 without calling it",
    "Keeps": r"the student also keeps its parameter middle\.layer\.weight elsewhere",
    "Viewed": r"the parameter middle\.layer\.weight and the buffer middle\.transposed are in the",
}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes do, each way."""
    folder = tmp_path_factory.mktemp("together")
    apart(unusual_runs.work, folder, [*WAYS, *((part, "fsdp", 1) for part in REFUSED)])
    return folder


@pytest.fixture(autouse=True)
def wide() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("part", PARTS)
def test_two_processes_do_what_one_does(part: str, together: Path) -> None:
    expected = unusual_runs.results(part, Processes(), "ddp", 1)
    for index, way in enumerate(WAYS):
        if way[0] == part:
            found = load_file(together / f"{index}.safetensors")
            assert found.keys() == expected.keys()
            for name, each in expected.items():
                torch.testing.assert_close(found[name], each, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("part", REFUSED)
def test_what_cannot_be_sharded_is_refused_by_name_in_both(part: str, together: Path) -> None:
    index = len(WAYS) + [*REFUSED].index(part)
    for rank in (0, 1):
        found = (together / f"{index}.{rank}.txt").read_text()
        assert re.search(REFUSED[part], found)


def test_a_parameter_without_use_has_the_gradient_zero() -> None:
    run = unusual_runs.made("ByLabel")
    never = run.student.middle.never.weight
    before = never.detach().clone()
    seen = []
    run.learner.optimizer.register_step_pre_hook(lambda *_: seen.append(never.grad.clone()))
    run.step()
    assert not seen[0].any()
    rate, decay = run.learner.table.learning_rate, run.learner.table.weight_decay
    torch.testing.assert_close(never.detach(), before * (1 - rate * decay))


def test_a_learner_trains_no_parameter_twice() -> None:
    run = unusual_runs.made("SharedBlocks")
    learner = Learner.of(run.student, run.learner.table)
    assert len({id(each) for each in learner.parameters}) == len(learner.parameters)
