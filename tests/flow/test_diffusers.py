"""Tiny random networks as diffusers builds them: the derivative in δ is right, exactly."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import IMAGE, Animal, measured

try:  # a broken torchvision raises RuntimeError
    import diffusers.models as models
    from diffusers.models.transformers import DiTTransformer2DModel  # noqa: F401
except (ImportError, RuntimeError) as error:
    pytest.skip(f"diffusers cannot be imported: {error}", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore", "error::pytest.PytestWarning")


@pytest.fixture(autouse=True)
def embeddings_in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, 1000 δ rounds too much for differences as exact as these."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)


class Model(nn.Module):
    """A network of diffusers that takes 1000 δ, and tokens for a label."""

    def __init__(self, model: Any, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.call = model, call
        self.words, self.pooled = nn.Embedding(3, 24), nn.Embedding(3, 8)

    def forward(self, x: Any, delta: Any, label: Tensor) -> Any:
        words = self.words(label).unflatten(1, (3, 8))
        found: Any = self.call(self, x, 1000 * delta, label, words)
        return found.sample


def sizes(**more: Any) -> dict[str, Any]:
    return {"sample_size": 8, "in_channels": 2, "out_channels": 2, **more}


def unet(**more: Any) -> dict[str, Any]:
    return sizes(layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4, **more)


def heads(**more: Any) -> dict[str, Any]:
    return {"num_attention_heads": 2, "attention_head_dim": 8, "patch_size": 2, **more}


MODELS: dict[str, tuple[str, Callable[[Any], nn.Module]]] = {
    "U-Net": (
        "dual",
        lambda: Model(
            models.UNet2DModel(
                down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                attention_head_dim=4,
                num_class_embeds=3,
                **unet(),
            ),
            lambda self, x, time, label, words: self.model(x, time, class_labels=label),
        ),
    ),
    "U-Net with text": (
        "dual",
        lambda: Model(
            models.UNet2DConditionModel(
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=8,
                attention_head_dim=2,
                **unet(),
            ),
            lambda self, x, time, label, words: self.model(x, time, words),
        ),
    ),
    "DiT": (
        "dual",
        lambda: Model(
            without_label_dropout(
                models.DiTTransformer2DModel(num_layers=2, **sizes(**heads())),
            ),
            lambda self, x, time, label, words: self.model(x, time, class_labels=label),
        ),
    ),
    "SD3": (
        "dual",
        lambda: Model(
            models.SD3Transformer2DModel(
                num_layers=2,
                joint_attention_dim=8,
                caption_projection_dim=16,
                pooled_projection_dim=8,
                pos_embed_max_size=8,
                qk_norm="rms_norm",
                **sizes(**heads()),
            ),
            lambda self, x, time, label, words: self.model(x, words, self.pooled(label), time),
        ),
    ),
    "Flux": (
        "dual",
        lambda: Model(
            models.FluxTransformer2DModel(
                in_channels=8,
                num_layers=1,
                num_single_layers=1,
                joint_attention_dim=8,
                pooled_projection_dim=8,
                axes_dims_rope=(2, 2, 4),
                **heads(patch_size=1),
            ),
            lambda self, x, time, label, words: flux(self, x, time / 1000, label, words),
        ),
    ),
    "PixArt": (
        "dual",
        lambda: Model(
            models.PixArtTransformer2DModel(
                num_layers=2, cross_attention_dim=16, caption_channels=8, **sizes(**heads())
            ),
            lambda self, x, time, label, words: self.model(
                x, words, time, added_cond_kwargs={"resolution": None, "aspect_ratio": None}
            ),
        ),
    ),
    "Wan, whose rotary embedding writes into a tensor": (
        "jvp",
        lambda: Model(
            models.WanTransformer3DModel(
                patch_size=(1, 2, 2),
                num_attention_heads=2,
                attention_head_dim=12,
                in_channels=2,
                out_channels=2,
                text_dim=8,
                freq_dim=16,
                ffn_dim=32,
                num_layers=2,
                rope_max_seq_len=32,
            ),
            lambda self, x, time, label, words: without_frames(
                self.model(x[:, :, None], time, words)
            ),
        ),
    ),
}


def flux(self: Any, x: Any, time: Any, label: Tensor, words: Any) -> Any:
    places = torch.zeros(x.shape[2] * x.shape[3], 3)
    places[:, 1] = torch.arange(len(places))
    tokens = self.tokens(x.flatten(2).mT)
    found = self.model(tokens, words, self.pooled(label), time, places, torch.zeros(3, 3))
    found.sample = self.pixels(found.sample).mT.unflatten(2, x.shape[2:])
    return found


def without_frames(found: Any) -> Any:
    found.sample = found.sample[:, :, 0]
    return found


def without_label_dropout(model: Any) -> Any:
    for each in model.modules():
        if hasattr(each, "dropout_prob"):
            each.dropout_prob = 0.0
    return model


def made(name: str) -> nn.Module:
    model = MODELS[name][1]()  # type: ignore[call-arg]
    if name == "Flux":
        model.tokens, model.pixels = nn.Linear(2, 8), nn.Linear(8, 2)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_a_network_of_diffusers_is_differentiated_exactly(name: str) -> None:
    backend = MODELS[name][0]
    found, error = measured(Animal(lambda: made(name), IMAGE, backend, step=1e-4))
    assert found.derivative.backend == backend
    assert error < 1e-5
