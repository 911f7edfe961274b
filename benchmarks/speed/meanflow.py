r"""A MeanFlow step beside one of a public implementation in PyTorch, on equal networks.

    FFCORE_MEANFLOW=<folder> python benchmarks/speed/meanflow.py [--case S/2@128] [--batch 8]

FFCORE_MEANFLOW names a folder with sit.py and loss.py of github.com/zhuyu-cs/MeanFlow (commit
04d183c; needs timm). Its step is its training script's: its loss, clipping, Adam, and its moving
average, at its defaults, without fused attention, which its torch.func.jvp cannot pass. Ours is the
training step of `ffd run`, with the same batch and the same share of samples whose δ is not 0.
Guided: γ = 2 in t ≤ 0.8, κ = 0, a tenth of the labels dropped. Weights are copied before, and the
outputs and the gradients of an unguided step compared. Steps take turns in one process, twice in a
row, and the second time counts. In `ffd run` freed memory stays (ffcore.system.allocator); the
public step is measured as it comes, and so too ("memory kept"). Ratios are those of ratio.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, cast
from unittest import mock

import click
import torch
from cases import distillation, sit_arguments
from ratio import Ratio
from timing import apart, follow, machine, outside, seconds, table, wake
from torch import Tensor, nn

from ffcore.draws import Draws
from ffcore.flow.guidance import Guided, remove_guidance
from ffcore.interfaces import Condition, DataSource, Teacher
from ffcore.nn.student import TransformerStudent
from ffcore.nn.transformer import Transformer
from ffcore.nn.velocity import TransformerVelocity
from ffcore.system.allocator import keep_freed_memory
from ffcore.training.distillation import Distillation
from ffcore.training.optimizer import Optimizer
from ffcore_freeflow.balancer import AdaptiveBalancer
from ffcore_meanflow.objective import MeanFlowPredictor
from ffcore_repa.velocity import RepaPreconditioning

GAMMA = 2.0
TABLE = Optimizer(learning_rate=1e-4, betas=(0.9, 0.95))


class Noise(DataSource):
    """Data of the teacher's shape and labels that cost nothing to read."""

    def __init__(self, teacher: Teacher) -> None:
        self.sample_shape = teacher.sample_shape
        self.conditions = teacher.conditions

    def __len__(self) -> int:
        return 1000

    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        """Return samples; see DataSource."""
        return draws.normal("x", self.sample_shape), self.conditions.draw(draws)


def our_run(case: str, batch: int, unequal: float, guided: bool) -> Distillation:
    """Return a run of MeanFlow from data, in its first step."""
    like = distillation(case)
    teacher, size = remove_guidance(like.teacher), cast(TransformerStudent, like.student).size
    torch.manual_seed(0)
    velocity = TransformerVelocity(Transformer(size), RepaPreconditioning())
    student = TransformerStudent(velocity, starts_at="anywhere")
    wake(student)
    return Distillation(
        teacher=Guided(teacher, (0.0, 0.8)) if guided else teacher,
        student=student,
        predictor=MeanFlowPredictor(unequal=unequal),
        data=Noise(teacher),
        balancer=AdaptiveBalancer(power=0.0),
        optimizer=TABLE,
        steps=100_000,
        batch=batch,
        guidance=GAMMA if guided else 1.0,
    )


