"""The components of this plugin."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer the data sources."""
    yield Component(
        role="data",
        name="latents",
        target="ffcore_data.tables:Latents",
        summary="A folder of safetensors files, each with latents and their labels",
    )
    yield Component(
        role="data",
        name="teacher-samples",
        target="ffcore_data.tables:TeacherSamples",
        summary="Samples of the teacher, guided as in the recipe, made once and kept in memory",
    )
