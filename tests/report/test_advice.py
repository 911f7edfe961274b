"""What to do next: each advice where it is deserved, none where it is not."""

from pathlib import Path

import attrs
import pytest

from ffcore.report.advice import GAP, advice
from ffcore.report.record import Record, Verdict, read_records


@pytest.fixture(scope="module")
def run(runs: Path) -> Record:
    (record,) = read_records([runs / "whole"])
    return record


def falling(rate: float, number: int = 20) -> list[dict[str, float]]:
    return [{"step": k, GAP: 1 / (1 + k) ** rate} for k in range(1, number + 1)]


def told(
    run: Record,
    lines: list[dict[str, float]],
    *,
    high: float | None = 3.0,
    corrected: bool = False,
) -> str:
    assert run.evaluation is not None
    verdict = {1: Verdict(sentence="", high=high)}
    evaluation = attrs.evolve(run.evaluation, verdict=verdict)
    lines[-1]["step"] = run.steps
    recipe = {**run.recipe, "corrector": {"type": "vsd"} if corrected else "none"}
    changed = attrs.evolve(run, evaluation=evaluation, metrics=lines, recipe=recipe)
    return " ".join(advice(changed))


def test_a_run_that_still_learns_is_to_be_longer(run: Record) -> None:
    assert "still learns" in told(run, falling(0.5))
    assert "training.steps" in told(run, falling(0.5))


def test_a_run_that_stalls_is_to_be_tried_on_pairs(run: Record) -> None:
    assert "no longer learns" in told(run, falling(0.05))
    assert "cannot fit solved pairs" in told(run, falling(0.05))


def test_beside_a_corrector_a_gap_that_stands_tells_nothing(run: Record) -> None:
    assert told(run, falling(0.05), corrected=True) == ""
    assert "still learns" in told(run, falling(0.5), corrected=True)


def test_a_fall_within_the_scatter_of_the_reports_tells_nothing(run: Record) -> None:
    noisy = [{"step": k, GAP: 1 + 0.4 * (-1) ** k} for k in range(1, 21)]
    assert told(run, noisy) == ""


@pytest.mark.parametrize("high", [None, 8.0, 20.0])
def test_a_good_student_gets_no_advice(run: Record, high: float | None) -> None:
    for rate in (0.05, 0.5):
        assert told(run, falling(rate), high=high) == ""


def test_too_few_reports_tell_nothing(run: Record) -> None:
    assert told(run, falling(0.05, 14)) == ""
    assert told(run, [{"step": 1, "loss": 1.0}] * 20) == ""


def test_a_run_that_is_not_evaluated_gets_no_advice(run: Record) -> None:
    assert list(advice(attrs.evolve(run, evaluation=None, metrics=falling(0.5)))) == []
