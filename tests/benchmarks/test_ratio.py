"""Ratios of times: the median of pairs, its quartiles, and when they are too noisy to quote."""

import pytest
from ratio import LEAST_ROUNDS, NOISY, WIDEST, Ratio


def test_a_ratio_is_taken_within_each_round_and_not_of_the_medians() -> None:
    # Each round is slowed as a whole, by 1, 9, 2, 7 and 3; of both times alike.
    slowed = [1.0, 9.0, 2.0, 7.0, 3.0]
    ratio = Ratio.of([1.3 * each for each in slowed], slowed)
    assert ratio.rounds == pytest.approx([1.3] * 5)
    assert f"{ratio:.2f}" == "1.30 (1.30 – 1.30)"
    # Of other rounds the medians are 30 and 10, and the pairs say 2.
    assert Ratio.of([20, 30, 40, 2, 80], [10, 5, 20, 1, 40]).median == 2.0


def test_quartiles_are_those_of_the_rounds() -> None:
    assert Ratio((5.0, 1.0, 4.0, 2.0, 3.0)).quartiles == (2.0, 4.0)
    assert Ratio((2.0,)).quartiles == (2.0, 2.0)


def test_median_and_quartiles_are_written_as_asked() -> None:
    assert f"{Ratio((1.31, 1.29, 1.30, 1.32, 1.28)):.2f}" == "1.30 (1.29 – 1.31)"
    assert f"{Ratio((1.31, 1.29, 1.30, 1.32, 1.28)):.3f}" == "1.300 (1.290 – 1.310)"


def test_one_round_beside_other_work_leaves_a_ratio_quotable() -> None:
    assert f"{Ratio((1.30, 1.31, 11.88, 1.29, 1.30)):.2f}" == "1.30 (1.30 – 1.31)"


@pytest.mark.parametrize("rounds", [(1.3, 1.3, 11.8, 11.9, 12.0), (1.3, 11.8, 11.9, 12.0, 1.2)])
def test_most_rounds_beside_other_work_are_too_noisy_to_quote(rounds: tuple[float, ...]) -> None:
    assert f"{Ratio(rounds):.2f}".endswith(f") {NOISY}")


def test_the_rule_is_a_tenth_of_the_median() -> None:
    just = Ratio((1.0, 1.0, 1.0, 1.0 + 0.99 * WIDEST, 2.0))
    over = Ratio((1.0, 1.0, 1.0, 1.0 + 1.01 * WIDEST, 2.0))
    assert (just.noisy, over.noisy) == (False, True)
    # In units of the median, a slope below zero included.
    assert not Ratio(tuple(-100 * each for each in just.rounds)).noisy
    assert Ratio(tuple(-100 * each for each in over.rounds)).noisy


def test_few_rounds_are_too_noisy_to_quote_however_equal() -> None:
    assert Ratio((1.3,) * (LEAST_ROUNDS - 1)).noisy
    assert not Ratio((1.3,) * LEAST_ROUNDS).noisy


def test_rounds_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="found 2 times over 1: leave out"):
        Ratio.of([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="at least one round, found none"):
        Ratio.of([], [])
