"""The decoder half of Stable Diffusion's autoencoder (Rombach et al., 2112.10752), frozen.

Teachers of this family are trained on latents times 0.18215, which makes their variance about 1.
A folder in diffusers' layout is read by core's own strict reader, and diffusers gives the network.
So nothing is left at its random start, no pickle is opened, and no name in the folder leads
anywhere else.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ffcore.evaluate.metrics import declare_torchvision_operators
from ffcore.interfaces import Decoder
from ffcore.system.files import MissingFile, locate
from ffcore.system.weights import Weights, WeightsError, read_weights

_OLD = re.compile(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)(?=\.)")
_NEW = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class SdVaeDecoder(Decoder):
    """Latents to images, a few at a time.

    Args:
        enter: what the latents pass first, at the decoder's border.
        decoder: the decoder proper; both are frozen in place, in eval mode.
        channels: C of the latents it decodes.
        scale: what latents are divided by before they are decoded.
        batch: how many samples are decoded at a time.
    """

    def __init__(
        self, enter: nn.Module, decoder: nn.Module, *, channels: int, scale: float, batch: int
    ) -> None:
        super().__init__()
        self.enter = enter
        self.decoder = decoder
        self.channels = channels
        self.scale = scale
        self.batch = batch
        self.requires_grad_(False).eval()

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError where samples of this shape are no latents of this decoder."""
        if len(shape) != 3 or shape[0] != self.channels:
            raise ValueError(
                f"sd-vae decodes latents of shape ({self.channels}, height, width), found {shape}"
            )

    def forward(self, samples: Tensor) -> Tensor:
        """Return images Float[B, C', H, W] of latents Float[B, C, h, w], without gradient.

        They are on the decoder's device, and may leave [−1, 1] by a little.

        Raises ValueError for latents of another shape.
        """
        self.check(tuple(samples.shape[1:]))
        with torch.no_grad():
            return torch.cat([self._decode(part) for part in samples.split(self.batch)])

    def _decode(self, samples: Tensor) -> Tensor:
        place = next(self.parameters())
        latents = samples.to(place.device, torch.float32) / self.scale
        images: Tensor = self.decoder(self.enter(latents.to(place.dtype)))
        return images.float()


def read_decoder(
    config: str, weights: str, *, scale: float, batch: int, dtype: str
) -> SdVaeDecoder:
    """Read a decoder from the two files of a folder in diffusers' layout.

    Args:
        config: config.json, which describes an AutoencoderKL.
        weights: its tensors, encoder and decoder, as safetensors. Both as `locate` takes them.
        scale, batch: as SdVaeDecoder has them.
        dtype: "float32" or "bfloat16", in which the decoder computes.

    Raises MissingFile where diffusers or a file is not there, WeightsError where a file is damaged
    or the two do not fit, ValueError where config.json names another scale.
    """
    autoencoder = import_autoencoder()
    sizes = _read_config(locate(config))
    _check_normalisation(sizes, scale, config)
    network = _new(autoencoder, sizes, config)
    _read_safetensors(weights).load_into(network)
    decoder = SdVaeDecoder(
        nn.Identity() if network.post_quant_conv is None else network.post_quant_conv,
        network.decoder,
        channels=network.config.latent_channels,
        scale=scale,
        batch=batch,
    )
    return decoder.to(getattr(torch, dtype))


def import_autoencoder() -> Any:
    """Return diffusers' AutoencoderKL, curing torchvision's import where it needs it."""
    try:
        return _import_autoencoder()
    except ImportError as error:
        raise MissingFile(
            f"sd-vae needs diffusers, which cannot be imported ({error}): pip install 'ffcore[vae]'"
        ) from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        declare_torchvision_operators()
        return _import_autoencoder()


def _import_autoencoder() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL


def _read_config(path: Path) -> dict[str, Any]:
    """Return what config.json says of the network."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(config, dict) or config.get("_class_name") != "AutoencoderKL":
        raise WeightsError(f'{path} does not say "_class_name": "AutoencoderKL"')
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _check_normalisation(sizes: dict[str, Any], scale: float, source: str) -> None:
    """Latents are divided by `scale` and nothing else: the file must not say otherwise."""
    found = sizes.get("scaling_factor", scale)
    if found != scale:
        raise ValueError(
            f"scale is {scale}, and {source} says scaling_factor {found!r}: set scale to what the "
            "teacher's latents were multiplied by; if it is right, fix that file"
        )
    for name in ("shift_factor", "latents_mean", "latents_std"):
        if sizes.get(name) is not None:
            raise ValueError(f"{source} says {name} {sizes[name]!r}; sd-vae has a scale alone")


def _new(autoencoder: Any, sizes: dict[str, Any], source: str) -> Any:
    """Return an AutoencoderKL of these sizes, its weights still random."""
    unknown = sorted(sizes.keys() - inspect.signature(autoencoder).parameters.keys())
    if unknown:
        raise WeightsError(f"{source}: the installed diffusers knows no {', '.join(unknown)}")
    try:
        # The random numbers are overwritten: no others of the run may move for their sake.
        with torch.random.fork_rng(devices=[]):
            return autoencoder(**sizes)
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{source} describes no AutoencoderKL: {error}") from error


def _read_safetensors(reference: str) -> Weights:
    """Return the weights under the names of today's diffusers; the published files are older.

    Torch files, which core would read too, are refused.
    """
    path = locate(reference)
    try:
        with safe_open(path, "pt"):
            pass
    except SafetensorError as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from None
    weights = read_weights(reference)
    names = {name: _OLD.sub(lambda old: old[1] + _NEW[old[2]], name) for name in weights.tensors}
    renamed = sum(old != new for old, new in names.items())
    if len(set(names.values())) < len(names):
        raise WeightsError(f"{weights.label} holds tensors under both their old and new names")
    return attrs.evolve(
        weights,
        tensors={names[name]: tensor for name, tensor in weights.tensors.items()},
        notes=(*weights.notes, *([f"renamed {renamed} of attention"] if renamed else [])),
    )
