"""The recipe tables of the features."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from ffcore.keys import ImpossibleValue, ReadsWeights, key
from ffcore.system.files import File

if TYPE_CHECKING:
    from ffcore.interfaces import Context, Features
    from ffcore.recipe import Recipe

_INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
_INCEPTION_ORIGIN = (
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_INCEPTION}"
)
_DINOV2 = "dinov2_vitl14_pretrain.pth"
_DINOV2_ORIGIN = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/{_DINOV2}"


@attrs.frozen(kw_only=True)
class Inception(ReadsWeights):
    """Pool features of RGB or grey images in [−1, 1]."""

    weights: str | None = key(
        None,
        help=(
            "weights file of the network; 'none': torch-fidelity's, in its cache. Nothing is "
            "downloaded"
        ),
    )

    def __attrs_post_init__(self) -> None:
        _check_weights(self.weights)

    @property
    def files(self) -> tuple[File, ...]:
        """The weights file."""
        return (_file(self.weights, "inception", "Inception", _INCEPTION, _INCEPTION_ORIGIN),)

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError where the teacher's samples, as far as it says, are no images."""
        _check_images("inception", getattr(recipe.teacher, "sample_shape", None))

    def build(self, context: Context) -> Features:
        """Return the features.

        Raises MissingFile where there is no file, WeightsError where it does not fit, and
        ValueError where the teacher's samples are no images.
        """
        _check_images("inception", getattr(context.teacher, "sample_shape", None))
        from ffcore.system.weights import read_weights
        from ffcore_inception.features import InceptionFeatures

        return InceptionFeatures(read_weights(self.files[0].reference, self.part))


@attrs.frozen(kw_only=True)
class DinoV2(ReadsWeights):
    """Class token of RGB or grey images in [−1, 1], from a network of any published size."""

    weights: str | None = key(
        None,
        help=(
            "weights file of the network, without registers; 'none': ViT-L/14's, in the cache of "
            "torch's hub. Nothing is downloaded"
        ),
    )

    def __attrs_post_init__(self) -> None:
        _check_weights(self.weights)

    @property
    def files(self) -> tuple[File, ...]:
        """The weights file."""
        return (_file(self.weights, "dinov2", "DINOv2", _DINOV2, _DINOV2_ORIGIN),)

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError where the teacher's samples, as far as it says, are no images."""
        _check_images("dinov2", getattr(recipe.teacher, "sample_shape", None))

    def build(self, context: Context) -> Features:
        """Return the features.

        Raises MissingFile where there is no file, WeightsError where it does not fit, and
        ValueError where the teacher's samples are no images.
        """
        _check_images("dinov2", getattr(context.teacher, "sample_shape", None))
        from ffcore.system.weights import read_weights
        from ffcore_inception.dinov2 import DinoV2Features

        return DinoV2Features(read_weights(self.files[0].reference, self.part))


def _check_weights(weights: str | None) -> None:
    if weights == "":
        raise ImpossibleValue("weights", "", "a file, or 'none' for the published one")


def _file(weights: str | None, features: str, network: str, name: str, origin: str) -> File:
    return File(
        weights or str(_cache() / name),
        "features.weights",
        f"the {network} network's weights",
        origin,
        "Apache-2.0",
        """download it to that path, or name your file: for ffd evaluate, --features """
        f"""'{{type="{features}", weights="PATH"}}'; in a recipe, this key""",
    )


def _check_images(features: str, shape: tuple[int, ...] | None) -> None:
    """Raise ValueError for samples known not to be images."""
    if shape is not None and not (len(shape) == 3 and shape[0] in (1, 3)):
        raise ValueError(
            f"{features} reads images, (3, height, width) or (1, height, width), but the teacher's "
            f"samples are {tuple(shape)}. For latents, `ffd evaluate` measures the decoded images"
        )


def _cache() -> Path:
    """Return torch's cache of the weights that its hub downloads, by torch's own rules."""
    home = os.environ.get("TORCH_HOME")
    if home is None:
        home = str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"
