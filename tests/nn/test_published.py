"""Published checkpoints in our transformer: the official names, shapes and surroundings."""

import logging
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from inputs import Stream
from torch import Tensor, nn

from ffcore.nn.embedding import grid_sinusoids
from ffcore.nn.published import load_published
from ffcore.nn.size import TransformerSize
from ffcore.nn.transformer import Transformer
from ffcore.system.weights import Weights, WeightsError

SIZE = TransformerSize(
    input_size=8, patch_size=2, channels=4, width=16, depth=3, heads=2, classes=5
)
QK_NORM = attrs.evolve(SIZE, qk_norm=True)


def trained(size: TransformerSize = SIZE, seed: int = 0) -> Transformer:
    """A network none of whose parameters is as it was initialised."""
    torch.manual_seed(seed)
    network = Transformer(size)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.requires_grad_(False)


def position(size: TransformerSize = SIZE) -> Tensor:
    return grid_sinusoids(size.input_size // size.patch_size, size.width)[None]


def official(
    size: TransformerSize = SIZE, *, sigma: bool = False, **changes: Tensor | None
) -> Weights:
    """The file of a trained network as its authors would publish it."""
    tensors: dict[str, Tensor | None] = {**trained(size).state_dict(), "pos_embed": position(size)}
    if sigma:
        for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
            velocity = tensors[name]
            assert velocity is not None
            pixels = velocity.unflatten(0, (-1, size.channels))
            other = torch.full_like(pixels, 3.0)
            tensors[name] = torch.cat([pixels, other], dim=1).flatten(0, 1)
    tensors |= {name.replace("__", "."): each for name, each in changes.items()}
    present = {name: each for name, each in tensors.items() if each is not None}
    return Weights(present, {}, "last.pt", "ema")


def output(network: Transformer) -> Tensor:
    size, stream = network.size, Stream(0)
    x = stream.normal(3, *size.sample_shape).float()
    c = network.t_embedder(stream.uniform(0, 1, 3).float())
    if network.y_embedder is not None:
        c = c + network.y_embedder(torch.tensor([0, 1, 5]))
    with torch.no_grad():
        out: Tensor = network(x, c)
    return out


def holds(network: Transformer, size: TransformerSize = SIZE) -> bool:
    """Whether the network computes what the one that was published does."""
    return torch.equal(output(network), output(trained(size)))


def refused(weights: Weights, size: TransformerSize = SIZE, **options: Any) -> list[str]:
    """The lines of the error; the network stays as it was."""
    network = trained(size, seed=1)
    before = {name: each.clone() for name, each in network.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_published(weights, network, **options)
    assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())
    return str(caught.value).splitlines()


def causes(lines: list[str]) -> list[str]:
    assert lines[0] == "last.pt (ema) holds another network than the recipe describes:"
    return [line.strip() for line in lines[1::2]]


def evidence(lines: list[str]) -> list[str]:
    return [line.strip() for line in lines[2::2]]


# What is loaded.


@pytest.mark.parametrize(
    "size",
    [
        SIZE,
        QK_NORM,
        attrs.evolve(SIZE, classes=None),
        attrs.evolve(SIZE, channels=3, patch_size=4, mlp_ratio=2.5),
    ],
    ids=["SiT", "qk_norm", "unconditional", "other sizes"],
)
@pytest.mark.parametrize("sigma", [False, True], ids=["velocity", "with σ"])
def test_the_network_computes_what_the_published_one_does(
    size: TransformerSize, sigma: bool
) -> None:
    network = trained(size, seed=1)
    assert not holds(network, size)
    load_published(official(size, sigma=sigma), network)
    assert holds(network, size)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda linear: linear[: len(linear) // 2],  # the first half of the pixels
        lambda linear: linear.unflatten(0, (2, -1))[:, ::2].flatten(0, 1),  # every other channel
        lambda linear: linear.unflatten(0, (-1, 8))[:, 4:].flatten(0, 1),  # σ
    ],
)
def test_other_rows_of_the_last_layer_would_be_seen(wrong: Callable[[Tensor], Tensor]) -> None:
    network = trained()
    with_sigma = official(sigma=True).tensors
    assert holds(network)
    for name in ("weight", "bias"):
        parameter = getattr(network.final_layer.linear, name)
        parameter.copy_(wrong(with_sigma[f"final_layer.linear.{name}"]))
    assert not holds(network)


def test_training_only_parts_are_dropped_as_asked() -> None:
    projectors = {f"projectors__0__{i}__weight": torch.zeros(2, 2) for i in (0, 2, 4)}
    network = trained(seed=1)
    load_published(official(**projectors), network, drop=("projectors.*",))
    assert holds(network)
    assert "unexpected: heads.0" in "\n".join(refused(official(heads__0=torch.zeros(2))))


