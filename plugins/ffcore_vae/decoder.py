"""The decoder half of Stable Diffusion's autoencoder (Rombach et al., 2112.10752), frozen.

Its teachers are trained on latents times 0.18215, which makes their variance about 1. diffusers
provides the network; ffcore's own strict reader reads the folder in diffusers' layout. So no weight
stays at its random start, no pickle is opened, and no name in the folder points elsewhere.
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
        enter: layer before the decoder.
        decoder: the decoder itself; both are frozen in place, in eval mode.
        channels: channels C of the latents.
        scale: divisor of the latents before decoding.
        batch: samples decoded at a time.
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
        """Raise ValueError if this decoder cannot decode samples of this shape."""
        if len(shape) != 3 or shape[0] != self.channels:
            raise ValueError(
                f"sd-vae decodes latents of shape ({self.channels}, height, width), found {shape}"
            )

    def forward(self, samples: Tensor) -> Tensor:
        """Return images Float[B, C', H, W] of latents Float[B, C, h, w], without gradient.

        They are on the decoder's device and may slightly exceed [−1, 1].

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
        weights: its tensors, encoder and decoder, as safetensors. Both are references for `locate`.
        scale, batch: see SdVaeDecoder.
        dtype: the decoder's precision, "float32" or "bfloat16".

    Raises MissingFile if diffusers or a file is missing, WeightsError if a file is damaged or the
    two do not fit each other, ValueError if config.json has another scale.
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
    """Return diffusers' AutoencoderKL; work around torchvision's failing import if needed."""
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
    """Return the network's sizes in config.json."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(config, dict) or config.get("_class_name") != "AutoencoderKL":
        raise WeightsError(f'{path} does not say "_class_name": "AutoencoderKL"')
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _check_normalisation(sizes: dict[str, Any], scale: float, source: str) -> None:
    """Raise ValueError if the file normalises latents in another way than division by `scale`."""
    found = sizes.get("scaling_factor", scale)
    if found != scale:
        raise ValueError(
            f"scale is {scale}, but {source} has scaling_factor {found!r}: set scale to the factor "
            "on the teacher's latents; if it is right, fix that file"
        )
    for name in ("shift_factor", "latents_mean", "latents_std"):
        if sizes.get(name) is not None:
            raise ValueError(f"{source} has {name} {sizes[name]!r}, but sd-vae only has a scale")


def _new(autoencoder: Any, sizes: dict[str, Any], source: str) -> Any:
    """Return an AutoencoderKL of these sizes with random weights."""
    unknown = sorted(sizes.keys() - inspect.signature(autoencoder).parameters.keys())
    if unknown:
        names = ", ".join(unknown)
        raise WeightsError(f"{source}: the installed diffusers does not know {names}")
    try:
        # The initial random weights are overwritten; they must not shift the run's random numbers.
        with torch.random.fork_rng(devices=[]):
            return autoencoder(**sizes)
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{source} does not describe an AutoencoderKL: {error}") from error


def _read_safetensors(reference: str) -> Weights:
    """Return the weights with current diffusers' names; the published files have older ones.

    Torch files are refused, although ffcore could read them.
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
        raise WeightsError(f"{weights.label} holds tensors under both old and new names")
    return attrs.evolve(
        weights,
        tensors={names[name]: tensor for name, tensor in weights.tensors.items()},
        notes=(*weights.notes, *([f"renamed {renamed} attention tensors"] if renamed else [])),
    )
