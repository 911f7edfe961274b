"""The components of this plugin."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl

_CITATION = "Ma et al.: SiT, arXiv 2401.08740"


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer the transformer as teacher and as student."""
    yield Component(
        role="teacher",
        name="sit",
        target="ffcore_sit.tables:SiTTeacher",
        summary="The SiT transformer, from its published checkpoint or another file",
        citation=_CITATION,
    )
    yield Component(
        role="student",
        name="sit",
        target="ffcore_sit.tables:SiTStudent",
        summary="The SiT transformer on (z, δ, γ, label), started from the teacher",
        citation=_CITATION,
    )
    yield Component(
        role="network",
        name="sit",
        target="ffcore_sit.tables:SiTNetwork",
        summary="The SiT transformer as a velocity, from scratch",
        citation=_CITATION,
    )
