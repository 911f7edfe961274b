"""Weights files: read without running code from them, loaded strictly, written whole.

ffcore reads two kinds and recognises them by content. Safetensors hold only tensors; ffcore's own
files have metadata that describe the network. Torch files are pickles, which can name any function
for the reader to call. ffcore accepts only tensors, plain values and the `argparse.Namespace` of
published training checkpoints in them.
"""

from __future__ import annotations

import argparse
import errno
import fnmatch
import json
import logging
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ffcore.interfaces import UNKNOWN, Teacher, digest_of
from ffcore.system.distributed import whole
from ffcore.system.files import locate

_CONFIG = "ffcore"
_PARTS = ("ema", "model", "state_dict")
"""Keys of a network's weights in a training checkpoint, in order of preference."""
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of DistributedDataParallel and torch.compile on every name."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes from which floating-point tensors can be read."""
_SAFETENSORS_HEADER = 100_000_000
"""Longest possible header of a safetensors file, in bytes."""

_LOG = logging.getLogger(__name__)


class WeightsError(Exception):
    """A weights file is unreadable, refused, or does not fit. The message is for the user."""


@attrs.frozen(eq=False)
class Weights:
    """The content of a weights file."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    source: str
    """The file, as the user named it."""
    part: str = ""
    """Part of a training checkpoint: "ema", "model" or "state_dict"; "" for a whole file."""
    dropped: tuple[str, ...] = ()
    """Names of the tensors that were left out on purpose."""
    notes: tuple[str, ...] = ()
    """Changes to the tensors, for the log line after loading."""

    @property
    def label(self) -> str:
        """The file and its part, for messages."""
        return f"{self.source} ({self.part})" if self.part else self.source

    def without(self, *patterns: str) -> Weights:
        """Return the weights without tensors whose names match a pattern, such as "heads.*"."""
        hits = {
            each: [name for name in self.tensors if fnmatch.fnmatchcase(name, each)]
            for each in patterns
        }
        names = {name for hit in hits.values() for name in hit}
        if not names:
            return self
        said = ", ".join(each for each, hit in hits.items() if hit)
        return attrs.evolve(
            self,
            tensors={name: each for name, each in self.tensors.items() if name not in names},
            dropped=(*self.dropped, *(name for name in self.tensors if name in names)),
            notes=(*self.notes, f"dropped {len(names)}: {said}"),
        )

    def load_into(self, network: nn.Module) -> None:
        """Load every tensor into `network`, or raise WeightsError and change nothing.

        Every tensor must be used, every parameter and persistent buffer must be found with its
        shape, and every parameter must be finite. Of several names of one tensor, as of tied
        weights, one is enough; several must agree. Logs one line with counts.

        Raises ValueError for a network on the meta device, which has no memory.
        """
        if any(each.is_meta for each in (*network.parameters(), *network.buffers())):
            raise ValueError("the network is on the meta device and cannot load weights")
        expected = network.state_dict()
        tensors = _with_tied(_with_complex(self.tensors, expected), expected)
        problems = [f"missing: {name}" for name in sorted(expected.keys() - tensors.keys())]
        extra = sorted(tensors.keys() - expected.keys())
        problems += [f"unexpected: {name}" for name in extra]
        for name in sorted(expected.keys() & tensors.keys()):
            found, wanted = tensors[name], expected[name]
            problems += _other_kind(name, found, wanted) or _other_shape(name, found, wanted)
        self._refuse(problems)
        # A buffer may hold infinities: a mask does.
        parameters = network.named_parameters(remove_duplicate=False)
        self.check_finite(name for name, _ in parameters if name in self.tensors)
        self._refuse([*_apart(tensors, expected)])
        network.load_state_dict(tensors)
        _LOG.info("%s", self._coverage(network))

    def check_kinds(self, expected: Mapping[str, Tensor]) -> None:
        """Raise WeightsError for tensors whose dtype cannot be read into those of the same name.

        A floating-point tensor can be read from any dense one of 16 to 64 bits.
        """
        problems: list[str] = []
        for name in sorted(expected.keys() & self.tensors.keys()):
            problems += _other_kind(name, self.tensors[name], expected[name])
        self._refuse(problems)

    def check_finite(self, names: Iterable[str]) -> None:
        """Raise WeightsError if floating-point tensors of these names hold NaN or infinity."""
        wrong = [name for name in names if not _is_finite(self.tensors[name])]
        if wrong:
            count = "1 tensor holds" if len(wrong) == 1 else f"{len(wrong)} tensors hold"
            raise WeightsError(
                f"{self.label}: {count} NaN or infinity, the first is {wrong[0]}. The training "
                "that wrote them diverged, or the file is damaged: use another checkpoint."
            )

    def _refuse(self, problems: Sequence[str]) -> None:
        """Raise WeightsError with the first problems, if there are any."""
        if problems:
            listed = "\n  ".join(problems[:20])
            more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
            raise WeightsError(f"{self.label} does not fit the network:\n  {listed}{more}")

    def _coverage(self, network: nn.Module) -> str:
        expected = network.state_dict().keys()
        parameters = expected & {
            name for name, _ in network.named_parameters(remove_duplicate=False)
        }
        kinds = {"parameters": parameters, "buffers": expected - parameters}
        into = " and ".join(
            f"{len(names & self.tensors.keys())} of {len(names)} {kind}"
            for kind, names in kinds.items()
            if names
        )
        line = f"{self.label}: all {len(self.tensors)} tensors loaded into {into}"
        return "; ".join([line, *self.notes])


def _other_kind(name: str, found: Tensor, wanted: Tensor) -> list[str]:
    possible = ""
    if wanted.is_floating_point():
        fits = found.dtype in _FLOATS
        possible = "; possible: dense float16, bfloat16, float32 or float64"
    else:
        fits = not found.is_floating_point() and found.is_complex() == wanted.is_complex()
    if fits and found.layout == torch.strided:
        return []
    layout = "" if found.layout == torch.strided else f" ({found.layout})"
    return [f"{name}: the file has {found.dtype}{layout}, the network {wanted.dtype}{possible}"]


def _other_shape(name: str, found: Tensor, wanted: Tensor) -> list[str]:
    if found.shape == wanted.shape:
        return []
    return [f"{name}: the file has {tuple(found.shape)}, the network {tuple(wanted.shape)}"]


def _same_memory(state: Mapping[str, Tensor]) -> list[list[str]]:
    """Return the names of each tensor that a network's state has under several, as tied weights."""
    names: dict[Any, list[str]] = {}
    for name, each in state.items():
        place = (each.untyped_storage()._cdata, each.storage_offset(), each.shape, each.stride())
        names.setdefault((place, each.dtype), []).append(name)
    return [found for found in names.values() if len(found) > 1]


