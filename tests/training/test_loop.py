"""The loop: reports, checkpoints, and training that goes astray."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import LinearStudent, LinearVelocity
from objectives import Correct, Even, Towards
from torch.utils._python_dispatch import TorchDispatchMode

from ffcore.interfaces import (
    Auxiliary,
    Batch,
    FrozenTeacher,
    Gap,
    Gaps,
    Networks,
    Ratio,
    Unconditional,
)
from ffcore.recipe import load_recipe
from ffcore.run.build import build
from ffcore.training.checkpoint import Checkpoints
from ffcore.training.distillation import Distillation
from ffcore.training.finite import Diverged
from ffcore.training.loop import Report, train
from ffcore.training.optimizer import Optimizer
from ffcore_freeflow.balancer import AdaptiveBalancer


class Astray(Towards):
    """A predictor whose gap is not finite in the steps `at`; from a single one, on."""

    def __init__(self, *at: int, value: float = float("nan")) -> None:
        super().__init__()
        self.at, self.value = at, value

    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        (gap,) = super().gaps(networks, batch).gaps
        made = batch.draws.step + 1
        astray = made in self.at or (len(self.at) == 1 and made > self.at[0])
        broken = gap.gap * self.value if astray else gap.gap
        return Gaps(gaps=(Gap(output=gap.output, gap=broken),))


def distillation(steps: int = 10, **arguments: Any) -> Distillation:
    given = {
        "teacher": FrozenTeacher(LinearVelocity(2), (2,), Unconditional()),
        "student": LinearStudent(2),
        "predictor": Towards(),
        "balancer": Even(),
        "optimizer": Optimizer(learning_rate=1e-2),
        "batch": 8,
    }
    return Distillation(**{**given, **arguments}, steps=steps)


def steps_of(run: Distillation, **arguments: Any) -> list[int]:
    return [report.step for report in train(run, **arguments)]


@pytest.mark.parametrize(
    ("log_every", "expected"),
    [(1, list(range(1, 11))), (3, [3, 6, 9, 10]), (5, [5, 10]), (50, [10])],
)
def test_reports_come_at_their_steps_and_at_the_end(log_every: int, expected: list[int]) -> None:
    assert steps_of(distillation(), log_every=log_every) == expected


def test_a_report_holds_the_mean_of_each_metric_since_the_one_before() -> None:
    run, twin = distillation(), distillation()
    for report, count in zip(train(run, log_every=4), (4, 4, 2), strict=True):
        made = [twin.step() for _ in range(count)]
        assert report.metrics.keys() == made[0].keys()
        for name, value in report.metrics.items():
            expected = sum(float(each[name]) for each in made) / count
            assert value == pytest.approx(expected, rel=1e-6)
        assert report.steps == 10
        assert report.steps_per_second > 0


def test_a_metric_that_comes_late_is_averaged_over_its_own_steps() -> None:
    run = distillation(
        corrector=Correct(), balancer=AdaptiveBalancer(correction=0.5, correction_from=3)
    )
    twin = distillation(
        corrector=Correct(), balancer=AdaptiveBalancer(correction=0.5, correction_from=3)
    )
    (report,) = train(run, log_every=10)
    gaps = [
        float(made["gap_correction"]) for made in (twin.step() for _ in range(10)) if len(made) > 3
    ]
    assert len(gaps) == 7
    assert report.metrics["gap_correction"] == pytest.approx(sum(gaps) / 7, rel=1e-6)


def test_the_time_left_is_that_of_the_steps_left() -> None:
    report = Report(
        step=30,
        steps=100,
        metrics={"loss": 0.5},
        steps_per_second=7.0,
        samples_per_second=56.0,
        seconds={"predictor": 0.1},
        memory_peak=2**30,
    )
    assert report.seconds_left == 10
    assert report.numbers == {
        "loss": 0.5,
        "steps_per_second": 7.0,
        "samples_per_second": 56.0,
        "seconds_left": 10.0,
        "memory_peak": 2**30,
        "seconds/predictor": 0.1,
    }


def test_a_report_tells_where_the_time_of_a_step_goes() -> None:
    online = Auxiliary(
        network=LinearVelocity(2),
        optimizer=Optimizer(),
        loss=lambda network, x, condition, draws: network(x, draws.uniform("t"), condition).sum(1),
    )
    run = distillation(
        corrector=Correct(auxiliaries={"online": online}),
        balancer=AdaptiveBalancer(correction=0.5),
    )
    run.step()  # which counts for no report
    begun, before = time.perf_counter(), 1
    for report in train(run, log_every=3):
        count, took = report.step - before, time.perf_counter() - begun
        assert set(report.seconds) == {
            "predictor", "corrector", "backward", "optimizer", "ema", "online network"
        }  # fmt: skip
        assert all(seconds > 0 for seconds in report.seconds.values())
        assert sum(report.seconds.values()) <= 1 / report.steps_per_second <= took / count
        assert report.samples_per_second == report.steps_per_second * run.batch
        assert 2**24 < report.memory_peak < 2**40
        begun, before = time.perf_counter(), report.step


def test_a_run_goes_on_from_where_it_stands() -> None:
    run = distillation()
    for _ in range(4):
        run.step()
    assert steps_of(run, log_every=3) == [6, 9, 10]
    assert steps_of(run, log_every=3) == []


def test_training_lowers_the_loss() -> None:
    losses = [r.metrics["loss"] for r in train(distillation(steps=200), log_every=1)]
    assert sum(losses[-10:]) < 0.2 * sum(losses[:10])


def saved(directory: Path) -> list[int]:
    """The steps of the checkpoints that are there."""
    return sorted(int(path.name.removeprefix("step-")) for path in directory.glob("step-*"))


def last(directory: Path) -> Distillation:
    """The distillation that the newest checkpoint holds."""
    run, checkpoints = distillation(), Checkpoints(directory)
    manifest = checkpoints.newest()
    assert manifest is not None
    checkpoints.restore(manifest, run)
    return run


def test_checkpoints_are_written_at_their_steps_and_at_the_end(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep_last=9)
    assert steps_of(distillation(), checkpoints=checkpoints, checkpoint_every=4) == [10]
    assert saved(tmp_path / "c") == [4, 8, 10]
    assert last(tmp_path / "c").step_index == 10


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_stop_the_run_and_spare_the_checkpoint(
    value: float, tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    run = distillation(predictor=Astray(6, value=value))
    seen = []
    said = (
        r"step 6: NaN or infinity in gap_prediction, loss, gradient_norm\.\n"
        r"Repeating the step shows NaN or infinity in the "
        r"gradients of student/A, student/B, student/b\.\nNo weight"
    )
    with pytest.raises(Diverged, match=said):
        seen.extend(
            report.step
            for report in train(run, log_every=4, checkpoints=checkpoints, checkpoint_every=4)
        )
    assert seen == [4]
    assert saved(tmp_path / "c") == [4]
    twin = distillation()
    for _ in range(5):
        twin.step()
    # Steps 6, 7 and 8 were made before anybody looked, and changed nothing.
    assert run.step_index == 8
    assert all(map(torch.equal, run.student.parameters(), twin.student.parameters()))
    assert all(map(torch.equal, run.ema.parameters(), twin.ema.parameters()))


def test_a_checkpoint_alone_is_reason_enough_to_look_at_the_metrics(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    run = distillation(predictor=Astray(4))
    with pytest.raises(Diverged, match="step 4"):
        steps_of(run, log_every=100, checkpoints=checkpoints, checkpoint_every=2)
    assert saved(tmp_path / "c") == [2]


def test_steps_that_are_skipped_are_counted_and_left_out_of_the_means() -> None:
    run, twin = distillation(predictor=Astray(2, 3, 5), skip=2), distillation()
    made = []
    for step in range(10):
        if step + 1 in (2, 3, 5):
            twin.step_index += 1
        else:
            made.append(twin.step())
    reports = list(train(run, log_every=5))
    assert [report.metrics["skipped"] for report in reports] == [3, 0]
    losses = [float(each["loss"]) for each in made]
    assert reports[0].metrics["loss"] == pytest.approx(sum(losses[:2]) / 2, rel=1e-6)
    assert reports[1].metrics["loss"] == pytest.approx(sum(losses[2:]) / 5, rel=1e-6)
    assert all(map(torch.equal, run.student.parameters(), twin.student.parameters()))


def test_a_report_without_a_sound_step_says_how_many_were_skipped_alone() -> None:
    reports = list(train(distillation(predictor=Astray(2, 4), skip=1), log_every=1))
    assert reports[1].metrics == {"skipped": 1}
    assert reports[2].metrics["skipped"] == 0
    assert reports[2].metrics["loss"] > 0


def test_too_many_skipped_in_a_row_end_the_run() -> None:
    run = distillation(predictor=Astray(2, 5, 6, 7), skip=2)
    with pytest.raises(Diverged, match="steps 5 to 7: NaN or infinity in gap_prediction, loss"):
        steps_of(run, log_every=100)
    assert steps_of(distillation(predictor=Astray(2, 5, 6, 8), skip=2), log_every=100) == [10]


def test_a_loop_of_ones_own_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffcore.training.finite._MOST", 4)
    run = distillation(predictor=Astray(2))
    for _ in range(3):
        run.step()
    with pytest.raises(Diverged, match="step 2:"):
        run.step()


def test_between_reports_nothing_is_read_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    run = distillation()
    run.self_check()

    def watch(name: str) -> None:
        plain = getattr(torch.Tensor, name)

        def watched(tensor: torch.Tensor, *arguments: Any) -> Any:
            reads.append(run.step_index)
            return plain(tensor, *arguments)

        monkeypatch.setattr(torch.Tensor, name, watched)

    for name in ("__float__", "__int__", "__bool__", "__index__", "item", "tolist", "cpu", "numpy"):
        watch(name)
    steps_of(run, log_every=4)
    assert set(reads) == {4, 8, 10}


class Reads(TorchDispatchMode):
    """Counts the operations that make a device hand a number to the CPU, and so wait for it."""

    WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal")

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function._schema.name
        by_mask = name.startswith("aten::index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for each in args
            if isinstance(each, list | tuple)
            for index in each
        )
        if name in self.WAITING or by_mask:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("recipe", "waits"),
    [
        (["gaussian.toml"], set()),
        (["mixture.toml"], set()),
        (["digits.toml"], set()),
        (["digits.toml", "predictor.derivative='jvp'"], set()),
        (["digits.toml", "parallel.accumulation=2"], set()),
        # Which samples to guide, and which to differentiate, is known on the device alone.
        (["digits_guided.toml"], {"aten::nonzero"}),
        (["digits_meanflow.toml"], {"aten::nonzero"}),
    ],
)
def test_no_step_reads_a_number_from_the_device(recipe: list[str], waits: set[str]) -> None:
    name, *overrides = recipe
    short = ["training.steps=3", "training.batch=8", *overrides]
    run = build(load_recipe(name, short)).distillation
    run.self_check()
    with Reads() as reads:
        list(train(run, log_every=2))
    assert set(reads.found) == waits


class Peeking(Towards):
    """A predictor that looks at a number in every step."""

    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        assert batch.z.sum().item() == batch.z.sum().item()
        return super().gaps(networks, batch)


def test_a_step_that_reads_a_number_would_be_seen() -> None:
    run = distillation(steps=3, predictor=Peeking())
    run.self_check()
    with Reads() as reads:
        list(train(run))
    assert reads.found == {"aten::_local_scalar_dense": 6}


class Numbering(Towards):
    """A predictor that reports the square of its noise; some samples count double."""

    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        (gap,) = super().gaps(networks, batch).gaps
        part = batch.z.flatten(1).square().mean(1).detach()
        whole = 1 + batch.draws.uniform("double").round().to(part)
        numbers = {"plain": Ratio(part=part, whole=whole), "none": Ratio(part=part, whole=0 * part)}
        numbers["root"] = Ratio(part=part, whole=whole, root=True)
        return Gaps(gaps=(gap,), numbers=numbers)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_number_of_an_objective_is_a_ratio_of_sums_however_a_batch_is_divided(
    accumulation: int,
) -> None:
    run = distillation(steps=3, predictor=Numbering(), accumulation=accumulation)
    part = whole = 0.0
    for step in range(3):
        run.step_index = step
        draws = run.draws("prediction")
        part += float(draws.normal("z", (2,)).square().mean(1).sum())
        whole += float((1 + draws.uniform("double").round()).sum())
    run.step_index = 0
    (report,) = train(run, log_every=3)
    assert report.metrics["plain"] == pytest.approx(part / whole, rel=1e-5)
    assert report.metrics["root"] == pytest.approx((part / whole) ** 0.5, rel=1e-5)
    assert "none" not in report.metrics


def test_a_ratio_has_one_shape_and_no_gradient() -> None:
    with pytest.raises(ValueError, match="one shape"):
        Ratio(part=torch.zeros(2), whole=torch.zeros(3))
    with pytest.raises(ValueError, match="detach"):
        Ratio(part=torch.zeros(2, requires_grad=True), whole=torch.zeros(2))
