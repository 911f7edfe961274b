"""The sizes of the adaLN transformer in a recipe or a weights file. Torch-free."""

from __future__ import annotations

from typing import Literal, get_args

import attrs

from ffcore.keys import key

Model = Literal[
    "S/2", "S/4", "S/8", "B/2", "B/4", "B/8", "L/2", "L/4", "L/8", "XL/2", "XL/4", "XL/8"
]
"""The published models, by letter and patch size (Peebles & Xie, 2212.09748, table 1)."""
MODELS: tuple[str, ...] = get_args(Model)

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
_DOWNSAMPLING = 8
"""Pixels of an image per pixel of its latent."""


@attrs.frozen(kw_only=True)
class TransformerSize:
    """The sizes that determine a transformer's weights, and its heads."""

    input_size: int = key(help="side of the square sample, in pixels of the sample", at_least=1)
    patch_size: int = key(2, help="side of a patch, in pixels of the sample", at_least=1)
    channels: int = key(4, help="channels of a sample", at_least=1)
    width: int = key(help="width of the tokens; a multiple of heads and of 4", at_least=4)
    depth: int = key(help="number of blocks", at_least=1)
    heads: int = key(help="attention heads", at_least=1)
    classes: int | None = key(
        None, help="number of classes without the null label; 'none': unconditional", at_least=1
    )
    null_label: bool = key(True, help="whether a null label follows the classes; guidance needs it")
    mlp_ratio: float = key(4.0, help="hidden width of a block's MLP, divided by width", above=0)
    qk_norm: bool = key(False, help="whether queries and keys are normalised")

    def __attrs_post_init__(self) -> None:
        if self.input_size % self.patch_size:
            raise ValueError(
                f"input_size {self.input_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads} and of 4")

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """*S of the samples."""
        return self.channels, self.input_size, self.input_size

    def check_teacher(self, sample_shape: tuple[int, ...], classes: int | None) -> None:
        """Raise ValueError unless these sizes fit a teacher of such samples and classes."""
        if self.sample_shape != sample_shape:
            raise ValueError(
                f"sizes are for samples {self.sample_shape}, but the teacher's are {sample_shape}"
            )
        if self.classes != classes:
            raise ValueError(f"sizes.classes is {self.classes}, but the teacher has {classes}")

    @staticmethod
    def published(model: Model, image_size: int, *, qk_norm: bool = False) -> TransformerSize:
        """Return the sizes of a published ImageNet model on latents with 4 channels.

        Args:
            model: letter and patch size, such as "XL/2".
            image_size: side of the image in pixels; 8 times the side of the latent.
            qk_norm: whether queries and keys are normalised.
        """
        letter, _, patch = model.partition("/")
        width, depth, heads = SIZES[letter]
        return TransformerSize(
            input_size=image_size // _DOWNSAMPLING,
            patch_size=int(patch),
            channels=4,
            width=width,
            depth=depth,
            heads=heads,
            classes=1000,
            qk_norm=qk_norm,
        )
