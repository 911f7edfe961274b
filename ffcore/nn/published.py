"""Published checkpoints of SiT, REPA and DiT in our transformer.

Names of parameters are the same. Three things differ:

- They store the fixed position embedding; ours is computed.
- They may predict a variance σ in addition to the velocity or noise (`learn_sigma`), in C more
  channels of the last layer. ODE samplers do not use it.
- They may hold parts for training only, such as REPA's projectors.

Letters in comments: D width, P patch, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from ffcore.nn.embedding import grid_sinusoids
from ffcore.nn.size import MODELS, TransformerSize
from ffcore.nn.transformer import Transformer
from ffcore.system.layout import WRAPPERS
from ffcore.system.weights import Weights, WeightsError

_PATCHES = "x_embedder.proj.weight"
_LABELS = "y_embedder.embedding_table.weight"
_HIDDEN = "blocks.0.mlp.fc1.weight"
_QUERY_NORM = "blocks.0.attn.q_norm.weight"
_LAST = "final_layer.linear"
_BLOCKS = "blocks"
_POSITION = "pos_embed"
_PROJECTORS = "projectors."
_RANKS = {_PATCHES: 4, _HIDDEN: 2, f"{_LAST}.weight": 2}
"""The tensors in every file of the family, and their numbers of dimensions."""

_POSITION_TOLERANCE = 1e-3
"""Published EMAs include the fixed embedding: rounding moves it by up to 1.6e-4 in float32 at a
decay of 0.9999, and by 6e-4 at worst."""
_LATENT_CHANNELS, _PIXELS = 4, 8
"""Channels of the family's published latents, and image pixels per latent pixel along a side."""


def load_published(
    weights: Weights, transformer: Transformer, *, drop: Sequence[str] = (), sigma: bool = True
) -> None:
    """Load a published checkpoint into `transformer`, strictly.

    Args:
        weights: weights with the official names.
        transformer: a network of the same sizes; its output has the C channels of its input.
        drop: patterns of names that only training uses, such as "projectors.*".
        sigma: whether files of the family may predict σ.

    Raises WeightsError, and changes nothing, if the file holds another family, other sizes (the
    error reports all with their likely causes) or a trained position embedding, or if tensors are
    missing, unexpected or not finite.
    """
    with weights.parts_named(transformer):
        _load_published(weights.fitted(transformer).without(*drop), transformer, sigma)


def _load_published(weights: Weights, transformer: Transformer, sigma: bool) -> None:
    weights = attrs.evolve(weights, beside={})  # the caller names them
    _check_prefixes(weights)
    expected = _with_position(transformer)
    found = _Shapes.of(weights.label, weights.tensors)
    wanted = _Shapes.of("the network", expected)
    weights.check_kinds(expected)
    if differences := list(_differences(found, wanted, transformer.size)):
        listed = "\n".join(f"  {cause}\n    {evidence}" for cause, evidence in differences)
        raise WeightsError(
            f"{weights.label} holds another network than the recipe describes:\n{listed}"
        )
    if any(name.startswith(_PROJECTORS) for name in weights.tensors):
        raise WeightsError(
            f"{weights.label} holds {_PROJECTORS}*, heads for REPA's training: set "
            'type = "repa" for teacher and student, which ignores them. REPA\'s time and sign '
            "differ from SiT's and DiT's."
        )
    if found.outputs != wanted.outputs:
        if not sigma:
            raise WeightsError(
                f"{weights.label} predicts σ, as SiT and DiT do but REPA does not: set "
                'type = "sit" or "dit", whichever trained it, for teacher and student. Time and '
                "sign of their outputs differ."
            )
        weights = _without_sigma(weights, found)
    if _POSITION in weights.tensors:
        weights = _without_position(weights, found)
    weights.load_into(transformer)


