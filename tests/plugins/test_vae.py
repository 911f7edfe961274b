"""Stable Diffusion's decoder: as diffusers decodes, a few at a time, from files read strictly."""

import copy
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from inputs import Stream
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ffcore.interfaces import Context, VelocityField
from ffcore.plugins import Registry
from ffcore.system.files import MissingFile, require
from ffcore.system.weights import WeightsError
from ffcore_vae.decoder import SdVaeDecoder
from ffcore_vae.tables import SdVae

SCALE = 0.18215
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
BLOCKS = 2
TINY = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * BLOCKS,
    "up_block_types": ("UpDecoderBlock2D",) * BLOCKS,
    "norm_num_groups": 4,
    "latent_channels": 4,
}
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@attrs.frozen(eq=False)
class Published:
    """A tiny autoencoder, saved by diffusers itself."""

    folder: Path
    autoencoder: Any

    def decoded(self, latents: Tensor) -> Tensor:
        """What diffusers makes of latents that were multiplied by nothing."""
        with torch.no_grad():
            images: Tensor = self.autoencoder.decode(latents).sample
        return images


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'ffcore[vae]'")
    from ffcore_vae.decoder import import_autoencoder

    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    autoencoder = import_autoencoder()(**TINY).eval()
    autoencoder.save_pretrained(folder)
    return Published(folder, autoencoder)


@pytest.fixture
def folder(published: Published, tmp_path: Path) -> Path:
    """A copy of the published folder, to be damaged."""
    return Path(shutil.copytree(published.folder, tmp_path / "vae"))


def decoder(folder: Path, **keys: Any) -> SdVaeDecoder:
    built = SdVae(weights=str(folder), **keys).build(Context())
    assert isinstance(built, SdVaeDecoder)
    return built


def latents(size: int = 5) -> Tensor:
    return Stream(0).normal(size, 4, 4, 4).float()


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of a folder's weights file."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def configure(folder: Path, **keys: object) -> None:
    """Change the keys of a folder's config.json."""
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def test_images_are_exactly_those_of_diffusers(published: Published) -> None:
    z = latents()
    images = decoder(published.folder)(z)
    assert images.shape == (5, 3, 8, 8)
    assert images.dtype == torch.float32
    assert torch.equal(images, published.decoded(z / SCALE))


def test_latents_that_are_not_divided_by_the_scale_would_be_seen(published: Published) -> None:
    z = latents()
    images = decoder(published.folder)(z)
    for wrong in (z, z * SCALE, z / 0.13025):
        assert (images - published.decoded(wrong)).abs().max() > 0.01


def test_in_bfloat16_the_images_are_those_of_diffusers_in_bfloat16(published: Published) -> None:
    z = latents()
    exact = decoder(published.folder)(z)
    images = decoder(published.folder, dtype="bfloat16")(z)
    assert images.dtype == torch.float32
    # bfloat16 keeps 8 bits: its rounding shows, and stays at some of the last of them.
    assert 0 < (images - exact).norm() / exact.norm() < 8 * 2**-8

    half = copy.deepcopy(published.autoencoder).to(torch.bfloat16)
    theirs = Published(published.folder, half).decoded((z / SCALE).bfloat16())
    assert torch.equal(images, theirs.float())


