"""Best-of-N: a student searches the noise, a verifier chooses, the teacher renders."""

from ffcore.search.best_of import search
from ffcore.search.comparison import Arm, Comparison, Row, Score, check_alike, compare
from ffcore.search.store import check_free, keep
from ffcore.search.verifier import Verifier, VerifierError

__all__ = [
    "Arm",
    "Comparison",
    "Row",
    "Score",
    "Verifier",
    "VerifierError",
    "check_alike",
    "check_free",
    "compare",
    "keep",
    "search",
]
