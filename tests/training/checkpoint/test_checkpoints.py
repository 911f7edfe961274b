"""Saving a distillation whole, in the background, and resuming it bit for bit."""

import concurrent.futures
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from distillations import STEPS, alone, contents, joint, same
from safetensors.torch import load_file

from ffcore.system.faults import Unwritable
from ffcore.training.checkpoint import CheckpointError, Checkpoints, foreign
from ffcore.training.checkpoint.snapshot import Snapshot
from ffcore.training.distillation import Distillation
from ffcore.training.finite import Diverged
from ffcore_mlp.student import MlpAverageVelocity


def saved(directory: Path, training: Distillation, *steps: int, **arguments: object) -> Checkpoints:
    """Train, with a checkpoint after each of `steps`."""
    checkpoints = Checkpoints(directory, **{"keep_last": 9, **arguments})  # type: ignore[arg-type]
    with checkpoints:
        for step in steps:
            while training.step_index < step:
                training.step()
            checkpoints.save(training)
    return checkpoints


def restored(directory: Path, run: Distillation) -> int:
    """Restore the newest checkpoint into `run`, and return its step."""
    checkpoints = Checkpoints(directory)
    manifest = checkpoints.newest()
    assert manifest is not None
    checkpoints.restore(manifest, run)
    return manifest.step


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# Bit for bit

Restore = Callable[[Path, Distillation], object]


def continues_bit_for_bit(
    build: Callable[[], Distillation], restore: Restore, directory: Path, at: int
) -> None:
    """Saved at step `at` and restored into a new run, it ends where an uninterrupted one does."""
    whole, second = build(), build()
    metrics = [whole.step() for _ in range(STEPS)]
    saved(directory, build(), at)
    restore(directory, second)
    assert second.step_index == at
    again = [second.step() for _ in range(STEPS - at)]
    assert same(contents(second), contents(whole))
    for expected, found in zip(metrics[at:], again, strict=True):
        assert same(expected, found)


@pytest.mark.parametrize("build", [joint, alone])
@pytest.mark.parametrize("at", [0, 1, 3, STEPS])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(build, at, tmp_path):
    continues_bit_for_bit(build, restored, tmp_path / "c", at)


def without(part: str) -> Restore:
    """A restore that forgets a part of the run."""

    def restore(path: Path, run: Distillation) -> None:
        fresh = joint()
        restored(path, run)
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


@pytest.mark.parametrize("part", ["step", "student", "ema", "g_ψ", "moments", "moments of g_ψ"])
def test_a_part_that_is_forgotten_would_be_seen(part, tmp_path):
    with pytest.raises(AssertionError):
        continues_bit_for_bit(joint, without(part), tmp_path / "c", 3)


def test_a_checkpoint_restored_into_a_run_that_has_gone_further_takes_it_back(tmp_path):
    run = joint()
    saved(tmp_path / "c", run, 2)
    expected = contents(run)
    run.step()
    assert not same(contents(run), expected)
    restored(tmp_path / "c", run)
    assert same(contents(run), expected)


def test_what_is_saved_is_the_moment_of_saving_though_training_goes_on(tmp_path, monkeypatch):
    """The background waits until the run has gone on; the file has the older weights."""
    gone_on, write = threading.Event(), Snapshot.write

    def late(snapshot: Snapshot) -> list[str]:
        assert gone_on.wait(60)
        return write(snapshot)

    monkeypatch.setattr(Snapshot, "write", late)
    run, checkpoints = joint(), Checkpoints(tmp_path / "c")
    with checkpoints:
        for _ in range(2):
            run.step()
        expected = contents(run)
        checkpoints.save(run)
        run.step()
        assert names(tmp_path / "c") == [".step-00000002.partial"]
        gone_on.set()
    found = joint()
    assert restored(tmp_path / "c", found) == 2
    assert same(contents(found), expected)


def test_nothing_is_pickled(tmp_path):
    saved(tmp_path / "c", joint(), 1)
    files = names(tmp_path / "c" / "step-00000001")
    assert files == ["manifest.json", "shard-00001-model-00001-of-00001.safetensors"]


def test_no_file_is_larger_than_it_should_be_but_for_a_single_tensor(tmp_path, monkeypatch):
    monkeypatch.setattr("ffcore.training.checkpoint.snapshot.FILE_SIZE", 1000)
    run, found = joint(), joint()
    saved(tmp_path / "c", run, 3)
    files = list((tmp_path / "c" / "step-00000003").glob("*.safetensors"))
    assert len(files) > 9
    for path in files:
        sizes = [each.nbytes for each in load_file(path).values()]
        assert sum(sizes) <= 1000 or len(sizes) == 1
    assert restored(tmp_path / "c", found) == 3
    assert same(contents(found), contents(run))


