"""A transformer as a teacher, with published weights or untrained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ffcore.interfaces import ConditionSource, Context, FrozenTeacher, Labels, Unconditional
from ffcore.nn.published import load_published
from ffcore.nn.size import TransformerSize
from ffcore.nn.transformer import Transformer
from ffcore.nn.velocity import Preconditioning, TransformerVelocity, new_transformer, trainable
from ffcore.system.weights import Weights, WeightsError, read_weights

_LOG = logging.getLogger(__name__)

if TYPE_CHECKING:
    from ffcore.nn.tables import TransformerTeacherTable


def transformer_teacher(network: Transformer, preconditioning: Preconditioning) -> FrozenTeacher:
    """Return the teacher for a network that, with its preconditioning, is a velocity."""
    velocity = TransformerVelocity(network, preconditioning)
    return FrozenTeacher(
        velocity,
        network.size.sample_shape,
        label_conditions(network.size),
        lambda takes_guidance: trainable(velocity, takes_guidance),
    )


def label_conditions(size: TransformerSize) -> ConditionSource:
    """Return the classes of a network; the null label is the one after the last."""
    if size.classes is None:
        return Unconditional()
    return Labels(size.classes, size.classes if size.null_label else None)


def stated_network(
    table: TransformerTeacherTable,
    context: Context,
    *,
    family: str,
    drop: Sequence[str] = (),
    sigma: bool = True,
) -> Transformer:
    """Return the network that a teacher's table describes, with its weights if it names any.

    Args:
        table: the recipe's table.
        context: context of the table's build.
        family: key of the sizes in ffcore's own files.
        drop: patterns of names in published files that only training uses.
        sigma: whether the family's published files may predict σ.

    Raises WeightsError if neither the table nor the file has sizes, if both have different ones, or
    if the weights do not fit.
    """
    stated = table.stated_size()
    if stated is not None and (context.meta or table.weights is None):
        if not context.meta and context.teacher is None:  # otherwise a student gets the weights
            _LOG.warning("the %s teacher names no weights: it is untrained", family)
        return new_transformer(stated, context)
    assert table.weights is not None
    weights = read_weights(table.weights, table.part)
    network = new_transformer(_size(weights, family, stated), context)
    if not context.meta:
        load_published(weights, network, drop=drop, sigma=sigma)
    return network


def _size(weights: Weights, family: str, stated: TransformerSize | None) -> TransformerSize:
    """Return the sizes in the file, or else those stated."""
    tree: Mapping[str, Any] | None = weights.config.get(family)
    if tree is None:
        if stated is None:
            raise WeightsError(
                f'{weights.source} does not state its sizes: add model = "XL/2" (or another), '
                "or [teacher.sizes]"
            )
        return stated
    try:
        stored = TransformerSize(**tree)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{weights.source} does not describe a {family}: {error}") from None
    if stated is not None and stated != stored:
        found, said = attrs.asdict(stored), attrs.asdict(stated)
        text = f"holds a {family} of {found}, but the recipe states {said}"
        raise WeightsError(f"{weights.source} {text}")
    return stored