def test_a_file_of_another_family_is_told_by_what_only_that_has() -> None:
    (line,) = refused(official(projectors__0__0__bias=torch.zeros(2)))
    assert 'set type = "repa" for teacher and student' in line
    (line,) = refused(official(sigma=True), sigma=False)
    assert "predicts σ" in line
    assert 'type = "sit" or "dit"' in line


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_wrapper_s_prefix_on_some_names_alone_is_told(prefix: str) -> None:
    weights = official()
    for start in ("blocks.2.", "x_embedder.", "y_embedder."):
        mixed = {
            f"{prefix}{name}" if name.startswith(start) else name: each
            for name, each in weights.tensors.items()
        }
        (line,) = refused(attrs.evolve(weights, tensors=mixed))
        assert f" of {len(mixed)} names start with '{prefix}', as in {prefix}{start}" in line


def test_the_line_on_what_was_loaded_tells_of_all_that_was_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = trained(seed=1)
    count = len(network.state_dict())
    weights = official(sigma=True, projectors__0=torch.zeros(1), projectors__1=torch.zeros(1))
    with caplog.at_level(logging.INFO, "ffcore.system.weights"):
        load_published(weights, network, drop=["projectors.*", "unused.*"])
    (record,) = caplog.records
    assert record.getMessage() == (
        f"last.pt (ema): all {count} tensors loaded into {count} of {count} parameters; "
        "dropped 2: projectors.*; dropped the 4 σ channels of final_layer.linear; "
        "pos_embed is the fixed one (off by 0 at most)"
    )


@pytest.mark.parametrize("name", ["blocks.1.attn.qkv.bias", "t_embedder.mlp.0.weight"])
def test_what_is_missing_is_told(name: str) -> None:
    lines = refused(official(**{name.replace(".", "__"): None}))
    assert lines == ["last.pt (ema) does not fit the network:", f"  missing: {name}"]


def test_a_network_on_the_meta_device_is_refused() -> None:
    with torch.device("meta"):
        meta = Transformer(SIZE)
    with pytest.raises(ValueError, match="meta device"):
        load_published(official(), meta)


# The position embedding.


def test_a_file_may_have_no_position_embedding() -> None:
    network = trained(seed=1)
    load_published(official(pos_embed=None), network)
    assert holds(network)


def averaged(steps: int) -> Tensor:
    """The fixed embedding after so many updates of a moving average of the weights."""
    fixed = position(TransformerSize(input_size=16, patch_size=2, width=64, depth=1, heads=1))
    average = fixed.clone()
    for _ in range(steps):
        average.mul_(0.9999).add_(fixed, alpha=1 - 0.9999)
    return average


def test_the_fixed_embedding_may_have_been_averaged_with_the_weights() -> None:
    """Rounding moves an average of equal numbers: published files are off by 1e-4, not by 1e-7."""
    size = TransformerSize(input_size=16, patch_size=2, width=64, depth=1, heads=1)
    average = averaged(6000)
    assert (average - position(size)).abs().max() > 5e-5
    load_published(official(size, pos_embed=average), trained(size))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_embedding_of_a_file_in_half_precision_is_rounded(dtype: torch.dtype) -> None:
    network = trained(seed=1)
    load_published(official(pos_embed=position().to(dtype)), network)
    assert holds(network)


@pytest.mark.parametrize(
    "changed",
    [
        position() + 2e-3 * torch.eye(16)[None],
        position().flip(1),
        position().unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2),
        position().roll(8, 2),
    ],
    ids=["trained", "reversed", "columns first", "rows first"],
)
def test_another_embedding_is_refused(changed: Tensor) -> None:
    (line,) = refused(official(pos_embed=changed))
    assert line.startswith("last.pt (ema): pos_embed differs from the fixed sines and cosines")
    assert "ffcore does not support a trained position embedding" in line


# What is no finite number.


@pytest.mark.parametrize("name", ["pos_embed", "final_layer.linear.weight", "x_embedder.proj.bias"])
@pytest.mark.parametrize(
    "changed",
    [
        lambda tensor: tensor.int(),
        lambda tensor: tensor.bool(),
        lambda tensor: tensor.cfloat(),
        lambda tensor: tensor.to(torch.float8_e4m3fn),
        lambda tensor: tensor.to_sparse(),
    ],
    ids=["integer", "bool", "complex", "8 bits", "sparse"],
)
def test_a_tensor_of_another_kind_is_told(name: str, changed: Callable[[Tensor], Tensor]) -> None:
    weights = official(sigma=True)
    tensors = weights.tensors | {name: changed(weights.tensors[name])}
    lines = refused(attrs.evolve(weights, tensors=tensors))
    assert lines[0] == "last.pt (ema) does not fit the network:"
    assert lines[1].startswith(f"  {name}: the file has torch.")
    assert lines[1].endswith("possible: dense float16, bfloat16, float32 or float64")