# Networks that do not fit


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            lambda: joint(student=MlpAverageVelocity(2, 2, width=9, depth=2)),
            r"ema/0\.9/body\.enter\.bias: \(8,\) in the checkpoint, \(9,\) in the recipe",
        ),
        (
            lambda: joint(student=MlpAverageVelocity(2, 2, width=8, depth=3)),
            "missing: ema/0.9/body",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_told_and_changes_nothing(other, said, tmp_path):
    saved(tmp_path / "c", joint(), 2)
    run = other()
    for _ in range(3):
        run.step()
    before = contents(run)
    with pytest.raises(CheckpointError, match=said):
        restored(tmp_path / "c", run)
    assert same(contents(run), before)


# Damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = {"truncated": truncate, "deleted": Path.unlink, "flipped": flip_a_byte, "empty": empty}
FILES = ["manifest.json", *(f"shard-00001-model-{i:05d}-of-00004.safetensors" for i in range(1, 5))]
IN_FOUR = 6000
"""The size of files by which a checkpoint of `joint()` has four."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with checkpoints of steps 2 and 4, in several files."""
    directory = tmp_path_factory.mktemp("two") / "c"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ffcore.training.checkpoint.snapshot.FILE_SIZE", IN_FOUR)
        saved(directory, joint(), 2, 4)
    assert names(directory / "step-00000004") == sorted(FILES)
    return directory


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_any_damage_is_named_and_the_checkpoint_before_is_taken(
    damage, file, two, tmp_path, caplog
):
    directory = shutil.copytree(two, tmp_path / "c")
    damage(directory / "step-00000004" / file)
    run, expected = joint(), joint()
    assert restored(directory, run) == 2
    for _ in range(2):
        expected.step()
    assert same(contents(run), contents(expected))
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{directory / 'step-00000004'} is damaged: {file} ")
    assert "the newest whole checkpoint is of step 2" in record.getMessage()
    assert names(directory) == ["step-00000002", "step-00000004.damaged"]
    # It is told once, and training passes there again.
    saved(directory, run, 4)
    assert restored(directory, joint()) == 4
    assert len(caplog.records) == 1


def test_a_file_that_was_not_written_with_a_checkpoint_is_damage(two, tmp_path, caplog):
    directory = shutil.copytree(two, tmp_path / "c")
    (directory / "step-00000004" / "shard-9.safetensors").write_bytes(b"mine")
    assert restored(directory, joint()) == 2
    assert "shard-9.safetensors does not belong to it" in caplog.text


def test_a_checkpoint_under_another_steps_name_is_damage(two, tmp_path, caplog):
    directory = shutil.copytree(two, tmp_path / "c")
    (directory / "step-00000004").rename(directory / "step-00000007")
    assert restored(directory, joint()) == 2
    assert "step-00000007 is damaged: manifest.json differs from what was written" in caplog.text


def test_where_none_is_whole_nothing_is_begun_and_nothing_renamed(two, tmp_path):
    directory = shutil.copytree(two, tmp_path / "c")
    flip_a_byte(directory / "step-00000004" / FILES[1])
    (directory / "step-00000002" / "manifest.json").unlink()
    said = (
        r"no checkpoint in .* is whole:\n"
        r"  step-00000004: shard-\S+ differs from what was written \(SHA-256\)\n"
        r"  step-00000002: manifest.json is missing\n"
    )
    with pytest.raises(CheckpointError, match=said):
        Checkpoints(directory).newest()
    assert names(directory) == ["step-00000002", "step-00000004"]


def test_where_there_are_none_there_is_no_newest(tmp_path):
    assert Checkpoints(tmp_path / "nowhere").newest() is None
    assert Checkpoints(tmp_path).newest() is None


def test_what_a_killed_process_left_is_removed(two, tmp_path):
    directory = shutil.copytree(two, tmp_path / "c")
    for left in (".step-00000006.partial", ".step-00000000.removed"):
        shutil.copytree(directory / "step-00000004", directory / left)
    assert restored(directory, joint()) == 4
    assert names(directory) == ["step-00000002", "step-00000004"]


def test_what_is_foreign_is_known_by_its_name(tmp_path):
    own = ["step-00000002", "step-123456789", "step-00000002.damaged", ".step-00000002.partial"]
    for name in [*own, "step-2", "best", "step-00000002.copy"]:
        (tmp_path / name).mkdir()
    assert foreign(tmp_path) == ["best", "step-00000002.copy", "step-2"]


# Which are kept


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ({"keep_last": 1}, [6]),
        ({"keep_last": 2}, [5, 6]),
        ({"keep_last": 2, "keep_every": 2}, [2, 4, 5, 6]),
        ({"keep_last": 1, "keep_every": 3}, [3, 6]),
        ({"keep_last": 99}, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_the_newest_are_kept_and_those_of_round_steps(keep, left, tmp_path):
    saved(tmp_path / "c", joint(), 1, 2, 3, 4, 5, 6, **keep)
    assert names(tmp_path / "c") == [f"step-{step:08d}" for step in left]


def test_a_step_that_is_saved_again_replaces_its_checkpoint(tmp_path):
    run = joint()
    saved(tmp_path / "c", run, 2, run={"recipe": "old"})
    checkpoints = saved(tmp_path / "c", run, 2, run={"recipe": "new"})
    assert names(tmp_path / "c") == ["step-00000002"]
    found = checkpoints.newest()
    assert found is not None
    assert found.run == {"recipe": "new"}


# What goes wrong


def test_a_weight_that_is_not_finite_is_never_saved(tmp_path):
    run = joint()
    checkpoints = saved(tmp_path / "c", run, 2)
    before = names(tmp_path / "c")
    with torch.no_grad():
        run.auxiliaries["online"].network.body.enter.bias[3] = torch.inf  # type: ignore
        weight = dict(run.student.named_parameters())["body.enter.weight"]
        run.learner.optimizer.state[weight]["exp_avg"][0] = torch.nan
    run.step_index += 1
    bad = r"auxiliary/online/body\.enter\.bias, optimizer/body\.enter\.weight/exp_avg"
    said = f"step 3: NaN or infinity in {bad}"
    with pytest.raises(Diverged, match=said):
        checkpoints.save(run)
    assert names(tmp_path / "c") == before


def _fails(error: OSError) -> Callable[[Snapshot], list[str]]:
    """A write that leaves half of its files and fails."""
    write = Snapshot.write

    def fail(snapshot: Snapshot) -> list[str]:
        write(snapshot)
        raise error

    return fail


def test_a_failure_in_the_background_is_raised_by_the_next_save(tmp_path, monkeypatch):
    run, checkpoints = joint(), Checkpoints(tmp_path / "c")
    checkpoints.save(run)
    checkpoints.wait()
    monkeypatch.setattr(Snapshot, "write", _fails(OSError(28, "No space left on device")))
    run.step()
    checkpoints.save(run)
    run.step()
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(run)
    checkpoints.wait()  # it is told once
    assert names(tmp_path / "c") == ["step-00000000"]


def test_a_failure_in_the_background_is_noticed_when_it_is_asked_for(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.notice()
    checkpoints.save(joint())
    checkpoints.wait()
    checkpoints.notice()
    monkeypatch.setattr(Snapshot, "write", _fails(OSError(28, "No space left on device")))
    checkpoints.save(joint())
    assert checkpoints._writing is not None
    concurrent.futures.wait([checkpoints._writing])
    with pytest.raises(Unwritable, match=r"the checkpoint of step 0 could .*No space left"):
        checkpoints.notice()


def test_a_failure_in_the_background_is_raised_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(Snapshot, "write", _fails(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"), Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(joint())


def test_a_failure_in_the_background_hides_no_other(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Snapshot, "write", _fails(OSError(28, "No space left on device")))
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path / "c") as checkpoints:
        raise checkpoints.save(joint()) or ZeroDivisionError
    assert "No space left on device" in caplog.text


def test_a_run_directory_that_is_gone_is_not_made_anew(tmp_path):
    with pytest.raises(Unwritable, match=r"the checkpoint of step 0 could .*run no longer exists$"):
        Checkpoints(tmp_path / "run" / "checkpoints").save(joint())
    assert not (tmp_path / "run").exists()


def test_files_and_directories_reach_the_disk_before_their_names(tmp_path, monkeypatch):
    """What is synced, in order: files, their directory; after the renaming, the directory above."""
    synced: list[str] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr("ffcore.training.checkpoint.snapshot.FILE_SIZE", IN_FOUR)
    saved(tmp_path / "c", joint(), 1)
    assert sorted(synced[:4]) == FILES[1:]
    assert synced[4:] == ["manifest.json", ".step-00000001.partial", "c"]
