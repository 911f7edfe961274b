"""The components of this plugin."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer conditions from a file."""
    yield Component(
        role="conditions",
        name="named",
        target="ffcore_conditions.tables:Named",
        summary="A list of conditions with names, from a file: vectors, images, prompts",
    )
