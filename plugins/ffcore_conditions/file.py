"""A list of conditions with names in a safetensors file.

    poses = NamedConditions(["wave", "sit"], Condition(size=2, pooled=torch.rand(2, 6)))
    write_named(Path("poses.safetensors"), poses)

A tensor has the name of its field, such as "pooled", and a row for each condition; "null pooled" is
the null condition's. The names are in the metadata.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ffcore.interfaces import Condition, NamedConditions
from ffcore.system.weights import WeightsError, read_weights, write_weights

FIELDS = ("label", "embedding", "mask", "pooled", "image")
_NULL = "null "
_NAMES = "names"


def write_named(path: Path, conditions: NamedConditions) -> None:
    """Write a list of conditions, whole or not at all."""
    tensors = conditions.conditions.tensors()
    if conditions.null_condition is not None:
        nulls = conditions.null_condition.tensors()
        tensors = tensors | {f"{_NULL}{name}": each for name, each in nulls.items()}
    owned = {name: each.clone() for name, each in tensors.items()}  # a null may be a row's view
    write_weights(path, owned, {_NAMES: list(conditions.names)})


def read_named(source: str) -> NamedConditions:
    """Read a list of conditions. Raises WeightsError for any other file."""
    weights = read_weights(source)
    tensors, names = weights.tensors, weights.config.get(_NAMES)
    possible = {*FIELDS, *(f"{_NULL}{name}" for name in FIELDS)}
    if not isinstance(names, list) or not tensors or not tensors.keys() <= possible:
        raise WeightsError(
            f"{source} is no list of conditions with names, as "
            "ffcore_conditions.file.write_named writes it"
        )
    weights.check_finite(tensors)
    try:
        conditions = _condition(len(names), tensors, "")
        if conditions is None:
            raise ValueError("it holds a null condition alone")
        return NamedConditions(names, conditions, _condition(1, tensors, _NULL))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{source} is a damaged list of conditions: {error}") from None


def _condition(size: int, tensors: dict[str, Tensor], prefix: str) -> Condition | None:
    """Return the condition whose fields have this prefix; None if there is none."""
    fields = {name: tensors[f"{prefix}{name}"] for name in FIELDS if f"{prefix}{name}" in tensors}
    return Condition(size=size, **fields) if fields else None
