"""Weights files: read without running code from them, loaded strictly, written whole.

ffcore reads two kinds and recognises them by content. Safetensors hold only tensors; ffcore's own
files have metadata that describe the network. Torch files are pickles, which can name any function
for the reader to call. ffcore accepts only tensors, plain values and the `argparse.Namespace` of
published training checkpoints in them. It skips NumPy's values, dates and paths without reading
them. Either kind may be split into shards with an index. Which network of a file is read stands in
`layout` and `parts`.
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ffcore.interfaces import UNKNOWN, Teacher, digest_of
from ffcore.system.distributed import whole
from ffcore.system.files import locate, locate_all, parse_json
from ffcore.system.layout import (
    by_prefix,
    read_part,
    without_counters,
    without_prefix,
)
from ffcore.system.parts import PartError, PartPath, count, kind, label, listing
from ffcore.system.shards import ShardError, is_index, read_index, weights_in

_CONFIG = "ffcore"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes from which floating-point tensors can be read."""
_SAFETENSORS_HEADER = 100_000_000
"""Longest possible header of a safetensors file, in bytes."""

_LOG = logging.getLogger(__name__)


class _Skipped:
    """Stands for a value of a pickle that ffcore does not need; its constructor does nothing."""

    def __init__(self, *arguments: object) -> None:
        del arguments

    def __setstate__(self, state: object) -> None:
        del state


def _skipped(what: str, *names: str) -> list[tuple[type[_Skipped], str]]:
    # Each name has a class of its own: torch looks up the state of an object by its class.
    return [(type(what, (_Skipped,), {}), name) for name in names]


