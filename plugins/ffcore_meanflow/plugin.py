"""The components of this plugin."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer the predictor."""
    yield Component(
        role="predictor",
        name="meanflow",
        target="ffcore_meanflow.tables:MeanFlow",
        summary="Learns the flow map from anywhere, on data, by the data's or teacher's velocity",
        citation="Geng, Deng, Bai, Kolter, He: Mean Flows for One-step Generative Modeling, "
        "arXiv 2505.13447",
    )
