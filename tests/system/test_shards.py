"""Weights in several files: an index of shards, and folders in the layout of diffusers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ffcore.interfaces import Context
from ffcore.nn.size import TransformerSize
from ffcore.nn.transformer import Transformer
from ffcore.system.files import (
    File,
    MissingFile,
    file_digest,
    locate_all,
    reference_digest,
    require,
)
from ffcore.system.shards import ShardError, is_index, read_index
from ffcore.system.weights import WeightsError, read_weights
from ffcore_sit.tables import SiTTeacher

TENSORS = {name: torch.full((3,), float(i)) for i, name in enumerate("abcdef")}
SAVE: dict[str, Callable[[Any, Path], object]] = {".safetensors": save_file, ".bin": torch.save}
STEMS = {".safetensors": "diffusion_pytorch_model", ".bin": "pytorch_model"}


def sharded(
    folder: Path, suffix: str = ".safetensors", tensors: dict[str, Tensor] = TENSORS
) -> Path:
    """Write tensors in two shards; return their index."""
    folder.mkdir(parents=True, exist_ok=True)
    names, places = [*tensors], {}
    stem = STEMS[suffix]
    for number, part in enumerate((names[::2], names[1::2]), 1):
        shard = f"{stem}-{number:05}-of-00002{suffix}"
        SAVE[suffix]({name: tensors[name] for name in part}, folder / shard)
        places |= dict.fromkeys(part, shard)
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 72}, "weight_map": places}))
    return index


def network(folder: Path, name: str = "diffusion_pytorch_model.safetensors", add: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    tensors = {key: each + add for key, each in TENSORS.items()}
    SAVE[Path(name).suffix](tensors, folder / name)
    return folder


def read(path: Path, part: str | None = None) -> tuple[str, dict[str, Tensor]]:
    found = read_weights(str(path), part)
    return found.part, found.tensors


def added(tensors: dict[str, Tensor]) -> int:
    """By how much the tensors are greater than TENSORS."""
    assert tensors.keys() == TENSORS.keys()
    (difference,) = {float((tensors[name] - each).unique()) for name, each in TENSORS.items()}
    return int(difference)


# An index.


@pytest.mark.parametrize("suffix", SAVE)
def test_shards_are_read_through_their_index(suffix: str, tmp_path: Path) -> None:
    index = sharded(tmp_path, suffix)
    for reference in (index, tmp_path):
        assert added(read(reference)[1]) == 0


def test_a_sharded_teacher_is_the_teacher_of_one_file(tmp_path: Path) -> None:
    size = TransformerSize(
        input_size=4, patch_size=2, channels=2, width=16, depth=1, heads=2, classes=3
    )
    tensors = {f"module.{name}": each for name, each in Transformer(size).state_dict().items()}
    index = sharded(tmp_path / "shards", tensors=tensors)
    save_file(tensors, tmp_path / "one.safetensors")
    several, one = (
        SiTTeacher(weights=str(each), sizes=size).build(Context()).state_dict()
        for each in (index, tmp_path / "one.safetensors")
    )
    assert all(torch.equal(several[name], each) for name, each in one.items())


def test_averages_and_raw_weights_may_be_spread_over_shards(tmp_path: Path) -> None:
    raw = {f"net.{name}": each for name, each in TENSORS.items()}
    average = {f"net_ema.{name}": each + 1 for name, each in TENSORS.items()}
    index = sharded(tmp_path, tensors=average | raw)
    part, tensors = read(index)
    assert (part, added(tensors)) == ("net_ema", 1)
    assert added(read(index, "net")[1]) == 0


@pytest.mark.parametrize(
    "shard",
    [
        "../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "",
        "..\\outside.safetensors", "C:outside", "a\0b", 3, None, ["a"],
    ],
)  # fmt: skip
def test_an_index_that_leaves_its_folder_is_refused(shard: Any, tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "outside.safetensors")
    index = sharded(tmp_path / "inside")
    content = json.loads(index.read_text())
    content["weight_map"]["a"] = shard
    index.write_text(json.dumps(content))
    for check in (lambda: read(index), lambda: read(index.parent)):
        with pytest.raises(WeightsError, match=r"refused: it places a in .* in its own folder"):
            check()
    with pytest.raises(MissingFile, match="refused: it places a in"):
        require([File(str(index), "teacher.weights", "the weights")])
    with pytest.raises(ShardError):
        reference_digest(str(index))


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": ["a"]}', "[" * 100_000, "\xff"],
)
def test_what_is_no_index_is_told(content: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(WeightsError, match="not an index of shards with a weight_map"):
        read(path)


def test_a_missing_shard_is_named_before_anything_is_read(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    shard = sorted(read_index(index))[1]
    (tmp_path / shard).unlink()
    for check in (
        lambda: read(index),
        lambda: read(tmp_path),
        lambda: require([File(str(tmp_path), "teacher.weights", "the weights")]),
    ):
        with pytest.raises(MissingFile, match=shard):
            check()


@pytest.mark.parametrize("suffix", SAVE)
def test_a_damaged_shard_is_named(suffix: str, tmp_path: Path) -> None:
    index = sharded(tmp_path, suffix)
    shard = tmp_path / sorted(read_index(index))[1]
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(WeightsError, match=f"{shard.name} cannot be read"):
        read(index)


@pytest.mark.parametrize("suffix", SAVE)
@pytest.mark.parametrize("change", ["less", "more", "other"])
def test_a_shard_of_another_version_is_named(suffix: str, change: str, tmp_path: Path) -> None:
    index = sharded(tmp_path, suffix)
    name, held = sorted(read_index(index).items())[0]
    tensors = {each: torch.ones(1) for each in held}
    if change != "more":
        del tensors["a"]
    if change != "less":
        tensors["x"] = torch.ones(1)
    SAVE[suffix](tensors, tmp_path / name)
    with pytest.raises(WeightsError, match=f"{name} does not hold the tensors that .*index"):
        read(index)


def test_a_torch_shard_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (tmp_path / "mark",))

    index = sharded(tmp_path, ".bin")
    shard = sorted(read_index(index))[0]
    torch.save({"a": Trap()}, tmp_path / shard)
    with pytest.raises(WeightsError, match=f"{shard} is refused"):
        read(index)
    assert not (tmp_path / "mark").exists()


def test_an_index_is_known_by_its_name() -> None:
    assert is_index("a/model.safetensors.index.json")
    assert is_index("diffusion_pytorch_model.safetensors.index.fp16.json")
    assert not any(map(is_index, ("config.json", "index.json", "a.index.json.bak", "x/a.json")))


# Folders.


@pytest.mark.parametrize(
    "name",
    [
        "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "model.safetensors",
        "pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors",
    ],
)  # fmt: skip
def test_a_folder_is_read_by_the_names_of_diffusers(name: str, tmp_path: Path) -> None:
    assert added(read(network(tmp_path, name))[1]) == 0


def test_the_plain_safetensors_are_preferred(tmp_path: Path) -> None:
    """Other variants are rounded or raw; a .bin beside safetensors holds the same."""
    network(tmp_path, "diffusion_pytorch_model.non_ema.safetensors", add=1)
    network(tmp_path, "diffusion_pytorch_model.fp16.safetensors", add=2)
    network(tmp_path, "diffusion_pytorch_model.bin", add=3)
    network(tmp_path)
    assert added(read(tmp_path)[1]) == 0


@pytest.mark.parametrize("folder", ["transformer", "unet"])
def test_the_denoiser_of_a_pipeline_is_read_and_said(folder: str, tmp_path: Path) -> None:
    network(tmp_path / folder)
    network(tmp_path / "vae", add=1)
    network(tmp_path / "text_encoder", "model.safetensors", add=2)
    part, tensors = read(tmp_path)
    assert (part, added(tensors)) == (folder, 0)
    assert added(read(tmp_path / "vae")[1]) == 1


def test_the_average_beside_a_denoiser_is_preferred(tmp_path: Path) -> None:
    """As diffusers' training scripts save them."""
    network(tmp_path / "unet")
    index = sharded(tmp_path / "unet_ema", tensors={n: each + 1 for n, each in TENSORS.items()})
    part, tensors = read(tmp_path)
    assert (part, added(tensors)) == ("unet_ema", 1)
    assert added(read(tmp_path, "unet")[1]) == 0
    assert index in locate_all(str(tmp_path))


