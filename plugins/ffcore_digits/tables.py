"""The recipe table of the digit features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ffcore.keys import key

if TYPE_CHECKING:
    from ffcore.interfaces import Context, Features

CLASSIFIER = "ffcore_digits:classifier.safetensors"


@attrs.frozen(kw_only=True)
class Digits:
    """Features of 8 × 8 digits in [−1, 1]."""

    weights: str = key(CLASSIFIER, help="the classifier's weights file")

    def build(self, context: Context) -> Features:
        """Return the features. Raises WeightsError where the file does not fit."""
        del context
        from ffcore.weights import read_weights
        from ffcore_digits.classifier import DigitFeatures

        return DigitFeatures(read_weights(self.weights))
