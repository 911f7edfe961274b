"""What to do next, after a run: sentences from its gaps, its verdict and its trajectory error.

The gap of a predictor is 0 at its optimum and has no noise of its own, so its fall tells whether a
run still learns. A corrector's gap moves with its online network and tells nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ffcore.report.record import Record

GAP = "gap_prediction"
PAIRS = "pairs"
"""The predictor that shows what a student can express."""
_FALLS = 0.1
"""A run still learns if the gap falls by more, from the middle fifth of the run to the last."""
_ENOUGH = 8
"""A student that is worth so many Euler steps needs no advice."""
_FITTED = 0.05
"""The trajectory error of a student that has fitted its pairs."""
_LEAST = 10
"""Fewest reports to judge by."""


def advice(record: Record) -> Iterator[str]:
    """Yield what to do next, without full stops; nothing for a student that is good enough."""
    evaluation = record.evaluation
    if evaluation is None or not record.finished or 1 not in evaluation.verdict:
        return
    worth = evaluation.verdict[1].high
    if worth is None or worth >= _ENOUGH:
        return
    lines = record.metrics
    gaps = [line[GAP] for line in lines if GAP in line]
    if len(gaps) < _LEAST:
        return
    middle, last = _mean(gaps, 0.4, 0.6), _mean(gaps, 0.8, 1.0)
    fall = 1 - last / middle if middle > 0 else 0.0
    told = (
        f"the predictor's gap was {middle:.3g} in the middle of the run and {last:.3g} at its end"
    )
    if fall > _FALLS:
        yield f"the student still learns: {told}. Train longer (training.steps)"
        return
    error = evaluation.trajectory_error[1.0]
    if _predictor(record) != PAIRS:
        yield (
            f"the student no longer learns: {told}. Is it too small? Train it on the teacher's own "
            f"solutions (predictor.type = '{PAIRS}'): if it cannot fit them, use a larger one. If "
            "it can, lower balancer.power or raise optimizer.learning_rate"
        )
    elif error > _FITTED:
        yield (
            f"the student is too small for this teacher: it no longer learns ({told}), and its "
            f"samples are {error:.1%} of the way off the teacher's own solutions. Use a "
            "larger one (student.width, student.depth), or more pairs"
        )


def _predictor(record: Record) -> str:
    return str(record.recipe["predictor"]["type"])


def _mean(values: Sequence[float], start: float, stop: float) -> float:
    """Return the mean of a part of a series, given by shares of its length."""
    part = values[int(start * len(values)) : int(stop * len(values))]
    return sum(part) / len(part)
