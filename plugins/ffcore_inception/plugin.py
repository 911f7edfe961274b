"""The components of this plugin."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer the features of published distances."""
    yield Component(
        role="features",
        name="inception",
        target="ffcore_inception.tables:Inception",
        summary="Pool features of published FIDs' Inception (2048 numbers), by torch-fidelity",
        citation="Heusel et al.: GANs Trained by a Two Time-Scale Update Rule Converge to a Local "
        "Nash Equilibrium, NeurIPS 2017, arXiv 1706.08500",
    )
    yield Component(
        role="features",
        name="dinov2",
        target="ffcore_inception.tables:DinoV2",
        summary="Class token of DINOv2 (any published size), computed as in torch-fidelity",
        citation="Oquab et al.: DINOv2: Learning Robust Visual Features without Supervision, 2023, "
        "arXiv 2304.07193",
    )
