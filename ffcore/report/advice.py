"""What to do next, after a run: sentences from its gaps and its verdict.

The gap of a predictor is 0 at its optimum, so its fall tells whether a run still learns. Beside a
corrector, which moves the student off that optimum, a gap that stands tells nothing. A corrector's
gap moves with its online network and tells nothing either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev

from ffcore.report.record import Record

GAP = "gap_prediction"
_FALLS = 0.1
"""A run still learns if the gap falls by more, from the middle fifth of the run to the last."""
_ENOUGH = 8
"""A student that is worth so many Euler steps needs no advice."""
_LEAST = 15
"""Fewest reports to judge by."""
_SURE = 3.0
"""Standard errors by which a fall must differ from _FALLS."""


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
    (middle, of_middle), (last, of_last) = _mean(gaps, 0.4, 0.6), _mean(gaps, 0.8, 1.0)
    fall = middle - last - _FALLS * middle
    doubt = _SURE * math.hypot(of_middle, of_last)
    told = (
        f"the predictor's gap was {middle:.3g} in the middle of the run and {last:.3g} at its end"
    )
    if fall > doubt:
        yield f"the student still learns: {told}. Train longer (training.steps)"
        return
    if fall < -doubt and not isinstance(record.recipe.get("corrector"), Mapping):
        yield (
            f"the student no longer learns: {told}. If it cannot fit solved pairs either, it is "
            "too small (docs/evaluate.md tells how to find out). If it can, lower balancer.power "
            "or raise optimizer.learning_rate"
        )


def _mean(values: Sequence[float], start: float, stop: float) -> tuple[float, float]:
    """Return mean and standard error of a part of a series, given by shares of its length."""
    part = values[int(start * len(values)) : int(stop * len(values))]
    return fmean(part), stdev(part) / math.sqrt(len(part))
