"""The recipe tables of the digits: features, and data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import attrs

from ffcore.keys import ReadsWeights, key

if TYPE_CHECKING:
    from ffcore.interfaces import Context, DataSource, Features
    from ffcore.recipe import Recipe

CLASSIFIER = "ffcore_digits:classifier.safetensors"


@attrs.frozen(kw_only=True)
class Digits(ReadsWeights):
    """Features of 8 × 8 digits in [−1, 1]."""

    weights: str = key(CLASSIFIER, help="weights file of the classifier")

    def build(self, context: Context) -> Features:
        """Return the features. Raises WeightsError if the file does not fit."""
        del context
        from ffcore.system.weights import read_weights
        from ffcore_digits.classifier import DigitFeatures

        return DigitFeatures(read_weights(self.weights, self.part))


@attrs.frozen(kw_only=True)
class DigitsAsData:
    """The digits themselves."""

    part: Literal["train", "all"] = key(
        "train", help="digits to use: those that the shipped teacher trained on, or all 1,797"
    )
    augment: float = key(
        0.0,
        help=(
            "strength of random rotation, zoom and shift; 1 means up to 15 degrees, 15 percent and "
            "1 pixel, other values are proportional, 0 means none"
        ),
        at_least=0,
    )
    guided = False  # these are not samples of the teacher

    @classmethod
    def examples(cls) -> Iterator[DigitsAsData]:
        """Yield one without and one with augmentation."""
        yield cls()
        yield cls(part="all", augment=1.0)

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError if the teacher's table states samples of another shape."""
        shape = getattr(recipe.teacher, "sample_shape", None)
        if shape not in (None, (1, 8, 8)):
            raise ValueError(f"digits are (1, 8, 8), but the teacher's samples {shape}")

    def build(self, context: Context) -> DataSource:
        """Return the source.

        Raises MissingFile without scikit-learn, ValueError for a teacher of other samples or
        fewer classes.
        """
        from ffcore_digits.data import DigitImages

        assert context.teacher is not None
        return DigitImages(context.teacher, self.part, self.augment)
