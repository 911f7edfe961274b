"""The transformer that SiT and its kin share."""

import attrs
import pytest
import torch
from inputs import Stream
from torch import Tensor, nn

from ffcore.nn.transformer import Attention, Transformer, TransformerSize, modulate

SIZE = TransformerSize(
    input_size=6, patch_size=2, channels=3, width=16, depth=2, heads=2, classes=4
)


def transformer(size: TransformerSize = SIZE) -> Transformer:
    """In float64, with its zero layers filled, so that every part counts."""
    torch.manual_seed(0)
    network = Transformer(size)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return network.double().requires_grad_(False)


def inputs(batch: int = 3) -> tuple[Tensor, Tensor]:
    stream = Stream(0)
    return stream.normal(batch, 3, 6, 6), stream.normal(batch, 16)


def test_a_new_transformer_is_the_zero_map() -> None:
    torch.manual_seed(0)
    x, c = inputs()
    found = Transformer(SIZE)(x.float(), c.float())
    assert torch.equal(found, torch.zeros(3, 3, 6, 6))


def test_a_trained_one_is_not() -> None:
    assert transformer()(*inputs()).abs().mean() > 1e-2


def test_a_new_block_hands_its_tokens_through() -> None:
    block, x = Transformer(SIZE).blocks[0].double(), Stream(0).normal(2, 9, 16)
    assert torch.equal(block(x, Stream(1).normal(2, 16)), x)


def test_a_sample_does_not_depend_on_the_rest_of_the_batch() -> None:
    network, (x, c) = transformer(), inputs(5)
    together = network(x, c)
    alone = torch.cat([network(x[i : i + 1], c[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-11, atol=1e-12)


def test_a_network_that_mixes_samples_would_be_seen() -> None:
    class Mixing(nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            out: Tensor = network(x, c - c.mean(0))
            return out

    network, (x, c) = transformer(), inputs(5)
    alone = torch.cat([Mixing()(x[i : i + 1], c[i : i + 1]) for i in range(5)])
    assert not torch.allclose(Mixing()(x, c), alone)


def test_patches_go_back_to_where_they_came_from() -> None:
    """With every block and norm out of the way, the network is the identity on patches."""
    size = attrs.evolve(SIZE, width=12)
    network = Transformer(size).double().requires_grad_(False)
    network.pos_embed.zero_()
    network.x_embedder.proj.weight.copy_(torch.eye(12).view(12, 3, 2, 2))
    # The embedding orders a patch as (channel, row, column), the last layer as (row, column,
    # channel): the layouts of a convolution and of the published checkpoints.
    order = torch.arange(12).view(3, 2, 2).permute(1, 2, 0).flatten()
    network.final_layer.linear.weight.copy_(torch.eye(12)[order])
    network.final_layer.norm_final = nn.Identity()  # type: ignore[assignment]
    x = Stream(0).normal(2, 3, 6, 6)
    torch.testing.assert_close(network(x, torch.zeros(2, 12).double()), x, rtol=0, atol=0)


def test_attention_is_the_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    attention, x = Attention(8, 2, qk_norm=False).double(), Stream(0).normal(3, 5, 8)
    q, k, v = attention.qkv(x).chunk(3, dim=2)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = q[..., head] @ k[..., head].transpose(1, 2) / 2  # √4
        heads.append(scores.softmax(2) @ v[..., head])
    expected = attention.proj(torch.cat(heads, 2))
    torch.testing.assert_close(attention(x), expected, rtol=1e-12, atol=1e-12)


def test_normalised_queries_and_keys_forget_their_scale() -> None:
    torch.manual_seed(0)
    x = Stream(0).normal(3, 5, 8)
    for qk_norm, same in ((True, True), (False, False)):
        attention = Attention(8, 2, qk_norm).double().requires_grad_(False)
        before = attention(x)
        attention.qkv.weight[:16] *= 3  # queries and keys
        attention.qkv.bias[:16] *= 3
        assert torch.allclose(attention(x), before, rtol=1e-3, atol=1e-4) == same


def test_modulation_scales_around_one_and_shifts() -> None:
    x, shift, scale = (
        Stream(0).normal(2, 3, 4),
        Stream(1).normal(2, 1, 4),
        Stream(2).normal(2, 1, 4),
    )
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + scale) + shift)


def test_parameters_are_named_as_in_published_checkpoints() -> None:
    names = set(Transformer(attrs.evolve(SIZE, depth=1)).state_dict())
    parts = [
        "x_embedder.proj",
        "t_embedder.mlp.0",
        "t_embedder.mlp.2",
        "blocks.0.attn.qkv",
        "blocks.0.attn.proj",
        "blocks.0.mlp.fc1",
        "blocks.0.mlp.fc2",
        "blocks.0.adaLN_modulation.1",
        "final_layer.linear",
        "final_layer.adaLN_modulation.1",
    ]
    expected = {f"{part}.{name}" for part in parts for name in ("weight", "bias")}
    assert names == expected | {"y_embedder.embedding_table.weight"}


def test_the_null_label_has_a_row_of_its_own() -> None:
    network = Transformer(SIZE)
    assert network.y_embedder is not None
    assert network.y_embedder(torch.tensor([4])).shape == (1, 16)
    assert Transformer(attrs.evolve(SIZE, classes=None)).y_embedder is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"patch_size": 4}, "input_size 6 is not a multiple of patch_size 4"),
        ({"heads": 3}, "width 16 is not a multiple of heads 3"),
        ({"width": 6, "heads": 1}, "and of 4"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(changed: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attrs.evolve(SIZE, **changed)
