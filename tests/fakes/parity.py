"""Some steps of training in float64, in one process or in several, kept in files.

A variant is strategy:accumulation:recomputed:recipe;KEY=VALUE;…
Kept of each: the metrics, the student's gradient at each step, and the weights at the end.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ffcore.recipe import load_recipe
from ffcore.run.build import build
from ffcore.system import distributed as parallel
from ffcore.training.distillation import Distillation
from ffcore.training.loop import train

STEPS = 2


def networks(run: Distillation) -> Iterator[tuple[str, nn.Module]]:
    yield "student", run.student
    yield from ((f"ema {decay}", each) for decay, each in run.emas.items())
    yield from ((name, each.network) for name, each in run.auxiliaries.items())


def built(recipe: str, overrides: Sequence[str], accumulation: int) -> Distillation:
    settings = [f"training.steps={STEPS}", f"parallel.accumulation={accumulation}"]
    run = build(load_recipe(recipe, [*overrides, *settings])).distillation
    run.teacher.double()
    for _, network in networks(run):
        network.double()
    return run


def steps(run: Distillation) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for index, each in enumerate(optimizer.param_groups[0]["params"]):
            found[f"gradient {run.step_index} {index}"] = parallel.whole(each.grad).clone()

    run.learner.optimizer.register_step_pre_hook(keep)
    for report in train(run, log_every=1):
        for name, value in report.metrics.items():
            found[f"metric {report.step} {name}"] = torch.tensor(value)
    for name, network in networks(run):
        for key, each in parallel.whole_state(network).items():
            found[f"weight {name} {key}"] = each.clone()
    return found


def work(rank: int, out: Path, variants: Sequence[str]) -> None:
    """Make the steps of each variant, in each of the processes."""
    del rank
    torch.set_default_dtype(torch.float64)
    with parallel.join_processes() as processes:
        for variant in variants:
            strategy, accumulation, recomputed, rest = variant.split(":", 3)
            recipe, *overrides = rest.split(";")
            run = built(recipe, overrides, int(accumulation))
            again = recomputed == "yes"
            run.parallelize(processes, strategy, activation_checkpointing=again)  # type: ignore[arg-type]
            found = steps(run)
            if processes.leads:
                save_file(found, out / f"{variants.index(variant)}.safetensors")
