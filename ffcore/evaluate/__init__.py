"""Measuring samples against a reference: distances, classes, and the conditions of both."""

from ffcore.evaluate.comparison import check_comparable, conditions, read_result
from ffcore.evaluate.measure import (
    METRICS,
    Measured,
    Scores,
    check_metrics,
    knows_classes,
    measure,
)
from ffcore.evaluate.reference import Reference, open_reference
from ffcore.evaluate.samples import Kept, Made, Making, Samples, is_kept, open_samples
from ffcore.evaluate.stored import EvaluationError
from ffcore.evaluate.stream import StoppedEvaluation, Working, hold_partial

__all__ = [
    "METRICS",
    "EvaluationError",
    "Kept",
    "Made",
    "Making",
    "Measured",
    "Reference",
    "Samples",
    "Scores",
    "StoppedEvaluation",
    "Working",
    "check_comparable",
    "check_metrics",
    "conditions",
    "hold_partial",
    "is_kept",
    "knows_classes",
    "measure",
    "open_reference",
    "open_samples",
    "read_result",
]
