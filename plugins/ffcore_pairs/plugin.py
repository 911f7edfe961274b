"""The components of this plugin."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer the predictor."""
    yield Component(
        role="predictor",
        name="pairs",
        target="ffcore_pairs.tables:Pairs",
        summary="Regresses on the teacher's own solutions, made once from noise before training",
        citation="Luhman, Luhman: Knowledge Distillation in Iterative Generative Models for "
        "Improved Sampling Speed, arXiv 2101.02388",
    )
