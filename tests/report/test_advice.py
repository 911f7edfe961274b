"""What to do next: each advice where it is deserved, none where it is not."""

from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest

from ffcore.report.advice import GAP, PAIRS, advice
from ffcore.report.record import Record, Verdict, read_records


@pytest.fixture(scope="module")
def run(runs: Path) -> Record:
    (record,) = read_records([runs / "whole"])
    return record


def falling(rate: float, number: int = 20) -> list[dict[str, float]]:
    return [{"step": k, GAP: 1 / (1 + k) ** rate} for k in range(1, number + 1)]


def told(
    run: Record, lines: list[dict[str, float]], *, high: float | None = 3.0, error: float = 0.1,
    predictor: str = "freeflow", deltas: Sequence[float] = (1.0,),
) -> str:  # fmt: skip
    assert run.evaluation is not None
    evaluation = attrs.evolve(
        run.evaluation,
        verdict={1: Verdict(sentence="", high=high)},
        trajectory_error={1.0: error},
    )
    recipe = {**run.recipe, "predictor": {"type": predictor, "deltas": deltas}}
    lines[-1]["step"] = run.steps
    return " ".join(advice(attrs.evolve(run, evaluation=evaluation, metrics=lines, recipe=recipe)))


def test_a_run_that_still_learns_is_to_be_longer(run: Record) -> None:
    assert "still learns" in told(run, falling(0.5))
    assert "training.steps" in told(run, falling(0.5), predictor=PAIRS)


def test_a_run_that_stalls_is_to_be_tried_on_pairs(run: Record) -> None:
    assert "no longer learns" in told(run, falling(0.05))
    assert "predictor.type = 'pairs'" in told(run, falling(0.05))


def test_pairs_that_cannot_be_fitted_tell_a_student_that_is_too_small(run: Record) -> None:
    assert "cannot fit this teacher" in told(run, falling(0.05), predictor=PAIRS)
    assert "10.0% of the way off" in told(run, falling(0.05), predictor=PAIRS)
    assert told(run, falling(0.05), predictor=PAIRS, error=0.02) == ""
    assert told(run, falling(0.05), predictor=PAIRS, deltas=(0.25,)) == ""


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