def test_a_few_at_a_time_make_the_images_of_all_at_once(published: Published) -> None:
    sizes: list[int] = []
    few = decoder(published.folder, batch=2)

    def count(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        sizes.append(len(arguments[0]))

    few.decoder.register_forward_pre_hook(count)
    z = latents(5)
    # Convolutions of another batch size may add up in another order.
    torch.testing.assert_close(few(z), decoder(published.folder, batch=5)(z), rtol=0, atol=1e-5)
    assert sizes == [2, 2, 1]


def test_the_decoder_is_frozen_and_holds_no_encoder(published: Published) -> None:
    network, whole = decoder(published.folder), published.autoencoder
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    kept = {*whole.decoder.state_dict().values(), *whole.post_quant_conv.state_dict().values()}
    assert len(network.state_dict()) == len(kept) < len(whole.state_dict())
    assert not network(latents().requires_grad_(True)).requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_latents_of_any_precision_are_divided_in_float32(
    published: Published, dtype: torch.dtype
) -> None:
    z = latents().to(dtype)
    assert torch.equal(decoder(published.folder)(z), published.decoded(z.float() / SCALE))


def test_a_network_without_a_convolution_at_its_border_is_decoded_too(tmp_path: Path) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'ffcore[vae]'")
    from ffcore_vae.decoder import import_autoencoder

    autoencoder = import_autoencoder()(**TINY, use_post_quant_conv=False).eval()
    autoencoder.save_pretrained(tmp_path)
    theirs = Published(tmp_path, autoencoder).decoded(latents() / SCALE)
    assert torch.equal(decoder(tmp_path)(latents()), theirs)


def test_the_published_files_old_names_of_attention_are_understood(
    folder: Path, published: Published
) -> None:
    def backdate(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if ".attentions." in name]:
            for new, old in OLD_NAMES.items():
                if f".{new}." in name:
                    tensors[name.replace(f".{new}.", f".{old}.")] = tensors.pop(name)

    edit(folder, backdate)
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in load_file(folder / WEIGHTS)
    theirs = type(published.autoencoder).from_pretrained(
        folder, use_safetensors=True, low_cpu_mem_usage=False
    )
    z = latents()
    images = decoder(folder)(z)
    assert torch.equal(images, published.decoded(z / SCALE))
    assert torch.equal(images, Published(folder, theirs).decoded(z / SCALE))


def test_a_tensor_under_both_its_names_is_refused(folder: Path) -> None:
    name = "decoder.mid_block.attentions.0.{}.bias"
    edit(folder, lambda each: each.update({name.format("query"): each[name.format("to_q")] + 1}))
    with pytest.raises(WeightsError, match="both old and new names"):
        decoder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda each: each.pop("decoder.conv_in.bias"), r"missing: decoder\.conv_in\.bias"),
        (lambda each: each.pop("encoder.conv_in.bias"), r"missing: encoder\.conv_in\.bias"),
        (lambda each: each.update({"more": torch.zeros(1)}), "unexpected: more"),
        (
            lambda each: each.update({"decoder.conv_in.bias": torch.zeros(3)}),
            r"decoder\.conv_in\.bias: the file has \(3,\), the network \(16,\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    folder: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    edit(folder, change)
    with pytest.raises(WeightsError, match=message):
        decoder(folder)


def test_weights_of_another_size_than_the_folder_says_are_refused(folder: Path) -> None:
    configure(folder, block_out_channels=[8, 8])
    with pytest.raises(WeightsError, match="does not fit the network"):
        decoder(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_weights_cut_short_are_refused(folder: Path, keep: int) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        decoder(folder)


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", WEIGHTS])
@pytest.mark.parametrize("kind", ["pickle", "checkpoint", "tensors"])
def test_a_folder_with_a_pickle_instead_is_refused_and_it_is_never_unpickled(
    folder: Path, tmp_path: Path, name: str, kind: str
) -> None:
    tensors, mark = load_file(folder / WEIGHTS), tmp_path / "mark"
    (folder / WEIGHTS).unlink()
    if kind == "pickle":
        (folder / name).write_bytes(pickle.dumps(Trap(mark)))
    else:
        torch.save(tensors if kind == "tensors" else {"model": Trap(mark)}, folder / name)
    with pytest.raises((MissingFile, WeightsError), match=r"no such file|cannot be read as safe"):
        decoder(folder)
    assert not mark.exists()


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS, None])
def test_a_missing_file_is_named(folder: Path, missing: str | None) -> None:
    if missing is None:
        shutil.rmtree(folder)
    else:
        (folder / missing).unlink()
    with pytest.raises(MissingFile, match=missing or CONFIG):
        decoder(folder)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"_class_name": "AutoencoderTiny"}, "does not say"),
        ({"depth": 3}, "does not know depth"),
        ({"norm_num_groups": 5}, "does not describe an AutoencoderKL"),
        ({"up_block_types": ["UpBlock"] * BLOCKS}, "does not describe an AutoencoderKL"),
    ],
)
def test_a_config_that_describes_no_such_network_is_refused(
    folder: Path, keys: dict[str, object], message: str
) -> None:
    configure(folder, **keys)
    with pytest.raises(WeightsError, match=message):
        decoder(folder)


@pytest.mark.parametrize(("text", "message"), [("{", "read as JSON"), ("[]", "does not say")])
def test_a_config_that_is_no_table_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / CONFIG).write_text(text)
    with pytest.raises(WeightsError, match=message):
        decoder(folder)


def test_another_scale_than_the_folder_says_is_refused(folder: Path) -> None:
    configure(folder, scaling_factor=0.13025)
    with pytest.raises(ValueError, match=r"scale is 0\.18215, but .* scaling_factor 0\.13025"):
        decoder(folder)
    decoder(folder, scale=0.13025)


