"""What --allow-changes resumes: every change that leaves the student's tensors as they are."""

from pathlib import Path

import pytest
import torch
from distillations import final
from observers import Listens
from small_runs import interrupted, small

from ffcore.run.directory import RunDirectoryError
from ffcore.run.stages import run
from ffcore.training.checkpoint import CheckpointError

QUICK = ("evaluation.enabled=false", "evaluation.previews=0", "predictor.derivative=dual")


def resumed(folder: Path, *changes: str) -> str:
    """Break off a run after step 4, resume it with changes; return what was said."""
    interrupted(small(*QUICK), folder, 4)
    listens = Listens()
    changed = small(*QUICK, *changes)
    with pytest.raises(RunDirectoryError, match="use --allow-changes to resume it with these"):
        run(changed, folder)
    run(changed, folder, allow_changes=True, observer=listens)
    return "\n".join(listens.said)


def test_a_new_average_begins_at_the_student(tmp_path: Path) -> None:
    said = resumed(tmp_path, "training.ema_decay=[0.999, 0.0]", "optimizer.learning_rate=1e-30")
    assert "the EMA of decay 0.999 begins at the student's weights: the checkpoint has none" in said
    found = final(tmp_path)
    names = [name for name in found if name.startswith("student/")]
    for name in names:  # which have not moved since
        for decay in ("0.999", "0.0"):
            average = found[name.replace("student/", f"ema/{decay}/", 1)]
            torch.testing.assert_close(average, found[name])


def test_an_average_may_be_added_and_dropped(tmp_path: Path) -> None:
    resumed(tmp_path, "training.ema_decay=[0.9, 0.999]")
    listens = Listens()
    shorter = small(*QUICK, "training.ema_decay=0.5", "training.steps=8")
    run(shorter, tmp_path, allow_changes=True, observer=listens)
    said = "\n".join(listens.said)
    assert "the EMA of decay 0.5 begins" in said
    assert "the checkpoint's ema/0.9 is dropped" in said
    assert "the checkpoint's ema/0.999 is dropped" in said


CORRECTOR = "corrector={type='vsd', online={type='mlp', width=8, depth=2}}"


def test_a_corrector_may_be_added_changed_and_dropped(tmp_path: Path) -> None:
    said = resumed(tmp_path, CORRECTOR)
    assert "the network 'online' begins anew: the checkpoint has none of these shapes" in said
    for steps, changes, expected in (
        (8, (CORRECTOR.replace("width=8", "width=4"),), "the network 'online' begins anew"),
        (10, (), "the checkpoint's auxiliary/online is dropped"),
    ):
        listens = Listens()
        changed = small(*QUICK, f"training.steps={steps}", *changes)
        run(changed, tmp_path, allow_changes=True, observer=listens)
        assert expected in "\n".join(listens.said)


@pytest.mark.parametrize(
    "change",
    [
        "teacher.mean=[0.5, 0.0]",
        "predictor={type='pairs', pairs=16, solver={steps=2}}",
        "predictor.derivative=jvp",
        "balancer.correction=0.3",
        "optimizer.betas=[0.8, 0.9]",
        "optimizer.schedule=linear",
        "training.seed=3",
        "training.batch=16",
        "training.clip=none",
        "training.precision=bfloat16",
        "training.tf32=true",
        "training.ema_decay=[0.25, 0.5]",
    ],
)
def test_any_other_change_is_resumed(change: str, tmp_path: Path) -> None:
    assert f"the recipe has changed:\n  {change.partition('=')[0]}" in resumed(tmp_path, change)


def test_a_student_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r": \(16, 83\) in the checkpoint, \(8, 83\)"):
        resumed(tmp_path, "student.width=8")
