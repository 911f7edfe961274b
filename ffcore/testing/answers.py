"""A component's outputs in a case, by name, from fixed inputs."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from ffcore.interfaces import (
    Condition,
    ConditionSource,
    DataSource,
    Gap,
    Norms,
    Objective,
    Tracker,
)
from ffcore.testing.case import OBJECTIVES, SIZE, Case

Answers = dict[str, Tensor]
NAMES: tuple[Objective, ...] = ("prediction", "correction")

RUN = "a run"
RECIPE = {"student": {"type": "mlp", "width": 16}, "training": {"steps": 5, "clip": "none"}}
NUMBERS = {"loss": 0.25, "seconds/predictor": 0.01}
"""The numbers for trackers, which get copies because a faulty one may change them."""


def answers(case: Case, live: Any) -> Answers:
    """Return the outputs of `live` for a batch, called as its role prescribes."""
    if case.role in OBJECTIVES:
        return _of_objective(case, live)
    if case.role == "balancer":
        return _of_balancer(live)
    if case.role == "data":
        data, condition = live.read(indices_of(live), case.draws().named("data"))
        return {"data": data, **condition.tensors()}
    if case.role == "conditions":
        drawn: Condition = live.draw(case.draws().named("condition"))
        return drawn.tensors() | {f"null {name}": x for name, x in _null(live, drawn).items()}
    if case.role == "tracker":
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            write_picture(Path(folder))
            report(live, Path(folder))
        return {}
    return {"output": live(*arguments(case, live))}


def arguments(case: Case, live: Any, at: float | None = None) -> tuple[Any, ...]:
    """Return the arguments of `forward` for a network of this role.

    `at` fixes the time of a velocity, or the duration of a student that starts at the prior.
    """
    teacher = case.teacher(live)
    draws = case.draws()
    x = draws.normal("x", teacher.sample_shape)
    if case.role in ("features", "decoder"):
        return (0.3 * x.clamp(-3, 3),)
    condition = case.condition(teacher, draws)
    t = draws.uniform("t") if at is None else torch.full((SIZE,), at)
    if case.role != "student":
        return x, t, condition
    if at is not None or live.starts_at == "prior":
        return x, torch.ones_like(t), t, condition
    return x, t, t * draws.uniform("delta"), condition


def report(
    tracker: Tracker, folder: Path, *, steps: Iterable[int] = (1, 2), finished: bool = True
) -> None:
    """Report a run with these steps to a tracker. Call `write_picture` first."""
    first, *others = steps
    tracker.open(folder, RUN, copy.deepcopy(RECIPE), first - 1)
    for step in (first, *others):
        tracker.track(step, dict(NUMBERS))
    tracker.show(step, "samples", _picture_of(folder))
    tracker.close(finished=finished)


def write_picture(folder: Path) -> None:
    """Write a small picture beside the folder of a tracker."""
    from PIL import Image

    Image.new("RGB", (4, 4), "orange").save(_picture_of(folder))


def _picture_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.png")


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two answers are equal to the last bit; NaN equals NaN."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def slice_inputs(inputs: tuple[Any, ...], part: slice) -> tuple[Any, ...]:
    """Return the arguments for some of the samples."""
    return tuple(each[part] for each in inputs)


def tensors(inputs: tuple[Any, ...]) -> list[Tensor]:
    """Return the tensors among the arguments, including those of conditions."""
    found: list[Tensor] = []
    for each in inputs:
        found += each.tensors().values() if isinstance(each, Condition) else [each]
    return found


def indices_of(source: DataSource) -> Tensor:
    """Return indices for a data source: both ends, the middle and repetitions."""
    return torch.tensor([0, len(source) - 1, 0, len(source) // 2, 1, 0]) % len(source)


def gap_of(name: str = "gap") -> Gap:
    """Return a gap whose samples differ in size by orders of magnitude."""
    generator = torch.Generator().manual_seed(len(name))
    output, gap = torch.randn(2, SIZE, 5, generator=generator)
    return Gap(output=output, gap=torch.logspace(-3, 1, SIZE)[:, None] * gap)


def norms_of() -> dict[Objective, Norms]:
    """Return norms of both objectives: means over a global batch."""
    means = {name: gap_of(name).norm().mean() for name in NAMES}
    return {name: Norms(raw=mean, weighted=0.5 * mean) for name, mean in means.items()}


def _of_objective(case: Case, live: Any) -> Answers:
    asked = case.prepared(live)
    found = live.gaps(asked.networks, asked.batch)
    named: Answers = {}
    for index, gap in enumerate(found.gaps):
        named |= {f"output {index}": gap.output, f"gap {index}": gap.gap}
    if found.samples is None:
        return named
    named["samples"] = found.samples
    for name, each in asked.auxiliaries.items():
        if each.loss is not None:
            draws = asked.batch.draws.named(name)
            losses = each.loss(each.network, found.samples, found.condition, draws)
            named[f"loss of {name}"] = losses
    return named


def _null(source: ConditionSource, condition: Condition) -> Answers:
    try:
        return source.null(condition).tensors()
    except ValueError:
        return {}


def _of_balancer(live: Any) -> Answers:
    named = {f"weights of {name}": live.weights(name, gap_of(name)) for name in NAMES}
    return named | {f"factor of {name}": each for name, each in live.scale(norms_of()).items()}
