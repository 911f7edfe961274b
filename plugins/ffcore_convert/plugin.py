"""The components of this plugin."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer a converted network, and a student for it or any other teacher."""
    yield Component(
        role="teacher",
        name="converted",
        target="ffcore_convert.tables:ConvertedTeacher",
        summary="Your network: noise, data, v, score or velocity, on any path, with any time",
    )
    yield Component(
        role="student",
        name="copy",
        target="ffcore_convert.tables:CopyStudent",
        summary="A copy of any teacher's network, which reads the duration as its time",
    )
