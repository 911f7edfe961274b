"""The components of this plugin."""

from collections.abc import Iterable

from ffcore.plugins import Component, hookimpl


@hookimpl
def ffcore_components() -> Iterable[Component]:
    """Offer the corrector."""
    yield Component(
        role="corrector",
        name="vsd",
        target="ffcore_vsd.tables:Vsd",
        summary="Pulls the samples' distribution to the teacher's, with an online network",
        citation=(
            "Luo et al.: Diff-Instruct, arXiv 2305.18455; Wang et al.: ProlificDreamer, "
            "arXiv 2305.16213; as used by FreeFlow, arXiv 2511.19428"
        ),
    )
