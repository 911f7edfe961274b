"""A checkpoint in official format goes the whole way: load, distil, sample, export, load back."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from ffcore import load_sampler
from ffcore.cli import main
from ffcore.nn.embedding import grid_sinusoids
from ffcore.nn.size import TransformerSize
from ffcore.nn.transformer import Transformer
from ffcore_vae.decoder import import_autoencoder

SIZE = TransformerSize(
    input_size=8, patch_size=2, channels=4, width=32, depth=2, heads=2, classes=5
)
DEVICES = [
    ("cpu", "float32"),
    ("cpu", "bfloat16"),
    pytest.param(
        ("cuda", "bfloat16"),
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here"),
        ],
    ),
]
"""On what, and in which precision."""
FAMILIES = {"sit": 3, "repa": "all", "dit": 3}
"""Each family, and the channels that its papers guide."""


def official(family: str) -> dict[str, Tensor]:
    """A network's weights as the official code saves them: its names, its extras."""
    torch.manual_seed(0)
    network = Transformer(SIZE)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    position = grid_sinusoids(SIZE.input_size // SIZE.patch_size, SIZE.width)[None]
    weights = {"pos_embed": position, **network.state_dict()}
    if family == "repa":
        weights["projectors.0.0.weight"] = torch.randn(6, SIZE.width)
    else:  # learn_sigma: C further channels behind the C of every pixel of a patch
        for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
            pixels = weights[name].unflatten(0, (SIZE.patch_size**2, SIZE.channels))
            weights[name] = torch.cat([pixels, torch.randn_like(pixels)], 1).flatten(0, 1)
    return {f"module.{name}": each.detach() for name, each in weights.items()}


def published(family: str, path: Path) -> None:
    """A training checkpoint: ema, an untrained model, an optimizer's state, a Namespace."""
    ema = official(family)
    torch.save(
        {
            "model": {name: torch.zeros_like(each) for name, each in ema.items()},
            "ema": ema,
            "opt": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]},
            "args": argparse.Namespace(model="tiny", num_classes=5),
        },
        path,
    )


def autoencoder(folder: Path) -> None:
    pytest.importorskip("diffusers", reason="the extra `vae` is not installed")
    torch.manual_seed(0)
    network = import_autoencoder()(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
    )
    network.save_pretrained(folder)


def recipe(family: str, folder: Path, device: str = "cpu", precision: str = "float32") -> Path:
    sizes = ", ".join(
        f"{name} = {str(value).lower()}" for name, value in attrs.asdict(SIZE).items()
    )
    path = folder / "tiny.toml"
    path.write_text(f"""
[teacher]
type = "{family}"
weights = "{folder / "last.pt"}"
sizes = {{ {sizes} }}
origin = "a test"
licence = "MIT"
[student]
type = "{family}"
[predictor]
type = "freeflow"
[corrector]
type = "vsd"
online_rank = 2
[decoder]
type = "sd-vae"
weights = "{folder / "vae"}"
[guidance]
range = [1.0, 3.0]
interval = [0.0, 0.7]
channels = {json.dumps(FAMILIES[family])}
scale = 1.8
[training]
steps = 20
batch = 8
device = "{device}"
precision = "{precision}"
threads = 1
[evaluation]
features = []
solver = {{ method = "heun", steps = 2, gate = "step" }}
batch = 256
""")
    return path


def ffd(*arguments: Any, code: int = 0) -> Result:
    found = CliRunner().invoke(main, [str(each) for each in arguments], prog_name="ffd")
    assert found.exit_code == code, found.stderr
    return found


@pytest.mark.parametrize("where", DEVICES, ids=" ".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_published_checkpoint_goes_the_whole_way(
    family: str, where: tuple[str, str], tmp_path: Path
) -> None:
    device, precision = where
    autoencoder(tmp_path / "vae")
    published(family, tmp_path / "last.pt")
    toml, run, npz = (
        recipe(family, tmp_path, device, precision),
        tmp_path / "run",
        tmp_path / "s.npz",
    )

    ran = ffd("run", toml, "-d", run)
    assert "last.pt (ema): all" in ran.stderr
    assert ("projectors" if family == "repa" else "σ channels") in ran.stderr
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1
    assert (run / "samples.png").exists()

    ffd("sample", run, "-n", 7, "--guidance", 2.5, "--device", device, "-o", npz)
    images = np.load(npz)["arr_0"]
    assert (images.shape, images.dtype) == ((7, 16, 16, 3), np.uint8)
    assert images.std() > 1

    ffd("export", run, "--out", tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "last.pt" in card
    assert "MIT" in card
    (tmp_path / "last.pt").unlink()  # the student stands by itself

    sampler = load_sampler(tmp_path / "exported")
    again = sampler(7, seed=0, guidance=2.5)
    bytes_again = ((again.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).to(torch.uint8)
    assert np.abs(bytes_again.numpy().astype(int) - images.astype(int)).max() <= 1

    ffd("sample", tmp_path / "exported", "-n", 7, "--guidance", 2.5, "-o", tmp_path / "e.npz")
    exported = np.load(tmp_path / "e.npz")["arr_0"]
    assert np.abs(exported.astype(int) - images.astype(int)).max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_of_another_model_is_told_by_its_likely_cause(
    family: str, tmp_path: Path
) -> None:
    autoencoder(tmp_path / "vae")
    published(family, tmp_path / "last.pt")
    toml = recipe(family, tmp_path)
    found = ffd("run", toml, "-d", tmp_path / "run", "--set", "teacher.sizes.patch_size=4", code=2)
    assert "another patch size: 2 in a recipe for 4" in found.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name", ["sit_xl_256", "sit_xl_repa_256", "sit_xl_repa_512", "sit_b_256", "dit_xl_256"]
)
def test_without_its_weights_a_recipe_says_at_once_what_to_fetch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = ffd("run", f"{name}.toml", code=4)
    for said in ("teacher.weights", "weights/", "origin", "https://", "licence", "--set"):
        assert said in found.stderr
    assert "Traceback" not in found.stderr
    assert max(len(line) for line in found.stderr.splitlines()) <= 120
    assert list(tmp_path.iterdir()) == []