@pytest.mark.parametrize("names", [["pos_embed"], ["pos_embed", "x_embedder.proj.bias"]])
def test_numbers_that_are_not_finite_are_told_and_counted(names: list[str]) -> None:
    weights = official()
    wrong = {name: weights.tensors[name] * torch.nan for name in names}
    (line,) = refused(attrs.evolve(weights, tensors=weights.tensors | wrong))
    assert line.startswith(f"last.pt (ema): {len(names)} tensor")
    assert " NaN or infinity, the first is " in line


# A network of other sizes.


@pytest.mark.parametrize(
    ("size", "cause", "shapes"),
    [
        (
            attrs.evolve(SIZE, input_size=16),
            "weights of 128 × 128 images in a recipe for 64 × 64 images",
            "pos_embed: the file has (1, 64, 16), the network (1, 16, 16)",
        ),
        (
            attrs.evolve(SIZE, patch_size=4),
            "another patch size: 4 in a recipe for 2",
            "x_embedder.proj.weight: the file has (16, 4, 4, 4), the network (16, 4, 2, 2)",
        ),
        (
            attrs.evolve(SIZE, channels=3),
            "other samples: 3 channels in a recipe for 4",
            "x_embedder.proj.weight: the file has (16, 3, 2, 2), the network (16, 4, 2, 2)",
        ),
        (
            attrs.evolve(SIZE, width=32),
            "another model size: one of width 32, depth 3 in a recipe for one of width 16, depth 3",
            "x_embedder.proj.weight: the file has (32, 4, 2, 2), the network (16, 4, 2, 2)",
        ),
        (
            attrs.evolve(SIZE, depth=4),
            "another model size: one of width 16, depth 4 in a recipe for one of width 16, depth 3",
            "blocks: the file has 4, the network 3",
        ),
        (
            attrs.evolve(SIZE, mlp_ratio=2.0),
            "another mlp_ratio: 2 in a recipe for 4",
            "blocks.0.mlp.fc1.weight: the file has (32, 16), the network (64, 16)",
        ),
        (
            attrs.evolve(SIZE, classes=7),
            "another number of classes: 8 labels (7 classes and a null label, or 8 classes "
            "without one), but the recipe has 5 classes and a null label",
            "y_embedder.embedding_table.weight: the file has (8, 16), the network (6, 16)",
        ),
        (
            attrs.evolve(SIZE, classes=None),
            "an unconditional model in a recipe with classes",
            "y_embedder.embedding_table.weight: the file has none, the network (6, 16)",
        ),
        (
            QK_NORM,
            "qk_norm: the file was trained with it, but the recipe says otherwise",
            "blocks.0.attn.q_norm.weight: the file has (8,), the network none",
        ),
    ],
    ids=lambda value: "" if isinstance(value, TransformerSize) else None,
)
def test_other_sizes_are_told_with_their_likely_cause(
    size: TransformerSize, cause: str, shapes: str
) -> None:
    lines = refused(official(size))
    assert causes(lines) == [cause]
    assert evidence(lines) == [shapes]


def test_the_other_way_round_is_told_too() -> None:
    assert causes(refused(official(), attrs.evolve(SIZE, classes=None))) == [
        "a model of 6 labels in a recipe without classes"
    ]
    assert causes(refused(official(), QK_NORM)) == [
        "qk_norm: the file was trained without it, but the recipe says otherwise"
    ]


def test_a_published_model_is_told_by_its_letter() -> None:
    """At a patch so large that the networks are small to make; only shapes matter."""

    def shaped(width: int, depth: int) -> Weights:
        shapes = {
            "x_embedder.proj.weight": (width, 4, 2, 2),
            "final_layer.linear.weight": (16, width),
            "pos_embed": (1, 16, width),
            **{f"blocks.{i}.mlp.fc1.weight": (4 * width, width) for i in range(depth)},
        }
        tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        return Weights(tensors, {}, "last.pt", "ema")

    unconditional = attrs.evolve(SIZE, classes=None)
    for width, depth, name in ((384, 12, "S"), (768, 12, "B"), (1024, 24, "L"), (1152, 28, "XL")):
        (cause,) = causes(refused(shaped(width, depth), unconditional))
        assert cause.startswith(f"another model size: {name} (width {width}, depth {depth}) in a")


