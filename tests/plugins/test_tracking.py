"""TensorBoard and Weights & Biases: what a run leaves there, read back as their own tools would."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ffcore.interfaces import Context, Tracker
from ffcore.recipe import component
from ffcore.run.stages import run
from ffcore.system.files import MissingFile
from ffcore.testing import check_tables
from ffcore_tracking.tables import TensorBoard, Wandb

pytest.importorskip("tensorboard", reason="not installed: pip install 'ffcore[tracking]'")
pytest.importorskip("wandb", reason="not installed: pip install 'ffcore[tracking]'")

RECIPE = {"student": {"type": "mlp", "width": 16}, "trackers": [{"type": "tensorboard"}]}


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test does, wandb reaches for no server."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (6, 4), "orange").save(tmp_path / "samples.png")
    return tmp_path / "samples.png"


def tell(table: Any, folder: Path, step: int, losses: dict[int, float], picture: Path) -> Tracker:
    """Start a run that stands at a step, and tell it these losses."""
    folder.mkdir(exist_ok=True)
    tracker: Tracker = table.build(Context())
    tracker.open(folder, "digits", RECIPE, step)
    for at, loss in losses.items():
        tracker.track(at, {"loss": loss, "seconds/predictor": 0.5})
    tracker.show(max(losses), "samples", picture)
    return tracker


# TensorBoard


def events(folder: Path) -> Any:
    """Read the log as TensorBoard does."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_shows_numbers_pictures_and_the_recipe(tmp_path: Path, picture: Path) -> None:
    tell(TensorBoard(), tmp_path / "t", 0, {50: 0.5, 100: 0.25}, picture).close(finished=True)
    found = events(tmp_path / "t")
    assert [(each.step, each.value) for each in found.Scalars("loss")] == [(50, 0.5), (100, 0.25)]
    assert [each.step for each in found.Scalars("seconds/predictor")] == [50, 100]
    (image,) = found.Images("samples")
    assert (image.step, image.width, image.height) == (100, 6, 4)
    (text,) = found.Tensors("recipe/text_summary")
    assert b"width = 16" in text.tensor_proto.string_val[0]


def test_tensorboard_shows_a_resumed_run_as_one_without_the_steps_made_again(
    tmp_path: Path, picture: Path
) -> None:
    folder = tmp_path / "t"
    tell(TensorBoard(), folder, 0, {50: 0.5, 100: 0.25, 150: 9.0}, picture).close(finished=False)
    tell(TensorBoard(), folder, 100, {150: 0.125, 200: 0.0625}, picture).close(finished=True)
    assert [(each.step, each.value) for each in events(folder).Scalars("loss")] == [
        (50, 0.5), (100, 0.25), (150, 0.125), (200, 0.0625)
    ]  # fmt: skip


def test_a_killed_run_has_lost_nothing_that_tensorboard_was_told(
    tmp_path: Path, picture: Path
) -> None:
    tracker = tell(TensorBoard(), tmp_path / "t", 0, {50: 0.5, 100: 0.25}, picture)
    try:
        assert [each.step for each in events(tmp_path / "t").Scalars("loss")] == [50, 100]
    finally:
        tracker.close(finished=False)


# Weights & Biases


