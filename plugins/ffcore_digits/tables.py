"""The recipe tables of the digits: features, and data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import attrs

from ffcore.keys import key

if TYPE_CHECKING:
    from ffcore.interfaces import Context, DataSource, Features
    from ffcore.recipe import Recipe

CLASSIFIER = "ffcore_digits:classifier.safetensors"


@attrs.frozen(kw_only=True)
class Digits:
    """Features of 8 × 8 digits in [−1, 1]."""

    weights: str = key(CLASSIFIER, help="the classifier's weights file")

    def build(self, context: Context) -> Features:
        """Return the features. Raises WeightsError where the file does not fit."""
        del context
        from ffcore.system.weights import read_weights
        from ffcore_digits.classifier import DigitFeatures

        return DigitFeatures(read_weights(self.weights))


@attrs.frozen(kw_only=True)
class DigitsAsData:
    """The digits themselves."""

    part: Literal["train", "all"] = key(
        "train", help="which of them: those that the embedded teacher learnt, or all 1,797"
    )
    augment: float = key(
        0.0,
        help=(
            "strength of random rotation, zoom and shift: at 1 up to 15 degrees, 15 percent and a "
            "pixel, in proportion otherwise; at 0 none"
        ),
        at_least=0,
    )
    guided = False  # whatever the teacher's samples are: these are no samples of it

    @classmethod
    def examples(cls) -> Iterator[DigitsAsData]:
        """Yield them as they are, and warped."""
        yield cls()
        yield cls(part="all", augment=1.0)

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError where the teacher's samples, as far as it says, are no such images."""
        shape = getattr(recipe.teacher, "sample_shape", None)
        if shape not in (None, (1, 8, 8)):
            raise ValueError(f"digits are (1, 8, 8), and the teacher's samples {shape}")

    def build(self, context: Context) -> DataSource:
        """Return the source.

        Raises MissingFile without scikit-learn, ValueError for a teacher of other samples or
        classes.
        """
        from ffcore_digits.data import DigitImages

        assert context.teacher is not None
        return DigitImages(context.teacher, self.part, self.augment)
