"""What a network reads of conditions, and the refusal of what it would ignore."""

from __future__ import annotations

from collections.abc import Mapping, Set

from ffcore.draws import Draws
from ffcore.interfaces import ConditionSource, Labels


def fields_of(source: ConditionSource) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of each field of a source's conditions, without the batch."""
    drawn = source.draw(Draws(0, 0, 0, 1))
    return {name: tuple(each.shape[1:]) for name, each in drawn.tensors().items()}


def read_fields(
    who: str, source: ConditionSource, reads: Set[str]
) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of a source's fields for a network that reads only some kinds of them.

    Args:
        who: the network, for the error.
        source: of its conditions.
        reads: the fields that it can read; of labels only those of `Labels`, whose number is known.

    Raises ValueError for a field that the network would ignore.
    """
    fields = fields_of(source)
    readable = reads if isinstance(source, Labels) else reads - {"label"}
    if ignored := sorted(fields.keys() - readable):
        kind = type(source).__name__
        raise ValueError(
            f"{who} cannot read the {' and the '.join(ignored)} of the teacher's conditions "
            f"({kind}); of conditions it reads {' and '.join(sorted(reads)) or 'nothing'}"
        )
    return fields
