"""Steps of unusual students, in one process or in two; in float64, if that is the default."""

from collections.abc import Sequence
from pathlib import Path

import distillations
import torch
import unusual
from safetensors.torch import save_file
from torch import Tensor

from ffcore.flow.exact import GaussianMixture
from ffcore.system.distributed import Processes, join_processes, whole_state
from ffcore.training.distillation import Distillation
from ffcore.training.optimizer import Optimizer

STEPS = 3


def made(part: str, accumulation: int = 1) -> Distillation:
    """A run of 4 samples, so that a process often has no sample of a label."""
    torch.manual_seed(0)
    teacher = GaussianMixture([[1.0, 0.0], [-1.0, 0.5]], 0.5, labels=[0, 1])
    student = unusual.Network(getattr(unusual, part)())
    return distillations.alone(
        teacher=teacher, student=student, batch=4, accumulation=accumulation,
        optimizer=Optimizer(learning_rate=1e-2, weight_decay=0.1), ema_decays=[0.9],
    )  # fmt: skip


def results(part: str, processes: Processes, strategy: str, accumulation: int) -> dict[str, Tensor]:
    """The losses, the gradients' norms, and the weights at the end."""
    run = made(part, accumulation)
    run.parallelize(processes, strategy)  # type: ignore[arg-type]
    found: dict[str, Tensor] = {}
    for step in range(STEPS):
        metrics = run.step()
        found[f"loss {step}"] = metrics["loss"]
        found[f"gradient {step}"] = metrics["gradient_norm"]
    for name, network in (("student", run.student), ("ema", run.ema)):
        for key, each in whole_state(network).items():
            whole = torch.view_as_real(each) if each.is_complex() else each
            found[f"{name} {key}"] = whole.clone()
    return found


def work(rank: int, folder: Path, ways: Sequence[tuple[str, str, int]]) -> None:
    """Keep the results of each way, or the error."""
    torch.set_default_dtype(torch.float64)
    with join_processes() as processes:
        for index, (part, strategy, accumulation) in enumerate(ways):
            try:
                found = results(part, processes, strategy, accumulation)
            except ValueError as error:
                (folder / f"{index}.{rank}.txt").write_text(str(error))
                continue
            if rank == 0:
                save_file(found, folder / f"{index}.safetensors")
