"""What this plugin offers."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer the Inception network's features."""
    yield Component(
        role="features",
        name="inception",
        target="ffcore_inception.tables:Inception",
        summary="Pool of the Inception network of published FIDs, 2048 numbers, by torch-fidelity",
        citation="Heusel et al.: GANs Trained by a Two Time-Scale Update Rule Converge to a Local "
        "Nash Equilibrium, NeurIPS 2017, arXiv 1706.08500",
    )
