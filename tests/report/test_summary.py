"""What a student is worth, what may be compared, where the time went: by numbers known before."""

import json
from pathlib import Path

import attrs
import pytest

from ffcore.report import Record, read_records, summary
from ffcore.report.summary import UNKNOWN, comparables, cost, differences, differing_keys
from ffcore.system import weights


def records(runs: Path, *names: str) -> list[Record]:
    return read_records([runs / name for name in names])


def test_runs_of_equal_conditions_compare_and_others_do_not(runs: Path):
    first, second = comparables(records(runs, "whole", "other", "comparable"))
    assert [each.name for each in first.records] == ["whole", "comparable"]
    assert first.different == ()
    assert [each.name for each in second.records] == ["other"]
    assert second.different == ["samples: 100 there, 101 here"]


def test_a_run_that_is_not_evaluated_is_compared_with_none(runs: Path):
    (group,) = comparables(records(runs, "unfinished", "bare", "whole"))
    assert [each.name for each in group.records] == ["whole"]


def test_conditions_differ_by_solver_features_and_teacher():
    first = {
        "teacher": "a" * 64,
        "features raw": "b" * 64,
        "solver": {"steps": 8, "method": "heun"},
    }
    other = {
        "teacher": "a" * 64,
        "features raw": "c" * 64,
        "solver": {"steps": 9, "method": "heun"},
    }
    assert differences(first, first) == []
    assert differences(first, other) == [
        "features raw: bbbbbbbbbbbb there, cccccccccccc here",
        "solver.steps: 8 there, 9 here",
    ]
    assert differences(first, {**first, "interval": [0, 0.7]}) == [
        "interval: none there, [0, 0.7] here"
    ]


def test_a_teacher_that_cannot_be_recognised_compares_with_none():
    assert UNKNOWN == weights.UNKNOWN
    (why,) = differences({"teacher": UNKNOWN}, {"teacher": UNKNOWN})
    assert "teachers may differ" in why


def test_recipes_differ_in_the_keys_that_were_changed(runs: Path):
    found = differing_keys(records(runs, "whole", "comparable"))
    assert found == {"training.seed": [0, 1], "evaluation.euler": [[1, 2], [1, 4]]}
    assert differing_keys(records(runs, "whole", "whole")) == {}


def test_time_is_added_up_over_reports_of_unequal_length(runs: Path):
    (record,) = records(runs, "whole")
    lines = [
        {"step": 10, "steps_per_second": 10.0, "samples_per_second": 100.0, "memory_peak": 5,
         "seconds/predictor": 0.02, "seconds/backward": 0.05, "skipped": 1.0},
        {"step": 40, "steps_per_second": 15.0, "samples_per_second": 150.0, "memory_peak": 7,
         "seconds/predictor": 0.06, "seconds/previews": 0.004, "skipped": 2.0},
    ]  # fmt: skip
    found = cost(attrs.evolve(record, metrics=lines))
    assert found is not None
    assert found.seconds == pytest.approx(1.0 + 2.0)
    assert found.samples_per_second == pytest.approx((100 * 1 + 150 * 2) / 3)
    assert (found.memory_peak, found.skipped) == (7, 3)
    expected = {
        "predictor": (0.02 * 10 + 0.06 * 30) / 40,
        "backward": 0.05 * 10 / 40,
        "previews": 0.004 * 30 / 40,
    }
    rest = 3.0 / 40 - sum(expected.values())
    assert found.sections == pytest.approx({**expected, "the rest": rest})
    assert [*found.sections] == ["predictor", "backward", "previews", "the rest"]


def test_without_a_report_there_is_no_cost(runs: Path):
    (record,) = records(runs, "whole")
    assert cost(attrs.evolve(record, metrics=[])) is None


def test_the_summary_is_json(runs: Path):
    found = json.loads(json.dumps(summary(records(runs, "whole", "other", "unfinished"))))
    whole, other, unfinished = found["runs"]
    assert whole["distances"]["raw"]["student"]["1"] > 0
    assert (other["finished"], unfinished["finished"]) == (True, False)
    assert unfinished["distances"] is None
    assert found["not_comparable"] == [
        {"features": "raw", "runs": ["other"], "because": ["samples: 100 there, 101 here"]}
    ]
