"""What is read of a run's directory, and what is refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import interrupted, small

from ffcore.export import export
from ffcore.report import ReportError, page, read_records, record, summary
from ffcore.report.summary import cost
from ffcore.run import directory as run_directory
from ffcore.run import previews

Copy = Callable[[str], Path]


def test_files_are_called_as_runs_call_them():
    for name in ("RECIPE", "PROVENANCE", "METRICS", "EVALUATION", "STUDENT", "CHECKPOINTS",
                 "SAMPLES", "REPORT", "ALARMS"):  # fmt: skip
        assert getattr(record, name) == getattr(run_directory, name)
    assert (record.PREVIEWS, record.TEXTS) == (previews.PREVIEWS, previews.TEXTS)


def test_a_whole_run_is_read_whole(runs: Path):
    (found,) = read_records([runs / "whole"])
    assert (found.name, found.step, found.steps, found.finished) == ("whole", 6, 6, True)
    assert found.missing == []
    assert [line["step"] for line in found.metrics] == [2, 4, 6]
    assert list(found.previews) == [0, 1, 3, 6]
    assert found.teachers is not None
    assert found.teachers.size == (320, 320)
    kept = json.loads((runs / "whole" / "evaluation.json").read_text())
    assert found.evaluation is not None
    assert found.evaluation.distances["raw"].student == {1: kept["distances"]["raw"]["student"]}
    assert found.evaluation.distances["raw"].euler.keys() == {1, 2}
    assert list(found.evaluation.trajectory_error.values()) == [
        each["value"] for each in kept["trajectory_error"].values()
    ]


def test_what_an_unfinished_run_has_not_is_told(runs: Path):
    (found,) = read_records([runs / "unfinished"])
    assert (found.step, found.steps, found.finished) == (4, 6, False)
    assert list(found.previews) == [0, 1, 3]
    first, second = found.missing
    assert first.startswith("Training has not finished: 4 of 6 steps")
    assert second == "There is no evaluation: it comes after training."


def test_what_a_run_without_evaluation_and_previews_has_not_is_told(runs: Path):
    (found,) = read_records([runs / "bare"])
    assert found.finished
    evaluation, samples = found.missing
    assert evaluation == "There is no evaluation: the recipe switches it off."
    assert samples.startswith("There are no samples from training")


def test_a_run_that_is_prolonged_has_the_evaluation_of_an_earlier_student(copy: Copy):
    directory = copy("whole")
    interrupted(small("training.steps=12"), directory, 8)
    (found,) = read_records([directory])
    assert (found.step, found.finished) == (8, False)
    assert "The evaluation is for an earlier student, after fewer steps." in found.missing
    assert list(found.previews) == [0, 1, 3, 6]
    (change,) = found.provenance["changes"]
    assert change["after_step"] == 6


def test_a_line_that_a_running_process_has_not_ended_is_left_out(copy: Copy):
    directory = copy("whole")
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    (found,) = read_records([directory])
    assert found.metrics[-1]["step"] == 6


def test_runs_of_one_name_are_called_by_their_paths(runs: Path, tmp_path: Path):
    shutil.copytree(runs / "whole", tmp_path / "whole")
    found = read_records([runs / "whole", tmp_path / "whole", runs / "other"])
    assert [each.name for each in found] == [f"{runs}/whole", f"{tmp_path}/whole", "other"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("recipe.toml", "not TOML"),
        ("recipe.toml", "[teacher]\ntype = 'x'\n"),
        ("provenance.json", "{"),
        ("provenance.json", '{"components": [], "changes": [{"after_step": 1}]}'),
        ("provenance.json", '{"components": [{}], "changes": []}'),
        ("metrics.jsonl", "{}\n"),
        ("metrics.jsonl", '{"step": 1, "loss": "high"}\n'),
        ("metrics.jsonl", "half\n"),
        ("evaluation.json", "{"),
        ("evaluation.json", "[]"),
        ("evaluation.json", '{"distances": {"raw": {}}, "trajectory_error": {}, "identity": {}}'),
        ("verify.json", "3"),
        ("samples.png", "no picture"),
        ("previews/step-00000003.png", ""),
        ("previews/step-3x.png", ""),
    ],
)
def test_a_damaged_file_is_named(copy: Copy, file: str, content: str):
    directory = copy("whole")
    (directory / file).write_text(content)
    if file in ("recipe.toml", "provenance.json"):
        with pytest.raises(ReportError, match=re.escape(str(directory / file))):
            read_records([directory])
    else:
        (record,) = read_records([directory])
        assert [each for each in record.missing if each.startswith(str(directory / file))]


def test_what_is_no_run_is_refused(runs: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    export(runs / "whole", tmp_path / "export")
    for name, told in {
        "empty": r"not a run directory: it has no recipe\.toml and no provenance\.json",
        "file": "is a file",
        "nowhere": "does not exist",
        "export": r"not a run directory: it has no provenance\.json",
    }.items():
        with pytest.raises(ReportError, match=told):
            read_records([runs / "whole", tmp_path / name])


def test_alarms_are_at_the_top_of_the_page_and_measurements_do_not_change_the_cost(copy: Copy):
    directory = copy("whole")
    (before,) = read_records([directory])
    assert before.alarms == ()
    assert ">Alarms<" not in page([before])
    alarm = {"step": 4, "name": "solver", "sentence": "the solver is <coarse>"}
    (directory / record.ALARMS).write_text(json.dumps(alarm) + "\n")
    lines = (directory / record.METRICS).read_text().splitlines()
    lines.insert(1, json.dumps({"step": 3, "measure/energy": 0.1, "interval/energy": 0.2}))
    (directory / record.METRICS).write_text("\n".join(lines) + "\n")
    (found,) = read_records([directory])
    assert found.alarms == ["at step 4, the solver is <coarse>"]
    written = page([found])
    assert "At step 4, the solver is &lt;coarse&gt;." in written
    assert "energy distance while training" in written
    assert "interval/energy" not in written
    assert cost(found) == cost(before)
    assert summary([found])["runs"][0]["alarms"] == found.alarms
