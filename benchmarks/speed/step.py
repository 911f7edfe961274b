r"""A training step beside the passes that it cannot avoid, and beside the way everybody writes it.

    python benchmarks/speed/step.py [--case digits] [--case S/2@128] [--rounds 7] …
    python benchmarks/speed/step.py --device cuda --case B/2@256 --case XL/2@512 \
        --precision bfloat16 --compile

Everything takes turns in one process, twice in a row, and the second time counts. The step is the
training loop's: objectives, guidance, balancer, clipping, AdamW, moving average, g_ψ, and a report
every tenth step. Ratios of time are those of ratio.py. The floor is, of the very rows that the step
at hand has, the sum of

- student: forward and backward, of prediction and of correction;
- tangent: one more forward of the student on the rows of prediction;
- teacher: one forward for either objective, on guided rows a second;
- g_ψ: one forward on the rows of correction, and forward and backward for its own training.

Freed memory stays with the process meanwhile, as in `ffd run` on a CPU (ffcore.system.allocator).

`naive` is the plain way: torch.func.jvp with the graph kept through the tangent, a forward of its
own for the value, the teacher's branches one after the other over the whole batch, clipping, AdamW
and the moving average one tensor at a time, numbers read in every step, and memory as the C library
has it ("memory kept": as for us). On equal networks its
gradient is compared with ours before anything is timed.

Memory: what is kept for the backward, at most; "of a pass": in units of the largest pass of the
floor. FFCORE_SIT names a folder with the official SiT's models.py (github.com/willisma/SiT, needs
timm): its forward and backward are measured beside ours.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import attrs
import click
import torch
from cases import distillation, sit_arguments
from ratio import Ratio
from timing import Saved, apart, follow, in_turn, machine, outside, seconds, table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ffcore.flow.guidance import Guided, remove_guidance
from ffcore.flow.path import expand_like, interpolate
from ffcore.interfaces import Condition, Labels
from ffcore.nn.student import TransformerStudent
from ffcore.nn.velocity import TransformerVelocity
from ffcore.system.allocator import keep_freed_memory
from ffcore.system.distributed import Processes
from ffcore.training.distillation import Distillation
from ffcore.training.loop import train
from ffcore.training.optimizer import Optimizer
from ffcore_freeflow.balancer import AdaptiveBalancer
from ffcore_freeflow.objective import FreeFlowPredictor
from ffcore_vsd.objective import VsdCorrector

NAIVES = 5
"""In how many rounds the plain way is timed at most; it takes long."""


@attrs.frozen
class Asked:
    """What all cases have in common."""

    rounds: int
    device: str
    compiled: bool
    overrides: tuple[str, ...]

    @property
    def warm(self) -> int:
        """How many rounds do not count."""
        return 5 if self.compiled else 1


class Rows:
    """How many rows the teacher was asked for, call by call."""

    def __init__(self, teacher: nn.Module) -> None:
        self.asked: list[int] = []
        teacher.register_forward_pre_hook(lambda _, inputs: self.asked.append(len(inputs[0])))

    def take(self) -> list[int]:
        """Return them, and begin anew."""
        asked, self.asked = self.asked, []
        return asked


class Passes:
    """The passes of the floor, on rows such as a step has."""

    def __init__(self, run: Distillation, asked: Asked) -> None:
        self.run, self.asked = run, asked
        self.teacher = remove_guidance(run.teacher)
        self.online = run.auxiliaries["online"].network
        draws = run.draws("floor")
        z = draws.normal("z", run.teacher.sample_shape)
        condition = run._with_guidance(run.teacher.conditions.draw(draws), draws)
        self.z, self.t = torch.cat([z, z]), draws.uniform("t").repeat(2)
        self.condition = Condition.cat([condition, condition])

    def _given(self, rows: int) -> tuple[Tensor, Tensor, Condition]:
        return self.z[:rows], self.t[:rows], self.condition[:rows]

    def student(self, rows: int, *, gradient: bool = True) -> None:
        """Make a pass of the student, with its backward or without a gradient."""
        z, t, condition = self._given(rows)
        self._make(self.run.student, (z, torch.ones_like(t), t, condition), gradient)

    def velocity(self, network: nn.Module, rows: int, *, gradient: bool = False) -> None:
        """Make a pass of the teacher or g_ψ."""
        self._make(network, self._given(rows), gradient)

    def _make(self, network: nn.Module, inputs: tuple[Any, ...], gradient: bool) -> None:
        with torch.set_grad_enabled(gradient), self.run._autocast():
            output = network(*inputs)
        if gradient:
            output.square().mean().backward()
            network.zero_grad(set_to_none=True)

    def named(self, teacher_rows: list[int]) -> dict[str, Callable[[], None]]:
        """Return the passes of a step in which the teacher was asked for so many rows."""
        prediction, correction = self.run.balancer.split(self.run.batch, 0)
        guided, corrected = teacher_rows
        return {
            "student, prediction": lambda: self.student(prediction),
            "tangent": lambda: self.student(prediction, gradient=False),
            "teacher, prediction": lambda: self.velocity(self.teacher, guided),
            "student, correction": lambda: self.student(correction),
            "teacher, correction": lambda: self.velocity(self.teacher, corrected),
            "g_ψ, correction": lambda: self.velocity(self.online, correction),
            "g_ψ, training": lambda: self.velocity(self.online, correction, gradient=True),
        }


class Naive:
    """The plain way, of FreeFlow's step with guidance; it shares draws with ours and no network."""

    def __init__(self, run: Distillation) -> None:
        self.run = run
        self.student = copy.deepcopy(run.student)
        self.ema = copy.deepcopy(run.ema)
        self.online = copy.deepcopy(run.auxiliaries["online"].network)
        self.teacher = cast(Guided, run.teacher)
        self.corrected = cast(VsdCorrector, run.objectives["correction"])._teacher(self.teacher)
        self.optimizer = self._adam(self.student, run.learner.table)
        self.online_optimizer = self._adam(self.online, run.auxiliary_learners["online"].table)
        self.logged: list[dict[str, float]] = []

    def _adam(self, network: nn.Module, table: Optimizer) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            network.parameters(), lr=table.learning_rate, betas=table.betas, weight_decay=0.0
        )

    def guided(self, x_t: Tensor, t: Tensor, condition: Condition, teacher: Guided) -> Tensor:
        """Return the teacher's velocity, each branch over the whole batch."""
        null = teacher.conditions.null(condition)
        plain = attrs.evolve(condition, guidance=None)
        with_label = teacher.teacher(x_t, t, plain)
        without = teacher.teacher(x_t, t, null)
        low, high = teacher.interval
        assert condition.guidance is not None
        gamma = torch.where((t >= low) & (t <= high), condition.guidance, 1.0)
        push = expand_like(gamma - 1, x_t) * (with_label - without)
        if teacher.channels != "all":
            push[:, teacher.channels :] = 0
        return cast(Tensor, with_label + push)

    def gradient(self) -> tuple[dict[str, float], Tensor, Condition]:
        """Leave the step's gradient in the student; return what is logged, and g_ψ's samples."""
        run, batch = self.run, self.run.batch
        predictor = cast(FreeFlowPredictor, run.objectives["prediction"])
        corrector = cast(VsdCorrector, run.objectives["correction"])
        balancer = cast(AdaptiveBalancer, run.balancer)
        prediction, correction = balancer.split(batch, run.step_index)

        one = run._batch("prediction", prediction, slice(prediction))
        delta = predictor.delta.draw(one.draws, "delta").to(one.z)
        ones = torch.ones_like(delta)

        def average_velocity(duration: Tensor) -> Tensor:
            return cast(Tensor, self.student(one.z, ones, duration, one.condition))

        F = average_velocity(delta)
        with sdpa_kernel(SDPBackend.MATH):
            dF: Tensor = torch.func.jvp(average_velocity, (delta,), (ones,))[1]
        with torch.no_grad():
            f = one.z + expand_like(delta, F) * F
            u = self.guided(f, 1 - delta, one.condition, self.teacher)
        gap = (F + expand_like(delta, F) * dF - u).detach()
        d = gap[0].numel()
        norm = (gap.flatten(1).square().sum(1) / d).sqrt()
        weight = 1 / (norm**2 + balancer.weight_epsilon) ** balancer.power

        two = run._batch("correction", correction, slice(correction))
        ones = torch.ones(len(two.z), device=two.z.device)
        F_1 = self.student(two.z, ones, ones, two.condition)
        with torch.no_grad():
            samples = two.z + F_1
            r = corrector.r.draw(two.draws, "r").to(two.z)
            noised = interpolate(samples, two.draws.normal("noise", tuple(two.z.shape[1:])), r)
            v_N = self.online(noised, r, two.condition)
            gap_N = v_N - self.guided(noised, r, two.condition, cast(Guided, self.corrected))
        norm_N = (gap_N.flatten(1).square().sum(1) / d).sqrt()
        factor = balancer.alpha * (weight * norm).mean() / (norm_N.mean() + balancer.scale_epsilon)

        loss_P = (expand_like(weight, F) * gap * F).sum() / d / batch
        loss_N = factor * (gap_N * F_1).sum() / d / batch
        (loss_P + loss_N).backward()
        logged = {"gap": norm.mean().item(), "gap_N": norm_N.mean().item(), "λ": factor.item()}
        return logged, samples, two.condition

    def step(self) -> None:
        """Make a step."""
        logged, samples, condition = self.gradient()
        norm = torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        follow(self.ema, self.student)
        corrector = cast(VsdCorrector, self.run.objectives["correction"])
        draws = self.run.draws("correction", "online", "0")[: len(samples)]
        loss = corrector.flow_matching_loss(self.online, samples, condition, draws).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.online.parameters(), 1.0)
        self.online_optimizer.step()
        self.online_optimizer.zero_grad()
        self.logged.append(logged | {"norm": norm.item(), "online": loss.item()})

    def difference(self) -> float:
        """Return by how much its gradient differs from ours, relative; on equal networks."""
        self.gradient()
        naive = [each.grad for each in self.student.parameters()]
        self.student.zero_grad(set_to_none=True)
        run = self.run
        run._gradient(run._shares(run.step_index))
        ours = [each.grad for each in run.student.parameters()]
        run.student.zero_grad(set_to_none=True)
        return apart(naive, ours)


