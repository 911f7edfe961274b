"""The components of this plugin."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer both exact teachers, raw features and the identity decoder."""
    yield Component(
        role="teacher",
        name="gaussian",
        target="ffcore_exact.tables:GaussianTeacher",
        summary="Data N(mean, scale² I); the exact flow map is known",
    )
    yield Component(
        role="teacher",
        name="mixture",
        target="ffcore_exact.tables:MixtureTeacher",
        summary="A mixture of Gaussians; the exact velocity is known",
    )
    yield Component(
        role="features",
        name="raw",
        target="ffcore_exact.tables:Raw",
        summary="The sample itself, flattened: pixels, latents or vectors",
    )
    yield Component(
        role="decoder",
        name="identity",
        target="ffcore_exact.tables:Identity",
        summary="Samples are images: nothing to decode",
    )