class Public:
    """The public implementation's step, on a network equal to ours, and on our data."""

    def __init__(self, run: Distillation, nets: ModuleType, losses: ModuleType) -> None:
        self.run = run
        student = cast(TransformerStudent, run.student)
        predictor = cast(MeanFlowPredictor, run.objectives["prediction"])
        guided = run.guidance != 1
        self.network: nn.Module = nets.SiT(
            **sit_arguments(student.size),
            decoder_hidden_size=student.size.width,
            fused_attn=False,
            qk_norm=False,
        )
        state = {_theirs(name): each for name, each in student.state_dict().items()}
        missing, unexpected = self.network.load_state_dict(state, strict=False)
        assert (missing, unexpected) == (["pos_embed"], [])
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.loss = losses.SILoss(
            ratio_r_not_equal_t=predictor.unequal,
            cfg_omega=GAMMA if guided else 1.0,
            cfg_max_t=0.8 if guided else -1.0,
            label_dropout_prob=0.1 if guided else 0.0,
        )
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=TABLE.learning_rate, betas=TABLE.betas
        )

    def gradient(self, data: Tensor, labels: Tensor) -> Tensor:
        """Leave the gradient of the mean loss in the network; return that loss."""

        def model(*inputs: Any, **named: Any) -> Any:  # within a wrapper, as the loss expects it
            return self.network(*inputs, **named)

        model.module = SimpleNamespace(num_classes=self.network.num_classes)  # type: ignore[attr-defined]
        losses, _ = self.loss(model, data, {"y": labels})
        loss: Tensor = losses.mean()
        loss.backward()
        return loss.detach()

    def step(self) -> None:
        """Make a step."""
        batch = self.run._batch("prediction", self.run.batch, slice(self.run.batch))
        assert batch.data is not None
        assert batch.condition.label is not None
        loss = self.gradient(batch.data, batch.condition.label)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        follow(self.average, self.network)
        loss.item(), norm.item()

    def differences(self) -> tuple[float, float]:
        """Return how the outputs, and the gradients of an unguided step, differ; relative."""
        run = self.run
        predictor = cast(MeanFlowPredictor, run.objectives["prediction"])
        run._gradient(run._shares(0))
        batch = run._batch("prediction", run.batch, slice(run.batch))
        t, delta = predictor._times(batch.draws, batch.z)
        data, label = batch.data, batch.condition.label
        assert data is not None
        assert label is not None
        with torch.no_grad():
            ours = run.student(batch.z, t, delta, batch.condition)
            theirs = self.network(batch.z, t - delta, t, label)
        with (
            mock.patch.object(self.loss, "sample_time_steps", return_value=(t - delta, t)),
            mock.patch("torch.randn_like", return_value=batch.z),
        ):
            self.gradient(data, label)
        named = dict(self.network.named_parameters())
        scale = 2 * data[0].numel()  # its loss is a sum over d, ours half a mean
        gradients = [each.grad for each in run.student.parameters()]
        public = [named[_theirs(name)].grad for name, _ in run.student.named_parameters()]
        run.student.zero_grad(set_to_none=True)
        self.network.zero_grad(set_to_none=True)
        scaled = [each if each is None else each / scale for each in public]
        return apart([ours], [-theirs]), apart(gradients, scaled)


def _theirs(name: str) -> str:
    name = name.removeprefix("velocity.transformer.")
    return name.replace("delta_embedder.", "r_embedder.")


def forward(run: Distillation) -> Callable[[], object]:
    """Return a gradient-free forward of our network on a batch."""
    draws = run.draws("forward")
    z, t = draws.normal("z", run.teacher.sample_shape), draws.uniform("t")
    condition = run.teacher.conditions.draw(draws)

    @torch.no_grad()
    def made() -> None:
        run.student(z, t, t, condition)

    return made


@click.command()
@click.option("--case", default="S/2@128", show_default=True)
@click.option("--batch", default=8, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(case: str, batch: int, rounds: int) -> None:
    """Measure, and print a table."""
    print("# A step of MeanFlow beside a public implementation's\n")
    nets = outside("FFCORE_MEANFLOW", "sit.py", "public_sit")
    losses = outside("FFCORE_MEANFLOW", "loss.py", "public_loss")
    if isinstance(nets, str) or isinstance(losses, str):
        print(f"Left out: {nets if isinstance(nets, str) else losses}")
        return
    run = our_run(case, batch, 0.75, guided=False)
    outputs, gradients = Public(run, nets, losses).differences()
    print(f"{case}, batch {batch}, float32, {machine()}. In units of a gradient-free forward.")
    print(f"Outputs differ by {outputs:.1e}, gradients by {gradients:.1e}, relative.\n")
    kept = "memory kept"
    row = table("", "δ > 0", "ours", "public", "÷ ours", f"public, {kept}", "÷ ours")
    for guided in (False, True):
        for unequal in (1.0, 0.75, 0.25):
            run = our_run(case, batch, unequal, guided)
            public = Public(run, nets, losses)
            works = {"forward": forward(run), "ours": run.step, "public": public.step}
            taken = _by_round(works, rounds)
            forwards = {name: Ratio.of(each, taken["forward"]) for name, each in taken.items()}
            row(
                "guided" if guided else "unguided",
                f"{unequal:.0%}",
                f"{forwards['ours']:.2f}",
                f"{forwards['public']:.2f}",
                f"**{Ratio.of(taken['public'], taken['ours']):.2f}**",
                f"{forwards['public, memory kept']:.2f}",
                f"{Ratio.of(taken['public, memory kept'], taken['ours']):.2f}",
            )


def _by_round(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each by round, and of the public step where freed memory is kept."""
    taken: dict[str, list[float]] = {}

    def time(name: str, work: Callable[[], object]) -> None:
        work()
        taken.setdefault(name, []).append(seconds(work))

    for _ in range(rounds):
        with keep_freed_memory():
            time("forward", works["forward"])
            time("ours", works["ours"])
            time("public, memory kept", works["public"])
        time("public", works["public"])
    return taken


if __name__ == "__main__":
    main()
