"""A run's trackers: what they are told, and that none of them ends a run."""

import json
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from observers import Listens
from safetensors.torch import load_file

from ffcore.recipe import Recipe, load_recipe
from ffcore.recipe.components import BuildError
from ffcore.run.directory import METRICS, TRACKING
from ffcore.run.stages import run
from ffcore.training.loop import Stopped

SMALL = (
    "training.steps=6",
    "training.batch=32",
    "training.log_every=2",
    "training.checkpoint_every=2",
    "student.width=16",
    "evaluation.samples=32",
    "evaluation.solver.steps=2",
    "evaluation.euler=[1]",
)
DIARY = "{type='trackers:DiaryTable'}"


def failing(at: str) -> str:
    return f"{{type='trackers:FailingTable', at='{at}'}}"


def small(*trackers: str) -> Recipe:
    return load_recipe("gaussian.toml", [*SMALL, f"trackers=[{', '.join(trackers)}]"])


def diary(directory: Path) -> list[Any]:
    lines = (directory / TRACKING / "diary.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def written(directory: Path) -> list[Any]:
    return [json.loads(line) for line in (directory / METRICS).read_text().splitlines()]


def test_a_tracker_is_told_what_the_run_writes_down_then_the_evaluation(tmp_path: Path) -> None:
    evaluation = run(small(DIARY), tmp_path / "mine")
    assert evaluation is not None
    opened, *tracked, measured, shown, closed = diary(tmp_path / "mine")
    assert (opened["open"], opened["step"]) == ("mine", 0)
    assert opened["recipe"]["training"]["clip"] == 1.0
    assert opened["recipe"]["trackers"] == [{"type": "trackers:DiaryTable"}]
    assert tracked == [
        {"track": each.pop("step"), "numbers": each} for each in written(tmp_path / "mine")
    ]
    assert measured["track"] == 6
    assert measured["numbers"]["distance/raw"] == evaluation.distances["raw"].student
    assert measured["numbers"]["trajectory_error/1"] == evaluation.trajectory_error[1.0].value
    size = (tmp_path / "mine" / "samples.png").stat().st_size
    assert shown == {"show": "samples", "step": 6, "bytes": size}
    assert closed == {"close": True}


def test_an_interrupted_run_goes_on_in_the_same_log(tmp_path: Path) -> None:
    asked = iter([False, False, False, False, True])
    with pytest.raises(Stopped):
        run(small(DIARY), tmp_path, stop=lambda: next(asked))
    run(small(DIARY), tmp_path)
    found = [
        next((word, each[word]) for word in ("open", "track", "show", "close") if word in each)
        for each in diary(tmp_path)
    ]
    name = tmp_path.name
    assert found[:4] == [("open", name), ("track", 2), ("track", 4), ("close", False)]
    assert found[4:] == [
        ("open", name), ("track", 6), ("track", 6), ("show", "samples"), ("close", True)
    ]  # fmt: skip
    assert [each["step"] for each in diary(tmp_path) if "open" in each] == [0, 5]


def test_a_run_may_go_on_with_other_trackers(tmp_path: Path) -> None:
    asked = iter([False, False, False, True])
    with pytest.raises(Stopped):
        run(small(), tmp_path, stop=lambda: next(asked))
    run(small(DIARY), tmp_path)
    assert [each["track"] for each in diary(tmp_path) if "track" in each] == [6, 6]


def test_a_run_begun_anew_has_a_new_log(tmp_path: Path) -> None:
    run(small(DIARY), tmp_path)
    before = len(diary(tmp_path))
    run(small(DIARY), tmp_path, restart=True)
    assert len(diary(tmp_path)) == before


@pytest.mark.parametrize("at", ["open", "track", "show", "close"])
def test_a_tracker_that_fails_is_told_once_and_the_run_and_the_others_go_on(
    at: str, tmp_path: Path
) -> None:
    listening = Listens()
    recipe = load_recipe(
        "gaussian.toml", [*SMALL, f"trackers=[{failing(at)}, {{type='ffcore:tensorboard'}}]"]
    )
    evaluation = run(recipe, tmp_path, observer=listening)
    assert evaluation is not None
    assert [each["step"] for each in written(tmp_path)] == [2, 4, 6]
    told = [each for each in listening.said if "tracker" in each]
    assert len(told) == 1
    assert told[0].startswith("tracker 'trackers:FailingTable' failed and ")
    assert "No space left on device" in told[0]
    assert len(list((tmp_path / TRACKING).glob("events.*"))) == 1


def test_a_tracker_that_failed_is_asked_nothing_more_but_to_close(tmp_path: Path) -> None:
    run(small(failing("track")), tmp_path)
    assert [each.keys() & {"open", "close"} for each in diary(tmp_path)] == [{"open"}, {"close"}]
    assert diary(tmp_path)[-1] == {"close": False}


def test_trackers_change_nothing_of_what_is_trained(tmp_path: Path) -> None:
    run(small(), tmp_path / "without")
    run(small(DIARY), tmp_path / "with")
    without, tracked = (
        load_file(tmp_path / name / "student.safetensors") for name in ("without", "with")
    )
    assert all(torch.equal(without[name], tracked[name]) for name in without)
    assert not (tmp_path / "without" / TRACKING).exists()


def test_of_two_processes_the_leading_one_tracks(tmp_path: Path) -> None:
    changes = [*SMALL, "evaluation.enabled=false", "trackers=[{type='tensorboard'}]"]
    place = ("-d", str(tmp_path / "run"))
    found = forked.ffd(
        "run", "gaussian.toml", *place, *(f"--set={each}" for each in changes), ranks=2
    )
    assert found.codes == [0, 0], found.stderr
    assert len(list((tmp_path / "run" / TRACKING).glob("events.*"))) == 1


def test_what_is_no_tracker_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    recipe = small("{type='ffcore_exact.tables:Identity'}")
    with pytest.raises(BuildError, match=r"\[trackers\] .*builds Identity, not a Tracker"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