def test_a_folder_that_says_nothing_of_a_scale_takes_any(folder: Path) -> None:
    path = folder / CONFIG
    config = json.loads(path.read_text())
    del config["scaling_factor"]
    path.write_text(json.dumps(config))
    assert torch.equal(decoder(folder, scale=1.0)(latents() / SCALE), decoder(folder)(latents()))


@pytest.mark.parametrize("key", ["shift_factor", "latents_mean", "latents_std"])
def test_latents_that_are_more_than_scaled_are_refused(folder: Path, key: str) -> None:
    configure(folder, **{key: 0.1159})
    with pytest.raises(ValueError, match=f"{key} 0.1159, but sd-vae only has a scale"):
        decoder(folder)


@pytest.mark.parametrize("shape", [(3, 4, 4), (8, 4, 4), (4, 4), (4,), (1, 4, 4, 4)])
def test_samples_that_are_no_such_latents_are_refused(
    published: Published, shape: tuple[int, ...]
) -> None:
    network = decoder(published.folder)
    with pytest.raises(ValueError, match=r"latents of shape \(4, height, width\), found \("):
        network(torch.zeros(2, *shape))


def test_a_teacher_without_such_latents_is_told_before_training(published: Published) -> None:
    table = SdVae(weights=str(published.folder))
    fits, fails = (VelocityField.of(lambda x, t, c: x, (channels, 4, 4)) for channels in (4, 3))
    table.build(Context(teacher=fits))
    with pytest.raises(ValueError, match=r"found \(3, 4, 4\)"):
        table.build(Context(teacher=fails))


def test_no_random_number_of_a_run_moves_for_the_decoder(published: Published) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    decoder(published.folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_diffusers_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingFile, match=r"needs diffusers.*pip install 'ffcore\[vae\]'"):
        SdVae(weights=str(tmp_path)).build(Context())


def test_a_recipe_finds_the_table_and_nothing_heavy_is_imported_for_it() -> None:
    code = (
        "import sys\n"
        "from ffcore.plugins import Registry\n"
        "Registry.load().table('decoder', 'sd-vae')().files\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert Registry.load().table("decoder", "sd-vae") is SdVae


@pytest.mark.parametrize(
    ("keys", "place", "origin"),
    [
        ({}, "hf://stabilityai/sd-vae-ft-ema/{}", "ema"),
        ({"variant": "mse"}, "hf://stabilityai/sd-vae-ft-mse/{}", "mse"),
        ({"weights": "some/folder/"}, "some/folder/{}", "ema"),
        ({"weights": "package:folder"}, "package:folder/{}", "ema"),
        ({"weights": "a@b"}, "a@b/{}", "ema"),
        ({"weights": "hf://org/repo"}, "hf://org/repo/{}", None),
        ({"weights": "hf://org/repo/vae@abc"}, "hf://org/repo/vae/{}@abc", None),
    ],
)
def test_the_table_names_the_two_files_that_it_will_read(
    keys: dict[str, Any], place: str, origin: str | None
) -> None:
    files = SdVae(**keys).files
    assert [file.reference for file in files] == [place.format(CONFIG), place.format(WEIGHTS)]
    for file in files:
        assert file.key == "decoder.weights"
        if origin is None:
            assert (file.origin, file.licence) == (None, None)
        else:
            assert file.origin == f"https://huggingface.co/stabilityai/sd-vae-ft-{origin}"
            assert file.licence == "MIT"


def test_a_missing_folder_is_told_with_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MissingFile) as caught:
        require(SdVae(weights=str(tmp_path / "nowhere")).files)
    for part in (CONFIG, WEIGHTS, "stabilityai/sd-vae-ft-ema", "MIT", "--set decoder.weights"):
        assert part in str(caught.value)


def test_an_empty_name_is_not_taken_for_the_published_folder() -> None:
    with pytest.raises(ValueError, match="weights: must be a folder, or 'none'"):
        SdVae(weights="")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_naming_a_file_instead_of_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must name the folder"):
        SdVae(weights=f"some/folder/{name}")


def test_a_folder_in_the_hub_s_cache_is_read_without_a_network(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingFile, match="HF_HUB_OFFLINE"):
        SdVae().build(Context())
    repository = tmp_path / "models--stabilityai--sd-vae-ft-ema"
    commit = "0" * 40
    shutil.copytree(published.folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert torch.equal(SdVae().build(Context())(latents()), decoder(published.folder)(latents()))
