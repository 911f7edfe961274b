"""The recipe table of the Inception features."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from ffcore.files import File
from ffcore.keys import ImpossibleValue, key

if TYPE_CHECKING:
    from ffcore.interfaces import Context, Features
    from ffcore.recipe import Recipe

_NAME = "weights-inception-2015-12-05-6726825d.pth"
_ORIGIN = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_NAME}"


@attrs.frozen(kw_only=True)
class Inception:
    """Pool features of RGB or grey images in [−1, 1]."""

    weights: str | None = key(
        None,
        help=(
            "the network's weights file; none: torch-fidelity's, in the cache where it keeps it. "
            "Nothing is downloaded"
        ),
    )

    def __attrs_post_init__(self) -> None:
        if self.weights == "":
            raise ImpossibleValue("weights", "", "a file, or 'none' for torch-fidelity's own")

    @property
    def files(self) -> tuple[File, ...]:
        """The weights file."""
        return (
            File(
                self.weights or str(_cache() / _NAME),
                "features.weights",
                "the Inception network's weights",
                _ORIGIN,
                "Apache-2.0",
                """download it to that place, or name yours: in ffd evaluate as --features """
                """'{type="inception", weights="PATH"}', in a recipe by that key""",
            ),
        )

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError where the teacher's samples, as far as it says, are no images."""
        shape = getattr(recipe.teacher, "sample_shape", None)
        if shape is not None and not _is_image(shape):
            raise ValueError(_refusal(shape))

    def build(self, context: Context) -> Features:
        """Return the features.

        Raises MissingFile where there is no file, WeightsError where it does not fit, and
        ValueError where the teacher's samples are no images.
        """
        if context.teacher is not None and not _is_image(context.teacher.sample_shape):
            raise ValueError(_refusal(context.teacher.sample_shape))
        from ffcore.weights import read_weights
        from ffcore_inception.features import InceptionFeatures

        return InceptionFeatures(read_weights(self.files[0].reference))


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] in (1, 3)


def _refusal(shape: tuple[int, ...]) -> str:
    return (
        f"inception reads images, (3, height, width) or (1, height, width), and the teacher's "
        f"samples are {tuple(shape)}. Of latents, `ffd evaluate` measures the decoded images"
    )


def _cache() -> Path:
    """Return where torch keeps the weights that its hub downloads, as torch itself finds it."""
    home = os.environ.get("TORCH_HOME")
    if home is None:
        home = str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"