def records(file: Path) -> Iterator[Any]:
    """Yield the records of a run that wandb kept: a log in LevelDB's format, behind 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # the rest of a block is padding
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def sessions(folder: Path) -> list[list[Any]]:
    """The records of each time that the run was started, the first one first."""
    import wandb

    wandb.teardown()  # waits for its process, which on a busy machine still writes
    files = folder.glob("wandb/offline-run-*/*.wandb")
    return [list(records(file)) for file in sorted(files, key=lambda each: each.stat().st_mtime)]


def history(session: list[Any]) -> list[dict[str, Any]]:
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json)
         for item in each.history.item}
        for each in session
        if each.WhichOneof("record_type") == "history"
    ]  # fmt: skip


def the_run(session: list[Any]) -> Any:
    return next(each.run for each in session if each.WhichOneof("record_type") == "run")


def test_wandb_keeps_numbers_pictures_and_the_recipe(tmp_path: Path, picture: Path) -> None:
    table = Wandb(project="mine", mode="offline")
    tell(table, tmp_path / "t", 0, {50: 0.5, 100: 0.25}, picture).close(finished=True)
    (session,) = sessions(tmp_path / "t")
    first, second, last = history(session)
    assert (first["step"], first["loss"], first["seconds/predictor"]) == (50, 0.5, 0.5)
    assert (second["step"], second["loss"]) == (100, 0.25)
    assert last["step"] == 100
    assert any("samples" in name for name in last)
    found = the_run(session)
    assert (found.project, found.display_name) == ("mine", "digits")
    config = {each.key: json.loads(each.value_json) for each in found.config.update}
    assert config["student"] == RECIPE["student"]


def test_a_resumed_run_is_the_same_run_of_wandb(tmp_path: Path, picture: Path) -> None:
    table = Wandb(mode="offline")
    tell(table, tmp_path / "t", 0, {50: 0.5}, picture).close(finished=False)
    tell(table, tmp_path / "t", 50, {100: 0.25}, picture).close(finished=True)
    tell(table, tmp_path / "other", 0, {50: 0.5}, picture).close(finished=True)
    first, second = sessions(tmp_path / "t")
    (other,) = sessions(tmp_path / "other")
    assert the_run(first).run_id == the_run(second).run_id != the_run(other).run_id
    assert [each["step"] for each in history(second)] == [100, 100]


@pytest.mark.parametrize("finished", [True, False])
def test_wandb_is_told_whether_the_run_came_to_its_end(
    finished: bool, tmp_path: Path, picture: Path
) -> None:
    tracker = tell(Wandb(mode="offline"), tmp_path / "t", 0, {50: 0.5}, picture)
    tracker.close(finished=finished)
    (session,) = sessions(tmp_path / "t")
    (end,) = (each.exit for each in session if each.WhichOneof("record_type") == "exit")
    assert end.exit_code == (0 if finished else 1)


def test_an_online_run_without_a_key_is_told_before_training_with_what_to_do(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "ffcore", "run", "gaussian.toml", "-d", "here"]
    found = subprocess.run(
        [*command, "--set", "trackers=[{type='wandb'}]"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"HOME": str(tmp_path), "WANDB_BASE_URL": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert found.returncode == 4, found.stderr
    assert "wandb has no API key" in found.stderr
    assert "or use mode = 'offline'" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "here").exists()


# Both


@pytest.mark.parametrize("table", [TensorBoard(), Wandb(mode="offline")])
def test_our_trackers_keep_every_law(table: Any) -> None:
    results = check_tables("tracker/ours", "tracker", [table])
    assert [(each.law, each.found) for each in results if each.fails] == []
    assert sum(each.status == "holds" for each in results) >= 15


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")]
)
def test_a_library_that_is_not_installed_is_told_with_what_to_install(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingFile, match=rf"tracker '{name}' needs.*pip install 'ffcore\[track"):
        component("tracker", {"type": name}).build(Context())


def test_a_run_with_both_comes_to_its_end(tmp_path: Path) -> None:
    from ffcore.recipe import load_recipe

    short = ["training.steps=4", "training.log_every=2", "evaluation.samples=32"]
    short += ["evaluation.solver.steps=2", "evaluation.euler=[1]"]
    both = "trackers=[{type='tensorboard'}, {type='wandb', mode='offline'}]"
    run(load_recipe("gaussian.toml", [*short, both]), tmp_path / "run")
    folder = tmp_path / "run" / "tracking"
    assert [each.step for each in events(folder).Scalars("loss")] == [2, 4]
    (session,) = sessions(folder)
    assert [each["step"] for each in history(session)] == [2, 4, 4, 4]
