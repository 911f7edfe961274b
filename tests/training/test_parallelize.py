"""Several processes do what one does: the same loss, gaps, λ, gradients and weights."""

from collections.abc import Sequence
from pathlib import Path

import distillations
import pytest
import torch
from forked import apart
from parity import built, work
from safetensors.torch import load_file
from torch import Tensor, nn
from unusual import ByKeyword, Network

from ffcore.flow.backend import Backend
from ffcore.flow.derivative import Derivative
from ffcore.recipe import load_recipe
from ffcore.recipe.components import BuildError
from ffcore.run.build import build
from ffcore.system.distributed import Processes
from ffcore.training.parallelize import units
from ffcore_freeflow.objective import FreeFlowPredictor

TOLERANCE = 1e-10
GUIDED = "digits_guided.toml;training.batch=16;corrector.guidance_interval=[0.0,0.6]"
RECIPES = {
    "finite differences, guided": f"{GUIDED};training.ema_decay=[0.99,0.5]",
    "jvp": "digits.toml;training.batch=16;predictor.derivative=jvp;corrector.online_updates=2",
    "dual": "digits.toml;training.batch=16;predictor.derivative=dual",
    "data": "digits_meanflow.toml;training.batch=16;predictor.derivative=dual",
    "pairs": "digits.toml;training.batch=16;predictor={type='pairs', pairs=40, solver={steps=2}}",
}
WAYS = [
    (strategy, accumulation, recomputed)
    for strategy in ("ddp", "fsdp")
    for accumulation, recomputed in ((1, "no"), (2, "yes"))
]
WHOLE = ("ddp", 1, "no")
PARTS = [("ddp", 2, "no"), ("ddp", 4, "yes")]


def variant(recipe: str, strategy: str, accumulation: int, recomputed: str) -> str:
    return f"{strategy}:{accumulation}:{recomputed}:{RECIPES[recipe]}"


Results = dict[tuple[str, str, int, str], dict[str, Tensor]]


def results(folder: Path, ranks: int, ways: Sequence[tuple[str, int, str]]) -> Results:
    """What so many processes do with every recipe, each way."""
    asked = [(name, *way) for name in RECIPES for way in ways]
    apart(work, folder, [variant(*each) for each in asked], ranks=ranks)
    return {each: load_file(folder / f"{i}.safetensors") for i, each in enumerate(asked)}


@pytest.fixture(scope="module")
def by_one(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What one process does, in one piece and in several."""
    return results(tmp_path_factory.mktemp("one"), 1, [WHOLE, *PARTS])


@pytest.fixture(scope="module")
def alone(by_one: Results) -> dict[str, dict[str, Tensor]]:
    """What one process does, in one piece."""
    return {name: by_one[name, *WHOLE] for name in RECIPES}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What two processes do, each way."""
    return results(tmp_path_factory.mktemp("two"), 2, WAYS)


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
    together: Results,
) -> None:
    found = together[recipe, strategy, accumulation, recomputed]
    assert difference(found, alone[recipe]) <= TOLERANCE


@pytest.mark.parametrize("recipe", RECIPES)
def test_micro_batches_do_what_the_whole_batch_does(
    recipe: str, alone: dict[str, dict[str, Tensor]], by_one: Results
) -> None:
    for way in PARTS:
        assert difference(by_one[recipe, *way], alone[recipe]) <= TOLERANCE


def test_units_are_the_items_of_the_outermost_lists() -> None:
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.GELU()])

        def forward(self, x: Tensor) -> Tensor:
            raise NotImplementedError

    inner = nn.Module()
    inner.stages = nn.ModuleList([Stage(), Stage()])
    outer = nn.Sequential(nn.Linear(2, 2), inner)
    assert units(outer) == list(inner.stages)
    assert units(inner.stages[0]) == [inner.stages[0].blocks[0]]
    assert units(outer[0]) == [outer[0]]


def test_an_item_that_cannot_be_called_is_no_unit_but_its_items_are() -> None:
    network = ByKeyword()
    first, second, rest = network.blocks
    assert units(network) == [first, second, *rest]


def test_an_item_in_two_places_is_one_unit() -> None:
    block = nn.Linear(2, 2)
    assert units(nn.Sequential(nn.ModuleList([block, block]), nn.ModuleList([block]))) == [block]


@pytest.mark.parametrize("backend", ["dual", "jvp", "finite-difference"])
def test_blocks_called_by_keyword_are_recomputed_to_the_last_bit(backend: Backend) -> None:
    predictor = FreeFlowPredictor(derivative=Derivative(backend=backend))
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        run = distillations.alone(student=Network(ByKeyword()), predictor=predictor)
        calls = [0]
        layer = run.student.middle.blocks[0].layer
        layer.register_forward_hook(lambda *_, calls=calls: calls.__setitem__(0, calls[0] + 1))
        run.parallelize(Processes(), activation_checkpointing=again)
        losses = [float(run.step()["loss"]) for _ in range(3)]
        found.append((losses, distillations.contents(run), calls[0]))
    (losses, weights, calls), (again, others, more) = found
    assert losses == again
    assert distillations.same(weights, others)
    assert more == calls + 3  # once more in each step


def test_a_batch_too_small_for_so_many_parts_is_refused() -> None:
    with pytest.raises(BuildError, match="correction has 2 of the batch's 8 samples, but 1 pro"):
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
)  # one network of attention blocks is enough: mixture.toml has the corrector's
def test_compiled_networks_do_what_others_do(name: str, derivative: str) -> None:
    torch.compiler.reset()
    found = []
    for compiled in (False, True):
        short = [f"predictor.derivative={derivative}", "training.batch=16"]
        short += ["corrector=none"] if name == "digits.toml" else []
        recipe = load_recipe(name, short)
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
