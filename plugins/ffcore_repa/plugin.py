"""The components of this plugin."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl

_CITATION = "Yu et al.: REPA, arXiv 2410.06940"


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer the transformer as teacher and as student."""
    yield Component(
        role="teacher",
        name="repa",
        target="ffcore_repa.tables:RepaTeacher",
        summary="SiT trained with REPA, from its published checkpoint or another file",
        citation=_CITATION,
    )
    yield Component(
        role="student",
        name="repa",
        target="ffcore_repa.tables:RepaStudent",
        summary="The REPA transformer on (z, δ, γ, label), started from the teacher",
        citation=_CITATION,
    )