_SKIPPED = [
    *_skipped("numpy.dtype", "numpy.dtype"),
    *_skipped("numpy.ndarray", "numpy.ndarray"),
    *(
        each
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for what, name in (("numpy scalar", "scalar"), ("numpy.ndarray", "_reconstruct"))
        for each in _skipped(what, f"{module}.{name}")
    ),
    *(
        each
        for name in ("datetime", "date", "time", "timedelta", "timezone")
        for each in _skipped(name, f"datetime.{name}")
    ),
    *_skipped(
        "Path",
        *("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath"),
        *("pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
    ),
]
"""What training scripts keep beside tensors: step counts and states of random numbers of NumPy,
dates, and paths. Nothing that a pickle names here is called."""


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
    """Part of a training checkpoint, such as "ema"; "" for a whole file."""
    dropped: tuple[str, ...] = ()
    """Names of the tensors that were left out on purpose."""
    notes: tuple[str, ...] = ()
    """What stands beside the part, and changes to the tensors; for the log line after loading."""
    shadow: tuple[Tensor, ...] = ()
    """Averages without names, in the order of the network's parameters, until `fitted` names them;
    `tensors` is then empty."""
    beside: Mapping[str, Mapping[str, Tensor]] = attrs.field(factory=dict)
    """Tensors of the other parts."""

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

    def fitted(self, network: nn.Module) -> Weights:
        """Return the weights under the names of `network`, as far as they can be found.

        Removes a prefix that every name has, if more names fit without it, and counters that
        averages keep. Names the `shadow` after the raw weights beside it, or else after the
        network's parameters. An average without buffers gets those of the raw weights beside it.

        Raises WeightsError if the shadow's number or shapes do not fit.
        """
        expected, parameters = network.state_dict(), _parameters(network)
        raw = self._raw(expected)
        once = dict(network.named_parameters())  # tied ones, like a list of parameters
        found = self._named(expected, once, raw) if self.shadow else self
        kept = without_counters(found.tensors, {*expected})
        prefix, tensors = without_prefix(kept, {*expected})
        buffers = expected.keys() - {*parameters} - tensors.keys()
        taken = {name: raw[name] for name in buffers & raw.keys() if self._is_average}
        counters = [name for name in found.tensors if name not in kept]
        notes = {
            f"left out {', '.join(counters)}": counters,
            f"removed the prefix {prefix}": prefix,
            f"took {len(taken)} buffers from the raw weights": taken,
        }
        return attrs.evolve(
            found,
            tensors=tensors | taken,
            shadow=(),
            notes=(*found.notes, *(note for note, true in notes.items() if true)),
        )

    @property
    def _is_average(self) -> bool:
        return kind(tuple(self.part.split("."))) == "average"

    def _raw(self, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the only raw weights beside the part, under the network's names; else nothing."""
        found = [
            tensors
            for path, tensors in self.beside.items()
            if kind(tuple(path.split("."))) == "raw"
        ]
        return without_prefix(found[0], {*expected})[1] if len(found) == 1 else {}

    def _named(
        self,
        expected: Mapping[str, Tensor],
        parameters: Mapping[str, object],
        raw: Mapping[str, Tensor],
    ) -> Weights:
        """Name the shadow: by the raw weights of the same file, or else by the network.

        A file that keeps buffers, or what was frozen, among the raw weights has more of them.
        """
        shapes = [each.shape for each in self.shadow]
        orders = {
            "the raw weights": [*raw],
            "the parameters among the raw weights": [name for name in raw if name in parameters],
        }
        if not raw:
            orders = {"the network's parameters, which the file cannot confirm": [*parameters]}
        for what, names in orders.items():
            known = raw or expected
            if [known[name].shape for name in names] == shapes:
                return attrs.evolve(
                    self,
                    tensors=dict(zip(names, self.shadow, strict=True)),
                    notes=(*self.notes, f"named its tensors in the order of {what}"),
                )
        told = ", ".join(f"{count(len(names))} in {what}" for what, names in orders.items())
        raise WeightsError(
            f"{self.label} is a list of {count(len(self.shadow))} without names, which does not "
            f"fit: by number and shapes, it should have {told}"
        )

    @contextmanager
    def parts_named(self, network: nn.Module) -> Iterator[None]:
        """Add to a WeightsError raised in this block what other parts the file has, and which fit.

        ffcore reads none of them unless the user names it.
        """
        try:
            yield
        except WeightsError as error:
            advice = self._advice(network.state_dict())
            raise WeightsError(f"{error}\n{advice}" if advice else str(error)) from None

    def _advice(self, expected: Mapping[str, Tensor]) -> str:
        """Return the other parts of the file, and the first that fits; empty if there is none."""
        held = listing({(name,): len(each) for name, each in self.beside.items()})
        prefixes = {
            f"{self.part}.{first}".removeprefix("."): each
            for first, each in by_prefix(self.tensors).items()
            if first
        }
        parts = {**self.beside, **prefixes}
        fit = next((name for name, each in parts.items() if _fits(each, expected)), None)
        also = f"The file also holds {held}. " if held else ""
        if fit is None:
            none = "None of these fits the network as it is; part names the one to read."
            return also and also + none
        what = "the raw weights" if kind(tuple(fit.split("."))) == "raw" else "it"
        return f'{also}{fit} fits the network: to use {what}, set part = "{fit}".'

    def load_into(self, network: nn.Module) -> None:
        """Load every tensor into `network`, or raise WeightsError and change nothing.

        Every tensor must be used, every parameter and persistent buffer must be found with its
        shape, and every parameter must be finite. Of several names of one tensor, as of tied
        weights, one is enough; several must agree. Logs one line with counts.

        A network with memory keeps its dtype and gets copies. A network on the meta device gets the
        tensors themselves, in the dtype of the file and mapped from disk where it can be: one
        copy of the weights, read once. Until they are moved to another device, the file must
        not be overwritten in place.

        Raises ValueError if buffers that no file holds (`persistent=False`) are on the meta device.
        """
        buffers = dict(network.named_buffers())
        computed = buffers.keys() - network.state_dict().keys()
        if empty := sorted(name for name in computed if buffers[name].is_meta):
            raise ValueError(
                f"the network has buffers on the meta device that no file holds: "
                f"{', '.join(empty)}. Compute them on the CPU first"
            )
        with self.parts_named(network):
            self.fitted(network)._load_into(network)

    def _load_into(self, network: nn.Module) -> None:
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
        self.check_finite(name for name in _parameters(network) if name in self.tensors)
        self._refuse([*_apart(tensors, expected)])
        if any(each.is_meta for each in expected.values()):
            _assign(network, tensors)
        else:
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
        parameters = expected & {*_parameters(network)}
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


def _parameters(network: nn.Module) -> list[str]:
    """Return the names of a network's parameters in its order; tied ones have several."""
    return [name for name, _ in network.named_parameters(remove_duplicate=False)]


def _fits(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the network's names, but for a prefix and counters, and its shapes."""
    _, found = without_prefix(without_counters(tensors, {*expected}), {*expected})
    found = _with_tied(_with_complex(found, expected), expected)
    return found.keys() == expected.keys() and not any(
        _other_shape(name, each, expected[name]) for name, each in found.items()
    )


def _assign(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make the tensors the network's own; parameters that were one object stay one."""
    tied: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        tied.setdefault(id(parameter), []).append(name)
    network.load_state_dict(tensors, assign=True)
    for first, *others in tied.values():
        for other in others:
            owner, _, name = other.rpartition(".")
            setattr(network.get_submodule(owner), name, network.get_parameter(first))


def _is_finite(tensor: Tensor) -> bool:
    """Check only the least and the greatest number: a tenth of the time of `isfinite`."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.dtype not in _FLOATS or tensor.layout != torch.strided or tensor.numel() == 0:
        return True
    return all(bool(bound.isfinite()) for bound in tensor.aminmax())


def read_weights(reference: str, part: str | None = None) -> Weights:
    """Read safetensors or torch files; if possible, tensors stay mapped from disk.

    A file may be an index of shards, and a folder may be in diffusers' layout. From a training
    checkpoint, this reads the average (EMA), or else the raw weights, and never guesses between
    two. It removes wrappers' prefixes on every name, except in ffcore's own files.

    Args:
        reference: for `locate`; also a folder.
        part: of a training checkpoint or pipeline, such as "model" or "state_dict.net_ema", to read
            instead.

    Raises:
        MissingFile: there is no such file, or a shard is missing.
        WeightsError: a file is unreadable, holds no weights, or would run code; no part or several
            are possible.
    """
    path = locate(reference, folder=True)
    try:
        content, config = _content(path, reference)
        if config is not None and part is None:
            assert isinstance(content, dict)
            return Weights(content, config, reference)
        chosen = read_part(content, part)
        said = _file_in(path, chosen.path) if path.is_dir() else ()
    except (PartError, ShardError) as error:
        text = str(error)
        raise WeightsError(text if isinstance(error, ShardError) else f"{path} {text}") from None
    return Weights(
        chosen.tensors,
        config or {},
        reference,
        label(chosen.path),
        notes=(*said, *chosen.notes),
        shadow=chosen.shadow,
        beside=chosen.beside,
    )


def _content(path: Path, reference: str) -> tuple[object, dict[str, Any] | None]:
    """Return the tree of a file or folder, and the description if ffcore wrote it."""
    if path.is_dir():
        found = weights_in(path)
        trees = {name: _content(file, str(file))[0] for name, file in found.items()}
        return trees.get("", trees), None
    if is_index(path):
        return _read_shards(path, locate_all(reference)[1:]), None
    return _read_file(path)


def _file_in(folder: Path, part: PartPath) -> tuple[str, ...]:
    """Return a note on the file that was read in a folder."""
    found = weights_in(folder)
    file = found.get("") or found[part[0]]
    return (f"read {file.relative_to(folder)}",)


def _read_shards(index: Path, shards: Sequence[Path]) -> dict[str, Tensor]:
    """Return the tensors of shards. Raises WeightsError unless each holds those of the index."""
    tensors: dict[str, Tensor] = {}
    for shard, placed in zip(shards, read_index(index).values(), strict=True):
        content, _ = _read_file(shard)
        found = content if isinstance(content, dict) else {}
        wrong = sorted({*placed} ^ {*found}, key=str)
        if wrong or not all(isinstance(each, Tensor) for each in found.values()):
            what = f"differs in {len(wrong)}, such as {wrong[0]}" if wrong else "holds other values"
            raise WeightsError(
                f"{shard} does not hold the tensors that {index.name} places in it: it {what}. "
                "The files are of different versions or damaged: get all of them again"
            )
        tensors |= found
    return tensors


def _read_file(path: Path) -> tuple[object, dict[str, Any] | None]:
    """Return what one file holds, and the description if ffcore wrote it."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _SAFETENSORS_HEADER:
        return _read_safetensors(path)
    if head.startswith((b"PK\3\4", b"\x80")):
        return _read_torch(path, zipped=head.startswith(b"PK")), None
    raise WeightsError(f"{path} {_what_else(head)}")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        config = parse_json(metadata.get(_CONFIG, "{}"))
        if not isinstance(config, dict):
            raise ValueError(f"its metadata {_CONFIG!r} is not a table")
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from None
    return tensors, config if _CONFIG in metadata else None


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
    """Unpickle tensors, plain values and namespaces; skip `_SKIPPED`; refuse everything else."""
    mapped = zipped and _can_be_mapped(path)
    try:
        with (
            warnings.catch_warnings(),
            torch.serialization.safe_globals([argparse.Namespace, *_SKIPPED]),
        ):
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
