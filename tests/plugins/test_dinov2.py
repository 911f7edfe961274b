"""DINOv2's features, with random weights in the layout of the published ones."""

from pathlib import Path

import pytest
import torch
from inputs import Stream
from torch import Tensor

from ffcore.interfaces import Context, Features
from ffcore.system.files import MissingFile, require
from ffcore.system.weights import WeightsError
from ffcore.testing.check import check_tables
from ffcore_inception.tables import DinoV2

DIMENSION, HIDDEN, GATED = 128, 512, 344


def layout(*, gated: bool) -> dict[str, tuple[int, ...]]:
    """Two blocks for images of 70 × 70, as the official code has them."""
    d, shapes = DIMENSION, dict[str, tuple[int, ...]]()

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    shapes |= {"cls_token": (1, 1, d), "mask_token": (1, d), "pos_embed": (1, 26, d)}
    shapes |= {"patch_embed.proj.weight": (d, 3, 14, 14), "patch_embed.proj.bias": (d,)}
    shapes |= {"norm.weight": (d,), "norm.bias": (d,)}
    for block in ("blocks.0", "blocks.1"):
        linear(f"{block}.attn.qkv", d, 3 * d)
        linear(f"{block}.attn.proj", d, d)
        if gated:
            linear(f"{block}.mlp.w12", d, 2 * GATED)
            linear(f"{block}.mlp.w3", GATED, d)
        else:
            linear(f"{block}.mlp.fc1", d, HIDDEN)
            linear(f"{block}.mlp.fc2", HIDDEN, d)
        for norm in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"{block}.{norm}"] = (d,)
        shapes |= {f"{block}.ls1.gamma": (d,), f"{block}.ls2.gamma": (d,)}
    return shapes


def random_weights(*, gated: bool = False) -> dict[str, Tensor]:
    tensors = {}
    for index, (name, shape) in enumerate(sorted(layout(gated=gated).items())):
        about_one = name.endswith(("gamma", "norm.weight", "norm1.weight", "norm2.weight"))
        tensors[name] = about_one + 0.1 * Stream(index).normal(*shape).float()
    return tensors


def built(path: Path, tensors: dict[str, Tensor]) -> Features:
    torch.save(tensors, path)
    return DinoV2(weights=str(path)).build(Context())


def images(channels: int = 3) -> Tensor:
    return Stream(0).uniform(-1, 1, 2, channels, 20, 20).float()


OFFICIAL = {
    False: [[0.951991, 0.28654, -0.059864, -0.291842], [1.268204, 0.139153, -0.82634, -0.536397]],
    True: [[0.746088, 0.450146, -0.123922, 1.345492], [1.309137, 0.790055, -1.318396, 1.39394]],
}
"""The first features of both images, by the network of the package `dinov2` 0.0.1.dev2 within
torch-fidelity's extractor, in float32."""


@pytest.mark.parametrize("gated", [False, True])
def test_features_are_what_the_official_network_makes_of_8_bit_images(tmp_path, gated):
    found = built(tmp_path / "w.pth", random_weights(gated=gated))(images())
    assert found.shape == (2, DIMENSION)
    torch.testing.assert_close(found[:, :4], torch.tensor(OFFICIAL[gated]), rtol=0, atol=1e-5)


def test_a_grey_image_is_its_three_equal_channels(tmp_path):
    features = built(tmp_path / "w.pth", random_weights())
    grey = images(1)
    assert torch.equal(features(grey), features(grey.expand(-1, 3, -1, -1)))
    with pytest.raises(ValueError, match="dinov2 reads images with 3 channels"):
        features(torch.zeros(2, 5))


def test_it_keeps_every_law(tmp_path):
    torch.save(random_weights(), tmp_path / "w.pth")
    table = DinoV2(weights=str(tmp_path / "w.pth"))
    assert [each.name for each in check_tables("f", "features", [table]) if each.fails] == []


def test_an_absent_file_is_told_with_its_origin_and_place(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingFile) as told:
        require(DinoV2().files)
    text = str(told.value)
    assert f"{tmp_path}/hub/checkpoints/dinov2_vitl14_pretrain.pth" in text
    assert "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth" in text
    assert """'{type="dinov2",""" in text


def test_weights_of_another_layout_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"is not a DINOv2 network: .*pos_embed"):
        built(tmp_path / "w.pth", {"cls_token": torch.zeros(1, 1, 128)})
    registers = random_weights() | {"register_tokens": torch.zeros(1, 4, DIMENSION)}
    with pytest.raises(WeightsError, match="unexpected: register_tokens"):
        built(tmp_path / "w.pth", registers)
