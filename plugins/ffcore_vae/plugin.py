"""The components of this plugin."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer the decoder of Stable Diffusion's autoencoder."""
    yield Component(
        role="decoder",
        name="sd-vae",
        target="ffcore_vae.tables:SdVae",
        summary="Latents to images, by the decoder of Stable Diffusion's autoencoder",
        citation="Rombach et al.: High-Resolution Image Synthesis with Latent Diffusion Models, "
        "CVPR 2022, arXiv 2112.10752",
    )