def test_samples_that_are_no_latents_are_not_called_images() -> None:
    size = attrs.evolve(SIZE, channels=3)
    (cause,) = causes(refused(official(attrs.evolve(size, input_size=16)), size))
    assert cause == "weights of 16 × 16 samples in a recipe for 8 × 8 samples"


def test_without_position_embedding_the_input_size_is_not_compared() -> None:
    other = official(attrs.evolve(SIZE, input_size=16), pos_embed=None)
    load_published(other, trained(seed=1))


def test_another_number_of_heads_is_seen_where_queries_are_normalised() -> None:
    (cause,) = causes(refused(official(attrs.evolve(QK_NORM, heads=4)), QK_NORM))
    assert cause == "another number of heads"


@pytest.mark.parametrize("null", [True, False])
def test_one_label_more_or_less_is_told_as_the_null_label(null: bool) -> None:
    file, recipe = attrs.evolve(SIZE, null_label=not null), attrs.evolve(SIZE, null_label=null)
    (cause,) = causes(refused(official(file), recipe))
    if null:
        assert cause.startswith("5 labels, but the recipe has 5 classes and a null label. ")
        assert "without dropping labels, the teacher cannot be guided" in cause
    else:
        assert cause.startswith("6 labels, but the recipe has 5 classes and no null label. ")
    assert f"set null_label = {str(not null).lower()} in [teacher.sizes]" in cause
    other = attrs.evolve(SIZE, classes=9, null_label=True)
    (cause,) = causes(refused(official(other), recipe))
    assert cause.startswith("another number of classes: 10 labels (9 classes and a null")


def test_an_output_that_is_neither_velocity_nor_with_sigma_is_told() -> None:
    lines = refused(official(final_layer__linear__weight=torch.zeros(4 * 12, 16)))
    assert causes(lines) == ["another output: 12 channels for 4 of input"]
    assert evidence(lines) == [
        "final_layer.linear.weight: the file has (48, 16), the network (16, 16)"
    ]


def test_sigma_in_the_weight_or_the_bias_alone_is_a_misfit() -> None:
    bias = trained().state_dict()["final_layer.linear.bias"]
    with pytest.raises(WeightsError, match=r"final_layer\.linear\.bias: the file has \(32,\)"):
        load_published(official(final_layer__linear__bias=bias.repeat(2)), trained())
    lines = refused(official(sigma=True, final_layer__linear__bias=bias[:8]))
    assert lines[1:] == ["  final_layer.linear.bias: the file has (8,), the network (16,)"]


def test_all_differences_are_told_at_once() -> None:
    other = attrs.evolve(
        SIZE, input_size=16, patch_size=4, channels=3, depth=4, classes=7, qk_norm=True
    )
    words = [cause.split(":")[0] for cause in causes(refused(official(other)))]
    assert words == [
        "weights of 16 × 16 samples in a recipe for 64 × 64 images",
        "another patch size",
        "other samples",
        "another model size",
        "another number of classes",
        "qk_norm",
    ]


def test_a_file_of_another_family_is_told_by_what_it_lacks() -> None:
    (line,) = refused(Weights({"conv.weight": torch.zeros(1)}, {}, "unet.pt"))
    assert line.startswith(
        "unet.pt is not a checkpoint of SiT, REPA or DiT: x_embedder.proj.weight"
    )
    assert "Its first tensors are conv.weight" in line
    diffusers = {"transformer_blocks.0.norm1.emb.weight": torch.zeros(1)}
    (line,) = refused(Weights(diffusers, {}, "dit.bin"))
    assert "names are those of the diffusers library" in line
    (line,) = refused(official(), drop=("*",))
    assert line.endswith("is missing or of another kind")


@pytest.mark.parametrize(
    "changes",
    [
        {"x_embedder__proj__weight": torch.zeros(16, 4)},
        {"x_embedder__proj__weight": torch.zeros(16, 4, 0, 0)},
        {"pos_embed": torch.zeros(16, 16)},
        {"pos_embed": torch.zeros(1, 17, 16)},
        {"pos_embed": torch.zeros(1, 16, 8)},
        {"final_layer__linear__weight": torch.zeros(15, 16)},
        {"blocks__0__mlp__fc1__weight": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_shapes_that_no_file_of_the_family_has_are_told(changes: dict[str, Tensor | None]) -> None:
    lines = refused(official(**changes))
    assert lines[0].startswith("last.pt (ema) is no")


def test_a_network_of_any_ratio_takes_its_weights() -> None:
    size = TransformerSize(
        input_size=4, patch_size=2, channels=1, width=28, depth=1, heads=2, mlp_ratio=122.5 / 28
    )
    weights = official(size)
    assert weights.tensors["blocks.0.mlp.fc1.weight"].shape[0] == 122
    load_published(weights, Transformer(size))
