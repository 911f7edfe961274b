"""The components of this plugin."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer the vector student and the vector velocity network."""
    yield Component(
        role="student",
        name="mlp",
        target="ffcore_mlp.tables:MlpStudent",
        summary="A perceptron for samples that are vectors",
    )
    yield Component(
        role="network",
        name="mlp",
        target="ffcore_mlp.tables:MlpNetwork",
        summary="A perceptron velocity for vectors, from scratch",
    )
