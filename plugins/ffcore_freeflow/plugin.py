"""The components of this plugin."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl

_CITATION = "Tong, Ma, Xie, Jaakkola: Flow Map Distillation Without Data, arXiv 2511.19428"


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer the predictor and the balancer."""
    yield Component(
        role="predictor",
        name="freeflow",
        target="ffcore_freeflow.tables:FreeFlow",
        summary="Tracks the teacher's velocity along the student's own flow",
        citation=_CITATION,
    )
    yield Component(
        role="balancer",
        name="adaptive",
        target="ffcore_freeflow.tables:Adaptive",
        summary="Power-law weights; correction scaled to prediction",
        citation=_CITATION,
    )
