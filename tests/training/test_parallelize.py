"""Several processes do what one does: the same loss, gaps, λ, gradients and weights."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from parity import built
from safetensors.torch import load_file
from torch import Tensor, nn

from ffcore.recipe import load_recipe
from ffcore.recipe.components import BuildError
from ffcore.run.build import build
from ffcore.system.distributed import Processes
from ffcore.training.parallelize import units

WORKER = Path(__file__).parents[1] / "fakes" / "parity.py"
TOLERANCE = 1e-10
GUIDED = "digits_guided.toml;training.batch=16;corrector.guidance_interval=[0.0,0.6]"
RECIPES = {
    "finite differences, guided": f"{GUIDED};training.ema_decay=[0.99,0.5]",
    "jvp": "digits.toml;training.batch=16;predictor.derivative=jvp;corrector.online_updates=2",
    "dual": "digits.toml;training.batch=16;predictor.derivative=dual",
    "data": "digits_meanflow.toml;training.batch=16;predictor.derivative=dual",
}
WAYS = [
    (strategy, accumulation, recomputed)
    for strategy in ("ddp", "fsdp")
    for accumulation, recomputed in ((1, "no"), (2, "yes"))
]


def variant(recipe: str, strategy: str, accumulation: int, recomputed: str) -> str:
    return f"{strategy}:{accumulation}:{recomputed}:{RECIPES[recipe]}"


def results(folder: Path, processes: int, variants: Sequence[str]) -> list[dict[str, Tensor]]:
    folder.mkdir()
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone"]
        launch += ["--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*launch, str(WORKER), str(folder), *variants],
        capture_output=True, text=True, check=False, timeout=300, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [load_file(folder / f"{index}.safetensors") for index in range(len(variants))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """What one process does, in one piece."""
    folder = tmp_path_factory.mktemp("alone") / "results"
    found = results(folder, 1, [variant(name, "ddp", 1, "no") for name in RECIPES])
    return dict(zip(RECIPES, found, strict=True))


Together = dict[tuple[str, str, int, str], dict[str, Tensor]]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    """What two processes do, each way."""
    asked = [(name, *way) for name in RECIPES for way in WAYS]
    folder = tmp_path_factory.mktemp("together") / "results"
    found = results(folder, 2, [variant(*each) for each in asked])
    return dict(zip(asked, found, strict=True))


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The greatest of ‖found − expected‖ / ‖expected‖ over what a run leaves."""
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - each).norm() / each.norm().clamp(min=1e-3))
        for name, each in expected.items()
    )


@pytest.mark.parametrize(("strategy", "accumulation", "recomputed"), WAYS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_processes_do_what_one_does(
    recipe: str,
    strategy: str,
    accumulation: int,
    recomputed: str,
    alone: dict[str, dict[str, Tensor]],
    together: Together,
) -> None:
    found = together[recipe, strategy, accumulation, recomputed]
    assert difference(found, alone[recipe]) <= TOLERANCE


@pytest.mark.parametrize("recipe", RECIPES)
def test_micro_batches_do_what_the_whole_batch_does(
    recipe: str, alone: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    ways = [(2, "no"), (4, "yes")]
    asked = [variant(recipe, "ddp", *way) for way in ways]
    for found in results(tmp_path / "parts", 1, asked):
        assert difference(found, alone[recipe]) <= TOLERANCE


def test_units_are_the_items_of_the_outermost_lists() -> None:
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.GELU()])

    inner = nn.Module()
    inner.stages = nn.ModuleList([Stage(), Stage()])
    outer = nn.Sequential(nn.Linear(2, 2), inner)
    assert units(outer) == list(inner.stages)
    assert units(inner.stages[0]) == [inner.stages[0].blocks[0]]
    assert units(outer[0]) == [outer[0]]


def test_a_batch_too_small_for_so_many_parts_is_refused() -> None:
    with pytest.raises(BuildError, match="correction has 2 of the batch's 8 samples, and 1 pro"):
        built("digits.toml", ["training.batch=8"], 4)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # asked, and hidden, by the compiler
@pytest.mark.parametrize(
    ("name", "derivative"),
    [
        ("mixture.toml", "jvp"),
        ("mixture.toml", "finite-difference"),
        ("mixture.toml", "dual"),
        ("digits.toml", "dual"),
    ],
)
def test_compiled_networks_do_what_others_do(name: str, derivative: str) -> None:
    torch.compiler.reset()
    found = []
    for compiled in (False, True):
        recipe = load_recipe(name, [f"predictor.derivative={derivative}", "training.batch=16"])
        run = build(recipe).distillation
        run.parallelize(Processes(), compiled=compiled)
        metrics = [run.step() for _ in range(2)][-1]
        found.append((metrics, [each.detach() for each in run.student.parameters()]))
    (plain, expected), (metrics, weights) = found
    for name, value in plain.items():
        assert metrics[name] == pytest.approx(float(value), rel=1e-4)
    for one, other in zip(weights, expected, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()
    assert any(each._compiled_call_impl is not None for each in run.student.modules())
