"""The components of this plugin. The teacher is a file: `ffcore_digits:teacher.safetensors`."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer the classifier's features, and the digits as data."""
    yield Component(
        role="features",
        name="digits",
        target="ffcore_digits.tables:Digits",
        summary="Penultimate layer of a classifier of 8 × 8 digits",
        citation="Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI, 1998",
    )
    yield Component(
        role="data",
        name="digits",
        target="ffcore_digits.tables:DigitsAsData",
        summary="scikit-learn's 1,797 handwritten digits with their labels, augmented on request",
        citation="Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI, 1998",
    )