@attrs.frozen(kw_only=True)
class _Shapes:
    """Sizes that the shapes in a file of the family imply."""

    shapes: Mapping[str, tuple[int, ...]]
    patch: int
    channels: int
    outputs: int
    """Channels of the last layer: C, or 2C with σ."""
    width: int
    depth: int
    hidden: int
    """Width of a block's hidden layer."""
    labels: int | None
    """Classes and the null label; None: unconditional."""
    side: int | None
    """Side of the square sample; None: the file has no position embedding."""
    head_width: int | None
    """Width of an attention head; None: queries and keys are not normalised."""

    @staticmethod
    def of(label: str, tensors: Mapping[str, Tensor]) -> _Shapes:
        shapes = {name: tuple(each.shape) for name, each in tensors.items()}
        _check_family(label, shapes)
        width, channels, patch, _ = shapes[_PATCHES]
        outputs, remainder = divmod(shapes[f"{_LAST}.weight"][0], patch**2)
        grid = shapes.get(_POSITION)
        side = None if grid is None else math.isqrt(grid[1])
        if remainder or (side is not None and grid != (1, side**2, width)):
            last = shapes[f"{_LAST}.weight"]
            raise WeightsError(
                f"{label} is not a checkpoint of SiT, REPA or DiT: {_LAST}.weight is {last} and "
                f"{_POSITION} is {grid or 'absent'}, which do not fit patches of "
                f"{patch} × {patch} on a square, in tokens of width {width}"
            )
        blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
        return _Shapes(
            shapes=shapes,
            patch=patch,
            channels=channels,
            outputs=outputs,
            width=width,
            depth=len(blocks),
            hidden=shapes[_HIDDEN][0],
            labels=shapes[_LABELS][0] if _LABELS in shapes else None,
            side=None if side is None else side * patch,
            head_width=shapes[_QUERY_NORM][0] if _QUERY_NORM in shapes else None,
        )

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised."""
        return self.head_width is not None

    @property
    def mlp_ratio(self) -> float:
        """The ratio that gives `hidden` exactly; the plain quotient may be rounded down."""
        ratio = self.hidden / self.width
        exact = int(self.width * ratio) == self.hidden
        return ratio if exact else math.nextafter(ratio, math.inf)

    @property
    def model(self) -> str:
        """Name of the published size, with its width and depth."""
        said = f"width {self.width}, depth {self.depth}"
        for name in MODELS:
            size = TransformerSize.published(name, 256)  # type: ignore[arg-type]
            if (size.width, size.depth) == (self.width, self.depth):
                return f"{name.partition('/')[0]} ({said})"
        return f"one of {said}"

    @property
    def sample(self) -> str:
        """Its images, if it has the usual latents, or its samples."""
        assert self.side is not None
        if self.channels == _LATENT_CHANNELS:
            return f"{self.side * _PIXELS} × {self.side * _PIXELS} images"
        return f"{self.side} × {self.side} samples"


def _check_prefixes(weights: Weights) -> None:
    """Raise WeightsError if only some names have a wrapper's prefix."""
    for prefix in WRAPPERS:
        some = [name for name in weights.tensors if name.startswith(prefix)]
        if some:
            raise WeightsError(
                f"{weights.label}: {len(some)} of {len(weights.tensors)} names start with "
                f"{prefix!r}, as in {some[0]}, but the others do not. A wrapper adds it to every "
                "name, so the file may mix two networks: remove the prefix and save the file "
                "again."
            )


