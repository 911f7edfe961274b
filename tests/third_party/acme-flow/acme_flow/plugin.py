"""What acme-flow offers to ffcore."""

from collections.abc import Iterator

from ffcore.plugins import Component, hookimpl


@hookimpl
def ffcore_components() -> Iterator[Component]:
    """Offer the teacher and its conditions, the predictor and the balancer."""
    yield Component(
        role="teacher",
        name="ring",
        target="acme_flow.tables:RingTeacher",
        summary="A blurred circle in the plane; the exact velocity is known",
    )
    yield Component(
        role="conditions",
        name="centres",
        target="acme_flow.tables:CentresTable",
        summary="Centres of rings, by name",
    )
    yield Component(
        role="predictor",
        name="halves",
        target="acme_flow.tables:Halves",
        summary="The student's own first half of the way, the teacher's second half",
    )
    yield Component(
        role="balancer",
        name="huber",
        target="acme_flow.tables:Huber",
        summary="Pseudo-Huber weights: no sample pulls harder than a bound",
    )
