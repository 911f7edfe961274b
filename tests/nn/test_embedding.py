"""Embeddings of scalars and positions."""

import math

import pytest
import torch
from torch import Tensor

from ffcore.nn.embedding import ScalarEmbedder, grid_sinusoids, sinusoids


def test_cosines_come_before_sines_at_falling_frequencies() -> None:
    values = torch.tensor([0.0, 0.3, 7.0], dtype=torch.float64)
    expected = [
        [f(v * 100.0 ** (-i / 3)) for f in (math.cos, math.sin) for i in range(3)]
        for v in values.tolist()
    ]
    found = sinusoids(values, 6, max_period=100.0)
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_a_time_is_embedded_in_float32_at_least(dtype: torch.dtype, expected: torch.dtype) -> None:
    assert sinusoids(torch.zeros(2, dtype=dtype), 8).dtype == expected


def by_loops(side: int, width: int) -> Tensor:
    """Row by row; a quarter each of: sines and cosines of the column, then of the row."""
    quarter = width // 4
    table = torch.zeros(side * side, width, dtype=torch.float64)
    for row in range(side):
        for column in range(side):
            for i in range(quarter):
                frequency = 10_000 ** (-i / quarter)
                at = table[row * side + column]
                at[i] = math.sin(column * frequency)
                at[quarter + i] = math.cos(column * frequency)
                at[2 * quarter + i] = math.sin(row * frequency)
                at[3 * quarter + i] = math.cos(row * frequency)
    return table.float()


@pytest.mark.parametrize(("side", "width"), [(1, 4), (3, 8), (4, 16)])
def test_positions_are_columns_then_rows_as_sines_then_cosines(side: int, width: int) -> None:
    torch.testing.assert_close(grid_sinusoids(side, width), by_loops(side, width))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda table: table.view(3, 3, 8).transpose(0, 1).reshape(9, 8),
        lambda table: table.roll(4, 1),
        lambda table: table.view(9, 2, 2, 2).flip(2).reshape(9, 8),
    ],
    ids=["column by column", "rows first", "cosines first"],
)
def test_another_layout_of_positions_would_be_seen(wrong: object) -> None:
    assert callable(wrong)
    assert not torch.allclose(wrong(grid_sinusoids(3, 8)), by_loops(3, 8))


def test_an_embedder_learns_on_top_of_the_sinusoids() -> None:
    torch.manual_seed(0)
    embedder = ScalarEmbedder(12, frequencies=8)
    values = torch.tensor([0.1, 0.9])
    expected = embedder.mlp(sinusoids(values, 8))
    assert torch.equal(embedder(values), expected)
    assert expected.shape == (2, 12)
