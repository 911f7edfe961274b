"""Weights files: safetensors whose metadata says how to build the network they fit.

A file is named by path, or by resource: `package:file` is a file that a plugin ships.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

_CONFIG = "ffcore"


class WeightsError(Exception):
    """A weights file that is missing, unreadable, or does not fit. One message, for a person."""


@attrs.frozen(eq=False)
class Weights:
    """The content of a weights file."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    source: str
    """The file, as the user named it."""
    sha256: str

    def load_into(self, network: nn.Module) -> None:
        """Load every tensor into `network`, or raise WeightsError and change nothing.

        Every key must be used and every parameter and persistent buffer must be found, each with
        its shape.
        """
        expected = network.state_dict()
        problems = [f"missing: {name}" for name in sorted(expected.keys() - self.tensors.keys())]
        problems += [f"left over: {name}" for name in sorted(self.tensors.keys() - expected.keys())]
        for name in sorted(expected.keys() & self.tensors.keys()):
            found, wanted = tuple(self.tensors[name].shape), tuple(expected[name].shape)
            if found != wanted:
                problems.append(f"{name}: the file has {found}, the network {wanted}")
        if problems:
            listed = "\n  ".join(problems[:20])
            more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
            raise WeightsError(f"{self.source} does not fit the network:\n  {listed}{more}")
        network.load_state_dict(self.tensors)


def locate(reference: str) -> Path:
    """Return the file that `reference` names; a relative path starts where the process runs.

    Raises WeightsError where there is none.
    """
    package, colon, name = reference.partition(":")
    if colon and package.isidentifier():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise WeightsError(f"{reference}: there is no package {package!r} installed")
        path = Path(next(iter(spec.submodule_search_locations))) / name
    else:
        path = Path(reference).expanduser()
    if not path.is_file():
        raise WeightsError(f"no such weights file: {path}")
    return path


def read_weights(reference: str) -> Weights:
    """Read a safetensors file. Raises WeightsError where it is missing or unreadable."""
    path = locate(reference)
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        config = json.loads(metadata.get(_CONFIG, "{}"))
        if not isinstance(config, dict):
            raise ValueError(f"its metadata {_CONFIG!r} is no table")
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from None
    return Weights(tensors, config, str(reference), sha256)


def write_weights(
    path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> None:
    """Write a safetensors file whole or not at all, with `config` as JSON in its metadata."""
    metadata = {_CONFIG: json.dumps(dict(config or {}), sort_keys=True)}
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial, metadata)
        partial.chmod(0o644)  # safetensors makes files for their owner alone
        partial.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from None
    finally:
        partial.unlink(missing_ok=True)
