"""The recipe table of the decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

from ffcore.keys import ImpossibleValue, key
from ffcore.system.files import File

if TYPE_CHECKING:
    from ffcore.interfaces import Context, Decoder
    from ffcore.recipe import Recipe

_HUB, _PUBLISHED = "hf://", "stabilityai/sd-vae-ft-"


@attrs.frozen(kw_only=True)
class SdVae:
    """The decoder of Stable Diffusion's autoencoder, in diffusers' layout."""

    variant: Literal["ema", "mse"] = key(
        "ema",
        help=(
            "published decoder to read if weights is 'none': stabilityai/sd-vae-ft-ema or -mse. "
            "FIDs are not comparable between the two"
        ),
    )
    weights: str | None = key(
        None,
        help=(
            "folder in diffusers' layout, with config.json and "
            "diffusion_pytorch_model.safetensors: a path, package:folder of an installed package, "
            "or hf://organisation/repository; 'none': that of variant, from the hub"
        ),
    )
    batch: int = key(16, help="samples decoded at a time; limits the memory", at_least=1)
    dtype: Literal["float32", "bfloat16"] = key(
        "float32", help="precision of the decoder; images are float32"
    )
    scale: float = key(
        0.18215,
        help="factor on the teacher's latents, by which the decoder divides them",
        above=0,
    )

    def __attrs_post_init__(self) -> None:
        if self.weights == "":
            raise ImpossibleValue("weights", "", "a folder, or 'none' for the published one")
        if self.weights is not None and self.weights.endswith((".safetensors", ".json")):
            raise ValueError(f"weights must name the folder, not a file in it: {self.weights}")

    @property
    def files(self) -> tuple[File, ...]:
        """The two files that are read."""
        origin = licence = None
        if self.weights is None or not self.weights.startswith(_HUB):  # a path: a copy of it
            origin, licence = f"https://huggingface.co/{_PUBLISHED}{self.variant}", "MIT"
        return tuple(
            File(self._reference(name), "decoder.weights", what, origin, licence)
            for name, what in (
                ("config.json", "the decoder's sizes"),
                ("diffusion_pytorch_model.safetensors", "the decoder's weights"),
            )
        )

    def _reference(self, name: str) -> str:
        folder, at, revision = self.weights or f"{_HUB}{_PUBLISHED}{self.variant}", "", ""
        if folder.startswith(_HUB):
            folder, at, revision = folder.partition("@")
        return f"{folder.rstrip('/')}/{name}{at}{revision}"

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError if the teacher's table states samples that are not latents."""
        shape = getattr(recipe.teacher, "sample_shape", None)
        if shape is not None and len(shape) != 3:
            raise ValueError(f"sd-vae decodes latents, but the teacher's samples are {shape}")

    def build(self, context: Context) -> Decoder:
        """Return the decoder.

        Raises MissingFile if diffusers or a file is missing, WeightsError if the files do not fit,
        and ValueError if they have another scale or the teacher's samples are not such latents.
        """
        from ffcore_vae.decoder import read_decoder

        config, weights = (file.reference for file in self.files)
        decoder = read_decoder(
            config, weights, scale=self.scale, batch=self.batch, dtype=self.dtype
        )
        if context.teacher is not None:
            decoder.check(context.teacher.sample_shape)
        return decoder
