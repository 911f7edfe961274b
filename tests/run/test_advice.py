"""What to do next: each advice where it is deserved, none where it is not."""

import pytest

from ffcore.evaluate.evaluator import Evaluation
from ffcore.evaluate.verdict import Estimate, Verdict
from ffcore.run.advice import GAP, PAIRS, advice


def evaluated(high: float | None, error: float = 0.1) -> Evaluation:
    return Evaluation(
        verdict={1: Verdict(sentence="", low=1.0, high=high, limited_by="sharpness")},
        measures={},
        distances={},
        trajectory_error={1.0: Estimate(value=error, low=error - 0.01, high=error + 0.01)},
        trajectories=256,
        identity={},
    )


def falling(rate: float, number: int = 20) -> list[dict[str, float]]:
    return [{"step": k, GAP: 1 / (1 + k) ** rate} for k in range(1, number + 1)]


def told(
    lines: list[dict[str, float]], *, high: float | None = 3.0, error: float = 0.1,
    predictor: str | None = "freeflow",
) -> str:  # fmt: skip
    return " ".join(advice(evaluated(high, error), lines, predictor))


def test_a_run_that_still_learns_is_to_be_longer() -> None:
    assert "still learns" in told(falling(0.5))
    assert "training.steps" in told(falling(0.5), predictor=PAIRS)


def test_a_run_that_stalls_is_to_be_tried_on_pairs() -> None:
    assert "no longer learns" in told(falling(0.05))
    assert "predictor.type = 'pairs'" in told(falling(0.05))


def test_pairs_that_cannot_be_fitted_tell_a_student_that_is_too_small() -> None:
    assert "too small for this teacher" in told(falling(0.05), predictor=PAIRS)
    assert "10.0% of the way off" in told(falling(0.05), predictor=PAIRS)
    assert told(falling(0.05), predictor=PAIRS, error=0.02) == ""


@pytest.mark.parametrize("high", [None, 8.0, 20.0])
def test_a_good_student_gets_no_advice(high: float | None) -> None:
    for rate in (0.05, 0.5):
        assert told(falling(rate), high=high) == ""


def test_too_few_reports_tell_nothing() -> None:
    assert told(falling(0.05, 9)) == ""
    assert told([{"step": 1, "loss": 1.0}] * 20) == ""


def test_a_run_without_a_verdict_gets_no_advice() -> None:
    nothing = Evaluation(
        verdict={}, measures={}, distances={}, trajectory_error={}, trajectories=0, identity={}
    )
    assert list(advice(nothing, falling(0.5), "freeflow")) == []
