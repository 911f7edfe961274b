"""Weights in several files: an index of shards, or a folder in the layout of diffusers. Torch-free.

An index is a JSON file whose `weight_map` gives the file of each tensor. A folder holds one network
(`config.json` beside `diffusion_pytorch_model.safetensors`, or beside an index and its shards), or
is a pipeline with such folders in it, as `transformer` or `unet`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from ffcore.system.parts import kind

_INDEX = re.compile(r".*\.index(?:\.[\w-]+)?\.json")
_SHARD = re.compile(r".*-\d+-of-\d+.*")
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_SUFFIXES = (".safetensors", ".bin")
"""The better first: both hold the same weights, and safetensors are no pickles."""
USUAL = tuple(
    f"{stem}{suffix}{index}"
    for suffix in _SUFFIXES
    for stem in _STEMS
    for index in ("", ".index.json")
)
"""Names of the file or index of a network in its folder, without variants."""
_LARGEST_INDEX = 100_000_000
_LISTED = 8


class ShardError(ValueError):
    """An index or a folder of weights cannot be used. The message is for the user."""


def is_index(path: str | Path) -> bool:
    """Whether a file is an index of shards, by its name."""
    return _INDEX.fullmatch(Path(path).name) is not None


def read_index(index: Path) -> dict[str, list[str]]:
    """Return the names of the tensors in each shard, by the shard's file name.

    Raises ShardError if the file is no index, or names a file that is not in its own folder.
    """
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise ValueError(f"it has {index.stat().st_size} bytes")
        places = json.loads(index.read_bytes())["weight_map"]
        pairs = list(places.items())
        if not pairs:
            raise ValueError("its weight_map is empty")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ShardError(
            f"{index} is not an index of shards with a weight_map: {error!r}"
        ) from None
    shards: dict[str, list[str]] = {}
    for tensor, shard in pairs:
        if not isinstance(shard, str) or not _is_plain(shard):
            raise ShardError(
                f"{index} is refused: it places {tensor} in {shard!r}, which is not the name of a "
                "file in its own folder"
            )
        shards.setdefault(shard, []).append(tensor)
    return shards


def weights_in(folder: Path) -> dict[str, Path]:
    """Return the weights file or index of each network in a folder.

    Its key is "" for the folder's own network, and else the name of a folder in it: of those whose
    names are known for a denoiser or for an average, such as `transformer` and `unet_ema`.

    Raises ShardError if there is none, or if several files can be meant.
    """
    if (own := _network_in(folder)) is not None:
        return {"": own}
    inner = sorted(each for each in folder.iterdir() if each.is_dir())
    found = {
        each.name: file
        for each in inner
        if kind((each.name,)) != "other" and (file := _network_in(each)) is not None
    }
    if not found:
        held = ", ".join(sorted(each.name for each in folder.iterdir())[:_LISTED])
        wanted = ", ".join(f"{_STEMS[0]}{suffix}" for suffix in _SUFFIXES)
        raise ShardError(
            f"{folder} is a folder without weights. Possible: a folder in diffusers' layout, with "
            f"{wanted} or its index, or the name of a file. It holds {held or 'nothing'}"
        )
    return found


def _network_in(folder: Path) -> Path | None:
    name = network_file(folder, [each.name for each in folder.iterdir() if each.is_file()])
    return None if name is None else folder / name


def network_file(folder: str | Path, files: Iterable[str]) -> str | None:
    """Return the weights file or the index of the network in a folder, if there is one.

    Args:
        folder: for messages.
        files: names of the files in it.

    Raises ShardError if several files can be meant.
    """
    names = sorted(files)
    single = {
        stem + variant + suffix: (stem, variant, suffix)
        for name in names
        if (form := re.fullmatch(r"(\w+)(|\.[\w-]+)(\.safetensors|\.bin)", name))
        and not _SHARD.fullmatch(name)
        for stem, variant, suffix in [form.groups()]
    }
    index = {
        name: (stem, variant or "", suffix)
        for name in names
        if (form := re.fullmatch(r"(\w+)(\.safetensors|\.bin)\.index(\.[\w-]+)?\.json", name))
        for stem, suffix, variant in [form.groups()]
    }
    all_found = {name: form for name, form in (single | index).items() if form[0] in _STEMS}
    plain = {name: form for name, form in all_found.items() if not form[1]} or all_found
    for suffix in _SUFFIXES:
        found = [name for name, form in plain.items() if form[2] == suffix]
        if len(found) == 1:
            return found[0]
        if found:
            raise ShardError(
                f"{folder} holds several weights: {', '.join(found)}. Name one of these files "
                "instead of the folder"
            )
    shards = [name for name in names if _SHARD.fullmatch(name) and name.startswith(_STEMS)]
    if shards:
        raise ShardError(
            f"{folder} holds shards, such as {shards[0]}, without their index (*.index.json)"
        )
    return None


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file in the same folder, on any system."""
    return name not in ("", ".", "..") and not re.search(r"[/\\:\0]", name)