class Turns:
    """After every second step of the training loop: the floor's passes and the plain way, timed.

    Each is made twice and timed the second time: in training, too, a step follows a step.
    """

    def __init__(self, run: Distillation, asked: Asked) -> None:
        self.run, self.asked = run, asked
        self.rows = Rows(remove_guidance(run.teacher))
        self.passes = Passes(run, asked)
        self.naive = Naive(run)
        self.steps: list[float] = []
        self.floors: list[dict[str, float]] = []
        self.naives: list[float] = []
        self.helped: list[float] = []
        """The plain way where freed memory is kept, as for all else here (system/allocator.py)."""
        self.memory = ExitStack()
        self.again = False
        self.resumed = time.perf_counter()

    def __call__(self) -> bool:
        """Time, and do not stop."""
        if torch.device(self.asked.device).type == "cuda":
            torch.cuda.synchronize()
        taken = time.perf_counter() - self.resumed
        rows = self.rows.take()
        self.again = not self.again
        if not self.again:
            self.steps.append(taken)
            self.floors.append(self._twice(self.passes.named(rows)))
            if len(self.naives) < self.asked.warm + NAIVES:
                self.helped.append(self._twice({"naive": self.naive.step})["naive"])
                self.memory.close()
                self.naives.append(self._twice({"naive": self.naive.step})["naive"])
                self.memory.enter_context(keep_freed_memory())
                self.rows.take()
        self.resumed = time.perf_counter()
        return False

    def _twice(self, works: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        return [
            {name: seconds(work, self.asked.device) for name, work in works.items()}
            for _ in range(2)
        ][1]


@contextmanager
def most_saved(run: Distillation, naive: Naive) -> Iterator[Saved]:
    """Count what is kept for backward passes meanwhile."""
    networks = [remove_guidance(run.teacher), run.student, naive.student, naive.online]
    saved = Saved(*networks, *(each.network for each in run.auxiliaries.values()))
    with saved.watched():
        yield saved


def memory(turns: Turns) -> dict[str, float]:
    """Return the bytes kept at most: by a step, the plain way, and the floor's largest pass."""
    run, naive = turns.run, turns.naive
    works: dict[str, Callable[[], Any]] = {"step": run.step, "naive": naive.step}
    turns.rows.take()
    run._gradient(run._shares(run.step_index))
    run.student.zero_grad(set_to_none=True)
    for name, work in turns.passes.named(turns.rows.take()).items():
        works[f"pass {name}"] = work
    if torch.device(turns.asked.device).type == "cuda":
        found = {name: float(_peak(work)) for name, work in works.items()}
    else:
        found = {}
        for name, work in works.items():
            with most_saved(run, naive) as saved:
                work()
            found[name] = float(saved.most)
    largest = max(each for name, each in found.items() if name.startswith("pass"))
    return {"step": found["step"], "naive": found["naive"], "pass": largest}


def _peak(work: Callable[[], object]) -> int:
    work()  # what is made once is there
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return torch.cuda.max_memory_allocated() - before


def measure(case: str, asked: Asked) -> None:
    """Print what a case costs."""
    run = distillation(case, *asked.overrides)
    backend = cast(FreeFlowPredictor, run.objectives["prediction"]).derivative.backend
    turns = Turns(run, asked)
    where = f"batch {run.batch}, {run.precision}, derivative {backend}"
    print(f"\n## {case}: {where}, {machine(asked.device)}\n")
    print(f"gradient of naive against ours: {turns.naive.difference():.1e} relative\n")
    kept = memory(turns)
    run.parallelize(Processes(), compiled=asked.compiled)
    turns.rows.take()
    loop = train(run, log_every=10, stop=turns)
    warm = asked.warm
    with turns.memory:
        turns.memory.enter_context(keep_freed_memory())
        turns.resumed = time.perf_counter()
        while len(turns.steps) < asked.rounds + warm:
            next(loop)
        where_it_went = _where(turns, run)
    steps, floors = turns.steps[warm:], turns.floors[warm:]
    sums = [sum(each.values()) for each in floors]
    naives = {"naive": turns.naives[warm:], "naive, memory kept": turns.helped[warm:]}
    slower, helped = (Ratio.of(each, steps[: len(each)]) for each in naives.values())
    row = table("", "ms", "of the floor")
    row("**step**", f"{1e3 * statistics.median(steps):.1f}", f"**{Ratio.of(steps, sums):.3f}**")
    parts = {name: [each[name] for each in floors] for name in floors[0]}
    for name, taken in (parts | naives).items():
        share = Ratio.of(taken, sums[: len(taken)])
        row(name, f"{1e3 * statistics.median(taken):.1f}", f"{share:.3f}")
    print(
        f"\nnaive ÷ step: {slower:.2f}; where freed memory is kept for it too: {helped:.2f}. "
        f"Kept for the backward at most: step {_mib(kept['step'])}, "
        f"{kept['step'] / kept['pass']:.2f} of a pass; naive {_mib(kept['naive'])}; "
        f"step ÷ naive {kept['step'] / kept['naive']:.2f}."
    )
    print(f"\nOf the last steps, in ms: {where_it_went}")


def _mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"


def _where(turns: Turns, run: Distillation) -> str:
    """Return where the time of the loop's steps went, as the loop tells it."""
    run.time.read()
    taken: dict[str, list[float]] = {}
    for _ in range(3):
        run.step()
        for name, each in run.time.read().items():
            taken.setdefault(name, []).append(1e3 * each)
    return ", ".join(f"{name} {statistics.median(each):.1f}" for name, each in taken.items())


def official(case: str, asked: Asked, row: Callable[..., None]) -> None:
    """Print a row: our network beside the official SiT of the same size."""
    module = outside("FFCORE_SIT", "models.py", "official_sit")
    if isinstance(module, str):
        row(case, "left out:", module)
        return
    run = distillation(case, *asked.overrides)
    student = cast(TransformerStudent, run.student)
    size = student.size
    ours = TransformerVelocity(student.velocity.transformer, student.velocity.preconditioning)
    theirs = module.SiT(**sit_arguments(size), learn_sigma=False).to(asked.device)
    theirs.eval()  # drops no labels
    draws = run.draws("official")[: min(run.batch, 32)]
    x, t = draws.normal("x", size.sample_shape), draws.uniform("t")
    condition = cast(Labels, run.teacher.conditions).draw(draws)

    def forward(network: nn.Module, *inputs: Any, gradient: bool) -> None:
        with torch.set_grad_enabled(gradient), run._autocast():
            output = network(*inputs)
        if gradient:
            output.square().mean().backward()
            network.zero_grad(set_to_none=True)

    given = {"ours": (ours, x, t, condition), "SiT": (theirs, x, t, condition.label)}
    cases = {
        f"{name} {gradient}": (
            lambda each=each, gradient=gradient: forward(*each, gradient=gradient)
        )
        for gradient in (False, True)
        for name, each in given.items()
    }
    found = in_turn(cases, 3 * asked.rounds, asked.device)
    ratios = [Ratio.of(found[f"ours {each}"], found[f"SiT {each}"]) for each in (False, True)]
    row(case, *(f"{each:.3f}" for each in ratios))


@click.command()
@click.option("--case", "cases", multiple=True, default=("digits", "S/2@128"))
@click.option("--rounds", default=7, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", default="float32", show_default=True)
@click.option("--compile", "compiled", is_flag=True)
@click.option("--derivative", default="auto", show_default=True)
@click.option("--threads", type=int, help="CPU threads; without it, torch's own choice.")
@click.option("--set", "overrides", multiple=True, help="Override a key of the recipe.")
def main(
    cases: tuple[str, ...],
    rounds: int,
    device: str,
    precision: str,
    compiled: bool,
    derivative: str,
    threads: int | None,
    overrides: tuple[str, ...],
) -> None:
    """Measure, and print tables."""
    if threads:
        torch.set_num_threads(threads)
    common = (
        f"training.device='{device}'",
        f"training.precision='{precision}'",
        f"predictor.derivative='{derivative}'",
    )
    asked = Asked(rounds, device, compiled, (*common, *overrides))
    print("# A step and its floor")
    for case in cases:
        measure(case, asked)
    print("\n## Our network beside the official SiT, time ÷ time\n")
    row = table("", "forward", "forward and backward")
    with keep_freed_memory():
        for case in cases:
            official(case, asked, row)


if __name__ == "__main__":
    main()
