"""The components of this plugin."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer the trackers."""
    yield Component(
        role="tracker",
        name="tensorboard",
        target="ffcore_tracking.tables:TensorBoard",
        summary="Event files in the run's directory, for TensorBoard",
    )
    yield Component(
        role="tracker",
        name="wandb",
        target="ffcore_tracking.tables:Wandb",
        summary="A run of Weights & Biases, on its server or offline",
    )
