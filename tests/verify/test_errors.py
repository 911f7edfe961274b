"""Quantiles and ratios of errors."""

import math

import pytest
import torch

from ffcore.verify.errors import LEAST, Errors, Spread, norm


def test_quantiles_are_those_of_the_numbers_in_whatever_order():
    found = Spread.of(torch.tensor([7.0, 0.0, 10.0, 1, 9, 2, 8, 3, 5, 4, 6]))
    assert (found.low, found.median, found.high) == pytest.approx((1, 5, 9), abs=1e-12)
    assert found.rms == pytest.approx(math.sqrt(35))


def test_a_norm_is_divided_by_the_root_of_the_dimensions():
    x = torch.full((2, 3, 4, 4), 2.0)
    x[1] *= 3
    assert norm(x).tolist() == [2, 6]


def test_what_hardly_moves_has_no_relative_error_and_is_counted():
    error = torch.tensor([0.1, 0.2, 0.3, 5.0])
    size = torch.tensor([1.0, 1.0, 1.0, LEAST / 2])
    found = Errors.of(error, size)
    assert found.left_out == 1
    assert found.relative is not None
    assert found.relative.median == pytest.approx(0.2)
    assert found.absolute.high > 1


def test_where_nothing_moves_there_is_no_relative_error():
    found = Errors.of(torch.ones(3), torch.zeros(3))
    assert (found.relative, found.left_out) == (None, 3)
    assert found.absolute.median == 1
