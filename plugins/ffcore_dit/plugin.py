"""The components of this plugin."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl

_CITATION = "Peebles, Xie: DiT, arXiv 2212.09748"


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer the transformer as teacher and as student."""
    yield Component(
        role="teacher",
        name="dit",
        target="ffcore_dit.tables:DiTTeacher",
        summary="The DiT diffusion transformer, its noise prediction restated as a velocity",
        citation=_CITATION,
    )
    yield Component(
        role="student",
        name="dit",
        target="ffcore_dit.tables:DiTStudent",
        summary="The DiT transformer on (z, δ, γ, label), with the teacher's body and a new head",
        citation=_CITATION,
    )