def test_several_denoisers_need_a_part(tmp_path: Path) -> None:
    network(tmp_path / "transformer")
    network(tmp_path / "transformer_2", add=1)
    with pytest.raises(WeightsError, match=r"2 sets of raw weights: transformer \(6 tensors\), "):
        read(tmp_path)
    assert added(read(tmp_path, "transformer_2")[1]) == 1


def test_the_file_that_was_read_in_a_folder_is_said(tmp_path: Path) -> None:
    network(tmp_path / "unet", "diffusion_pytorch_model.fp16.safetensors")
    sharded(tmp_path / "unet_ema")
    index = "unet_ema/diffusion_pytorch_model.safetensors.index.json"
    assert read_weights(str(tmp_path)).notes[0] == f"read {index}"
    (note,) = read_weights(str(tmp_path / "unet")).notes
    assert note == "read diffusion_pytorch_model.fp16.safetensors"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "is a folder without weights.*It holds nothing"),
        (["config.json", "last.pt"], "is a folder without weights.*It holds config.json, last.pt"),
        (
            ["model.safetensors", "model.safetensors.index.json"],
            "holds several weights: model.safetensors, model.safetensors.index.json. Name one",
        ),
        (
            ["model.fp16.safetensors", "model.bf16.safetensors"],
            "holds several weights: model.bf16.safetensors, model.fp16.safetensors. Name one",
        ),
        (["model-00001-of-00002.safetensors"], r"00001-of-00002.safetensors, without their index"),
    ],
)
def test_folders_without_a_single_network_are_refused(
    files: list[str], message: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(WeightsError, match=message):
        read(tmp_path)
    with pytest.raises(MissingFile):
        require([File(str(tmp_path), "teacher.weights", "the weights")])


# Digests.


def test_the_digest_of_one_file_is_its_own(tmp_path: Path) -> None:
    path = network(tmp_path) / "diffusion_pytorch_model.safetensors"
    assert reference_digest(str(path)) == file_digest(path)


def test_the_digest_follows_every_file_and_no_place(tmp_path: Path) -> None:
    index = sharded(tmp_path / "a")
    (index.parent / "config.json").write_text("{}")
    shutil.copytree(index.parent, tmp_path / "b")
    for first, second in (
        (index, tmp_path / "b" / index.name),
        (index.parent, tmp_path / "b"),
    ):
        assert reference_digest(str(first)) == reference_digest(str(second))
    (tmp_path / "b" / "readme.md").write_text("not weights")
    digest = reference_digest(str(tmp_path / "b"))
    assert digest == reference_digest(str(tmp_path / "a"))
    for file in locate_all(str(tmp_path / "b")):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        if not file.name.endswith(".json"):
            assert reference_digest(str(tmp_path / "b")) != digest
        file.write_bytes(content)
    assert reference_digest(str(tmp_path / "b")) == digest


def test_the_description_of_a_teacher_has_the_digest_of_its_folder(tmp_path: Path) -> None:
    from ffcore.export.student_file import _digests

    sharded(tmp_path)
    table = SiTTeacher(weights=str(tmp_path), model="S/2")
    assert _digests(table) == {str(tmp_path): reference_digest(str(tmp_path))}


def test_swapped_shards_have_another_digest(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    digest = reference_digest(str(index))
    first, second = (tmp_path / name for name in read_index(index))
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    assert reference_digest(str(index)) != digest


def test_files_of_a_folder_are_listed(tmp_path: Path) -> None:
    network(tmp_path / "transformer")
    network(tmp_path / "vae")
    found = [each.relative_to(tmp_path).as_posix() for each in locate_all(str(tmp_path))]
    assert found == [
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
    ]


# Memory.

MEASURE = """
import sys
from pathlib import Path

import torch
from torch import nn

from ffcore.system.weights import read_weights


def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name)))


def build():
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))


nn.Linear.reset_parameters = lambda self: None  # random numbers would only take time
WIDTH, LAYERS = int(sys.argv[3]), int(sys.argv[4])
nn.Linear(8, 8)(torch.ones(1, 8))  # what torch itself needs
torch.ones(WIDTH, WIDTH).bfloat16().aminmax()
before = kilobytes("VmRSS")
with torch.device(sys.argv[2]):
    network = build()
weights = read_weights(sys.argv[1])
weights.load_into(network)
assert float(network[-1].weight[0, 0]) == LAYERS - 1
print((kilobytes("VmHWM") - before) * 1024, network[0].weight.dtype)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory through /proc")
def test_on_the_meta_device_memory_holds_the_weights_once(tmp_path: Path) -> None:
    """400 MB of bfloat16 in four shards. A network with memory needs three times as much: its own
    float32 and what is mapped."""
    width, layers = 2500, 32
    size = width * width * 2 * layers
    places = {}
    for shard in range(4):
        name = f"model-{shard + 1:05}-of-00004.safetensors"
        numbers = range(shard * 8, shard * 8 + 8)
        tensors = {
            f"{i}.weight": torch.full((width, width), float(i), dtype=torch.bfloat16)
            for i in numbers
        }
        save_file(tensors, tmp_path / name)
        places |= dict.fromkeys(tensors, name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))

    def measured(device: str) -> tuple[float, str]:
        command = [sys.executable, "-c", MEASURE, str(index), device, str(width), str(layers)]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        return int(found[0]) / size, found[1]

    ratio, dtype = measured("meta")
    assert dtype == "torch.bfloat16"
    assert 0.9 < ratio < 1.2, ratio
    ratio, dtype = measured("cpu")
    assert dtype == "torch.float32"
    assert ratio > 2, ratio  # the measure sees copies