def _with_tied(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the other names of tensors that the network has under several."""
    found = dict(tensors)
    for names in _same_memory(expected):
        known = [name for name in names if name in tensors]
        found |= {name: tensors[known[0]] for name in names if known and name not in tensors}
    return found


def _apart(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterable[str]:
    """Yield a problem for each tensor of the network that the file holds in two versions."""
    for first, *others in _same_memory(expected):
        for other in others:
            if not torch.equal(tensors[first], tensors[other]):
                yield f"{first} and {other} differ, but are one tensor in the network"


def _with_complex(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Join the pairs of real numbers as which `write_weights` writes complex ones."""

    def joined(name: str, each: Tensor) -> Tensor:
        wanted = expected.get(name)
        if wanted is None or not wanted.is_complex() or each.is_complex():
            return each
        pairs = each.shape == (*wanted.shape, 2) and each.is_floating_point()
        return torch.complex(each[..., 0], each[..., 1]) if pairs else each

    return {name: joined(name, each) for name, each in tensors.items()}


def _is_finite(tensor: Tensor) -> bool:
    """Check only the least and the greatest number: a tenth of the time of `isfinite`."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.dtype not in _FLOATS or tensor.layout != torch.strided or tensor.numel() == 0:
        return True
    return all(bool(bound.isfinite()) for bound in tensor.aminmax())


def read_weights(reference: str) -> Weights:
    """Read a safetensors or torch file; if possible, tensors stay mapped from disk.

    From a training checkpoint, this reads `ema`, or else `model` or `state_dict`. It removes
    wrappers' prefixes on every name, except in ffcore's own files.

    Raises:
        MissingFile: there is no such file.
        WeightsError: the file is unreadable, holds no weights, or would run code.
    """
    path = locate(reference)
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _SAFETENSORS_HEADER:
        return _read_safetensors(path, reference)
    if head.startswith((b"PK\3\4", b"\x80")):
        tensors, part = _weights_of(path, _read_torch(path, zipped=head.startswith(b"PK")))
        return Weights(_unwrap(tensors), {}, reference, part)
    raise WeightsError(f"{path} {_what_else(head)}")


def _read_safetensors(path: Path, reference: str) -> Weights:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        config = json.loads(metadata.get(_CONFIG, "{}"))
        if not isinstance(config, dict):
            raise ValueError(f"its metadata {_CONFIG!r} is not a table")
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from None
    return Weights(tensors if _CONFIG in metadata else _unwrap(tensors), config, reference)


def _what_else(head: bytes) -> str:
    """Describe a file that starts with `head` and holds no weights."""
    start = head.lstrip().lower()
    if not head:
        return "is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer: run `git lfs pull` to get the file itself"
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not the file: download the file again"
    return f"cannot be read as safetensors or as a torch file: it starts with {head[:16]!r}"


def _read_torch(path: Path, *, zipped: bool) -> object:
    """Unpickle tensors, plain values and namespaces; refuse everything else."""
    mapped = zipped and _can_be_mapped(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # it is an error below
            if path.suffix == ".safetensors":  # torch.load trusts the name, which is wrong here
                with path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, str(error))) from None
    except Exception as error:
        # A damaged pickle can end in any error.
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise WeightsError(f"{path} cannot be read: it is damaged or incomplete: {why}") from error


def _can_be_mapped(path: Path) -> bool:
    """Whether a zip archive's tensors are uncompressed; raise WeightsError if it is not torch's."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise WeightsError(f"{path} cannot be read: it is damaged or incomplete: {error}") from None
    names = {entry.filename.rpartition("/")[2] for entry in entries}
    if "constants.pkl" in names:
        raise WeightsError(
            f"{path} is a TorchScript archive, which holds code. {_convert('its state_dict()')}"
        )
    if "data.pkl" not in names:
        raise WeightsError(f"{path} is a zip archive but not a torch file: it has no data.pkl")
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def _refusal(path: Path, error: str) -> str:
    """Explain why torch's unpickler stopped; its own message recommends unsafe loading."""
    if asked := re.search(r"GLOBAL (\S+) (?:was not|whose)", error):
        return (
            f"{path} is refused: its pickle names {asked[1]}, which is neither a tensor nor a "
            "plain value. Through such a name, a pickle can run any code. "
            + _convert("the tensors")
        )
    detail = re.search(r"WeightsUnpickler error:\s*(\S.*)", error)
    why = f" ({detail[1].strip()})" if detail else ""
    return f"{path} is refused: it is not a pickle of torch tensors{why}. " + _convert(
        "the tensors"
    )


def _convert(what: str) -> str:
    return (
        f"If you trust its author, load it in the environment that made it, save {what} with "
        "safetensors.torch.save_file, and name that file instead."
    )


def _weights_of(path: Path, content: object) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a torch file, and the part that holds them."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    part = ""
    if not content or not all(isinstance(each, Tensor) for each in content.values()):
        part = next((name for name in _PARTS if content.get(name) is not None), "")
        if not part:
            raise WeightsError(
                f"{path} holds no weights: neither it nor any of {', '.join(map(repr, _PARTS))} in "
                f"it is a dict of tensors. It holds {_inventory(content)}."
            )
        content = content[part]
    where = f"{path}: {part!r}" if part else str(path)
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{where} is {_inventory(content)}, not a dict of tensors")
    tensors = {}
    for name, each in content.items():
        if not (isinstance(name, str) and isinstance(each, Tensor)):
            raise WeightsError(
                f"{where} holds {name!r}, a {type(each).__name__}, among its tensors"
            )
        if each.is_meta:
            raise WeightsError(f"{where} holds only the shape of {name} (a meta tensor)")
        tensors[name] = each.detach()
    return tensors, part


def _inventory(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    entries = [f"{name} ({type(each).__name__})" for name, each in list(content.items())[:8]]
    more = f" and {len(content) - 8} more" if len(content) > 8 else ""
    return ", ".join(entries) + more if entries else "an empty dict"


def _unwrap(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove wrappers' prefixes, also nested ones, if every name has them."""
    for prefix in WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _unwrap({name.removeprefix(prefix): each for name, each in tensors.items()})
    return tensors


def write_weights(
    path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> None:
    """Write a safetensors file whole or not at all, with `config` as JSON in its metadata.

    Each name gets its own copy of memory that several tensors share. Complex numbers become pairs
    of real ones: a last dimension of 2.
    """
    metadata = {_CONFIG: json.dumps(dict(config or {}), sort_keys=True)}
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file(_storable(tensors), partial, metadata)
        partial.chmod(0o644)  # safetensors makes files that only their owner can read
        partial.replace(path)
    except SafetensorError as error:
        number = int(found[1]) if (found := re.search(r"os error (\d+)", str(error))) else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from None
    finally:
        partial.unlink(missing_ok=True)


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, each in tensors.items():
        plain = each.detach().cpu()
        if plain.is_complex():
            plain = torch.view_as_real(plain.resolve_conj())
        plain = plain.contiguous()
        if plain.untyped_storage()._cdata in memory:
            plain = plain.clone()
        memory.add(plain.untyped_storage()._cdata)
        found[name] = plain
    return found


def fingerprint(network: nn.Module) -> str:
    """Return a digest of a network's class, parameters and buffers.

    It is UNKNOWN for a teacher without either, such as a plain function.
    """
    # A sharded network's class has a prefix in its name, and its tensors are sharded.
    name = type(network).__name__.removeprefix("FSDP")
    state = network.state_dict()
    if not state and isinstance(network, Teacher):
        return UNKNOWN
    return digest_of(name, ((name, whole(each.detach())) for name, each in sorted(state.items())))


def identity_of(teacher: Teacher) -> dict[str, str]:
    """Return what identifies an unguided teacher: its own fingerprint, and its conditions'."""
    return {"teacher": fingerprint(teacher), "conditions": teacher.conditions.fingerprint()}


def unidentified(identity: Mapping[str, Any]) -> str:
    """Return what of a teacher's identity is UNKNOWN, in words; empty if nothing is."""
    words = {
        "teacher": "this teacher has no parameters to identify it",
        "conditions": "this teacher's conditions have no fingerprint",
    }
    return " and ".join(text for name, text in words.items() if identity.get(name) == UNKNOWN)
