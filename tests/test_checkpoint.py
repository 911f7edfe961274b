"""Saving a distillation whole, and resuming it bit for bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ffcore import checkpoint, weights
from ffcore.analytic import GaussianMixture
from ffcore.distill import Distillation
from ffcore.files import MissingFile
from ffcore.optimizer import Optimizer
from ffcore.weights import WeightsError
from ffcore_freeflow.balancer import AdaptiveBalancer
from ffcore_freeflow.objective import FreeFlowPredictor
from ffcore_mlp.student import MlpAverageVelocity, MlpVelocity
from ffcore_vsd.objective import VsdCorrector

STEPS = 6


def joint() -> Distillation:
    """A guided run of both objectives; built anew, it is the same one."""
    torch.manual_seed(0)
    teacher = GaussianMixture([[1.0, 0.0], [-1.0, 0.5]], 0.5, labels=[0, 1])
    schedule = Optimizer(learning_rate=1e-2, warmup=2, schedule="cosine")
    return Distillation(
        teacher=teacher,
        student=MlpAverageVelocity(2, 2, width=8, depth=2),
        predictor=FreeFlowPredictor(),
        corrector=VsdCorrector(online=MlpVelocity(2, 2, width=8, depth=2), online_updates=2),
        balancer=AdaptiveBalancer(correction=0.25, correction_from=1),
        optimizer=schedule,
        steps=STEPS,
        batch=16,
        decays=[0.9],
    )


def alone() -> Distillation:
    torch.manual_seed(0)
    return Distillation(
        teacher=GaussianMixture([[1.0, 0.0], [-1.0, 0.5]], 0.5),
        student=MlpAverageVelocity(2, 0, width=8, depth=2),
        predictor=FreeFlowPredictor(),
        balancer=AdaptiveBalancer(),
        steps=STEPS,
        batch=16,
    )


def contents(run: Distillation) -> dict[str, Tensor]:
    """Everything that a run consists of, by name."""
    networks = {"student": run.student, "average": run.average}
    networks |= {name: each.network for name, each in run.auxiliaries.items()}
    found = {
        f"{prefix}/{name}": each.clone()
        for prefix, network in networks.items()
        for name, each in network.state_dict().items()
    }
    learners = {"student": run.learner, **run.auxiliary_learners}
    for prefix, learner in learners.items():
        for index, state in learner.optimizer.state_dict()["state"].items():
            found |= {f"{prefix}/{index}/{name}": each.clone() for name, each in state.items()}
    return found | {"step": torch.tensor(run.step_index)}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


Restore = Callable[[Path, Distillation, str], None]


def continues_bit_for_bit(
    build: Callable[[], Distillation], restore: Restore, path: Path, at: int
) -> None:
    """Saved at step `at` and restored into a new run, it ends where an uninterrupted one does."""
    whole, first, second = build(), build(), build()
    metrics = [whole.step() for _ in range(STEPS)]
    for _ in range(at):
        first.step()
    checkpoint.save(path, first, "digest")
    restore(path, second, "digest")
    assert second.step_index == at
    again = [second.step() for _ in range(STEPS - at)]
    assert same(contents(second), contents(whole))
    for expected, found in zip(metrics[at:], again, strict=True):
        assert same(expected, found)


@pytest.mark.parametrize("build", [joint, alone])
@pytest.mark.parametrize("at", [0, 1, 3, STEPS])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    build: Callable[[], Distillation], at: int, tmp_path: Path
) -> None:
    continues_bit_for_bit(build, checkpoint.restore, tmp_path / "c.safetensors", at)


def without(part: str) -> Restore:
    """A restore that forgets a part of the run."""

    def restore(path: Path, run: Distillation, digest: str) -> None:
        fresh = joint()
        checkpoint.restore(path, run, digest)
        if part == "step":
            run.step_index = 0
        elif part == "moments":
            run.learner.optimizer.load_state_dict(fresh.learner.optimizer.state_dict())
        elif part == "moments of g_ψ":
            learner = fresh.auxiliary_learners["online"]
            run.auxiliary_learners["online"].optimizer.load_state_dict(
                learner.optimizer.state_dict()
            )
        elif part == "g_ψ":
            network = fresh.auxiliaries["online"].network
            run.auxiliaries["online"].network.load_state_dict(network.state_dict())
        else:
            getattr(run, part).load_state_dict(getattr(fresh, part).state_dict())

    return restore


@pytest.mark.parametrize("part", ["step", "student", "average", "g_ψ", "moments", "moments of g_ψ"])
def test_a_part_that_is_forgotten_would_be_seen(part: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        continues_bit_for_bit(joint, without(part), tmp_path / "c.safetensors", 3)


# Files that do not fit.

Damage = Callable[[dict[str, Tensor]], object]


def resave(path: Path, damage: Damage) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path, metadata)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def drop(name: str) -> Callable[[Path], None]:
    return lambda path: resave(path, lambda tensors: tensors.pop(name))


def put(name: str, *shape: int) -> Callable[[Path], None]:
    return lambda path: resave(path, lambda tensors: tensors.update({name: torch.zeros(shape)}))


FIRST = "body.enter.weight"
DAMAGES = {
    "truncated": (truncate, "cannot be read"),
    "cut in the header": (cut_in_the_header, "cannot be read"),
    "weight missing": (drop(f"student/{FIRST}"), f"student/{FIRST} is missing"),
    "average missing": (drop(f"average/{FIRST}"), f"average/{FIRST} is missing"),
    "g_ψ missing": (drop(f"auxiliary/online/{FIRST}"), f"online/{FIRST} is missing"),
    "weight of another shape": (put(f"student/{FIRST}", 8, 3), r"of shape \(8, 3\)"),
    "unknown tensor": (put("student/other", 2), "does not know: student/other"),
    "unknown network": (put("auxiliary/fake/a", 2), "does not know: auxiliary/fake/a"),
    "moment missing": (drop("optimizer/0/exp_avg"), "optimizer/0/exp_avg is missing"),
    "moment of another shape": (put("optimizer/1/exp_avg_sq", 3), "optimizer/1/exp_avg_sq is of"),
    "moment of g_ψ missing": (
        drop("auxiliary-optimizer/online/2/step"),
        "auxiliary-optimizer/online/2/step is missing",
    ),
    "moment of no parameter": (put("optimizer/99/step"), "does not know: optimizer/99/step"),
    "moment of no name": (put("optimizer/x", 2), "does not know: optimizer/x"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_file_that_does_not_fit_changes_nothing(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    path, first, second = tmp_path / "c.safetensors", joint(), joint()
    for _ in range(3):
        first.step()
    second.step()
    checkpoint.save(path, first)
    damage(path)
    before = contents(second)
    with pytest.raises(WeightsError, match=message):
        checkpoint.restore(path, second)
    assert same(contents(second), before)


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="no such file"):
        checkpoint.restore(tmp_path / "c.safetensors", joint())


def test_the_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    path, run = tmp_path / "c.safetensors", joint()
    checkpoint.save(path, run, "one")
    before = contents(run)
    with pytest.raises(WeightsError, match="another recipe"):
        checkpoint.restore(path, run, "other")
    assert same(contents(run), before)


def test_a_write_that_fails_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, run = tmp_path / "c.safetensors", joint()
    checkpoint.save(path, run)
    old = path.read_bytes()
    run.step()

    def full(tensors: object, partial: Path, metadata: object) -> None:
        partial.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(path, run)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
