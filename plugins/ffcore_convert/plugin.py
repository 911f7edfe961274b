"""The components of this plugin."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer a converted network."""
    yield Component(
        role="teacher",
        name="converted",
        target="ffcore_convert.tables:ConvertedTeacher",
        summary="Your network: noise, data, v, score or velocity, on any path, with any time",
    )