def _check_family(label: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    ranks = {name: len(shape) for name, shape in shapes.items()}
    expected = _RANKS | {
        name: rank for name, rank in {_POSITION: 3, _LABELS: 2}.items() if name in shapes
    }
    wrong = [name for name, rank in expected.items() if ranks.get(name) != rank]
    if not wrong and 0 not in shapes[_PATCHES]:
        return
    hint = ""
    if any(name.startswith("transformer_blocks.") for name in shapes):
        hint = ". Its names are those of the diffusers library: use the official checkpoint"
    elif shapes:
        hint = f". Its first tensors are {', '.join(list(shapes)[:3])}"
    raise WeightsError(
        f"{label} is not a checkpoint of SiT, REPA or DiT: {', '.join(wrong) or _PATCHES} is "
        f"missing or of another kind{hint}"
    )


def _differences(
    found: _Shapes, wanted: _Shapes, size: TransformerSize
) -> Iterator[tuple[str, str]]:
    """Yield (likely cause, shapes) of every difference."""
    for cause, name in (
        *_other_samples(found, wanted),
        *_other_model(found, wanted),
        *_other_training(found, wanted, size),
    ):
        here, there = (
            each.depth if name == _BLOCKS else each.shapes.get(name, "none")
            for each in (found, wanted)
        )
        yield cause, f"{name}: the file has {here}, the network {there}"


def _other_samples(found: _Shapes, wanted: _Shapes) -> Iterator[tuple[str, str]]:
    if None not in (found.side, wanted.side) and found.side != wanted.side:
        yield f"weights of {found.sample} in a recipe for {wanted.sample}", _POSITION
    if found.patch != wanted.patch:
        yield f"another patch size: {found.patch} in a recipe for {wanted.patch}", _PATCHES
    if found.channels != wanted.channels:
        yield (
            f"other samples: {found.channels} channels in a recipe for {wanted.channels}",
            _PATCHES,
        )


def _other_model(found: _Shapes, wanted: _Shapes) -> Iterator[tuple[str, str]]:
    if (found.width, found.depth) != (wanted.width, wanted.depth):
        evidence = _PATCHES if found.width != wanted.width else _BLOCKS
        yield f"another model size: {found.model} in a recipe for {wanted.model}", evidence
    elif found.head_width != wanted.head_width and None not in (
        found.head_width,
        wanted.head_width,
    ):
        yield "another number of heads", _QUERY_NORM
    if found.mlp_ratio != wanted.mlp_ratio:
        ratios = f"{found.mlp_ratio:g} in a recipe for {wanted.mlp_ratio:g}"
        yield f"another mlp_ratio: {ratios}", _HIDDEN


def _other_training(
    found: _Shapes, wanted: _Shapes, size: TransformerSize
) -> Iterator[tuple[str, str]]:
    if found.labels != wanted.labels:
        yield _other_labels(found.labels, size), _LABELS
    if found.qk_norm != wanted.qk_norm:
        trained = "with" if found.qk_norm else "without"
        yield (
            f"qk_norm: the file was trained {trained} it, but the recipe says otherwise",
            _QUERY_NORM,
        )
    if found.outputs not in (found.channels, 2 * found.channels):
        cause = f"another output: {found.outputs} channels for {found.channels} of input"
        yield cause, f"{_LAST}.weight"


def _other_labels(rows: int | None, size: TransformerSize) -> str:
    if rows is None:
        return "an unconditional model in a recipe with classes"
    if size.classes is None:
        return f"a model of {rows} labels in a recipe without classes"
    null = "and a null label" if size.null_label else "and no null label"
    recipe = f"the recipe has {size.classes} classes {null}"
    if size.null_label and rows == size.classes:
        return (
            f"{rows} labels, but {recipe}. If the file was trained without dropping labels, the "
            "teacher cannot be guided: set null_label = false in [teacher.sizes]. Or the file has "
            f"{rows - 1} classes"
        )
    if not size.null_label and rows == size.classes + 1:
        return (
            f"{rows} labels, but {recipe}. If the last is the file's null label, set "
            f"null_label = true in [teacher.sizes]. Or the file has {rows} classes"
        )
    return (
        f"another number of classes: {rows} labels ({rows - 1} classes and a null label, or {rows} "
        f"classes without one), but {recipe}"
    )


def _with_position(transformer: Transformer) -> dict[str, Tensor]:
    return {**transformer.state_dict(), _POSITION: transformer.pos_embed}


def _without_position(weights: Weights, found: _Shapes) -> Weights:
    """Remove the fixed position embedding; raise WeightsError if it is another."""
    assert found.side is not None
    tensors = dict(weights.tensors)
    position = tensors.pop(_POSITION)
    fixed = grid_sinusoids(found.side // found.patch, found.width)
    off = float((position.double() - fixed.double()).abs().max())
    if not math.isfinite(off):
        weights.check_finite(weights.tensors)
    if not off <= max(_POSITION_TOLERANCE, torch.finfo(position.dtype).eps):
        raise WeightsError(
            f"{weights.label}: {_POSITION} differs from the fixed sines and cosines by up to "
            f"{off:.2g}. ffcore does not support a trained position embedding"
        )
    note = f"{_POSITION} is the fixed one (off by {off:.1g} at most)"
    return attrs.evolve(weights, tensors=tensors, notes=(*weights.notes, note))


def _without_sigma(weights: Weights, found: _Shapes) -> Weights:
    """Keep the first C of the last layer's 2C channels per pixel of a patch."""
    tensors = dict(weights.tensors)
    for name in (f"{_LAST}.weight", f"{_LAST}.bias"):
        if name in tensors and tensors[name].shape[:1] == (found.patch**2 * found.outputs,):
            pixels = tensors[name].unflatten(0, (found.patch**2, found.outputs))  # [P², 2C, …]
            tensors[name] = pixels[:, : found.channels].flatten(0, 1)
    note = f"dropped the {found.outputs - found.channels} σ channels of {_LAST}"
    return attrs.evolve(weights, tensors=tensors, notes=(*weights.notes, note))
