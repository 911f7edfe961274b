"""Random numbers without state: the same for any cut of the batch, different for all else."""

from collections.abc import Callable
from itertools import pairwise

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ffcore.draws import BLOCK, Draws

Draw = Callable[[Draws], Tensor]

DRAWS: dict[str, Draw] = {
    "normal": lambda draws: draws.normal("z", (2, 3)),
    "scalar": lambda draws: draws.normal("z"),
    "uniform": lambda draws: draws.uniform("t"),
    "logit-normal": lambda draws: draws.logit_normal("r", 0.8, 1.0),
    "integers": lambda draws: draws.integers("label", 10),
    "named": lambda draws: draws.named("correction", 3).normal("z"),
}
sizes = st.integers(1, 3 * BLOCK + 1)


def cut(batch: int, parts: list[int]) -> list[int]:
    """The ends of consecutive parts of a batch."""
    inner = sorted(part % (batch + 1) for part in parts)
    return [0, *inner, batch]


def is_blind_to_the_cut(
    draw: Draw, slices: Callable[[Draws, int, int], Draws], seed: int, ends: list[int]
) -> None:
    """The parts drawn on ranks and in micro-batches are the parts of the whole."""
    whole = Draws(seed, 7, 0, ends[-1])
    parts = [draw(slices(whole, start, stop)) for start, stop in pairwise(ends)]
    assert torch.equal(torch.cat(parts), draw(whole))


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
@given(seed=st.integers(0, 2**63), batch=sizes, parts=st.lists(st.integers(0, 2**10), max_size=8))
def test_any_number_of_ranks_and_micro_batches_draw_the_same(
    draw: Draw, seed: int, batch: int, parts: list[int]
) -> None:
    is_blind_to_the_cut(draw, lambda whole, a, b: whole[a:b], seed, cut(batch, parts))


@given(batch=sizes, parts=st.lists(st.integers(0, 2**10), max_size=4))
def test_a_part_of_a_part_is_a_part(batch: int, parts: list[int]) -> None:
    def in_two_cuts(whole: Draws, start: int, stop: int) -> Draws:
        return whole[start:][: stop - start]

    is_blind_to_the_cut(DRAWS["normal"], in_two_cuts, 0, cut(batch, parts))


@pytest.mark.parametrize(
    "slices",
    [
        lambda whole, a, b: Draws(whole.seed, whole.step, 0, b - a),
        lambda whole, a, b: Draws(whole.seed + a, whole.step, a, b),
        lambda whole, a, b: whole[a:b].named(a),
    ],
    ids=["every rank from the start", "seeded by rank", "named by rank"],
)
def test_draws_that_depend_on_the_cut_would_be_seen(
    slices: Callable[[Draws, int, int], Draws],
) -> None:
    with pytest.raises(AssertionError):
        is_blind_to_the_cut(DRAWS["normal"], slices, 0, [0, 40, 70])


OTHERS: dict[str, Callable[[Draws], Tensor]] = {
    "seed": lambda draws: attrs.evolve(draws, seed=draws.seed + 1).normal("z"),
    "step": lambda draws: attrs.evolve(draws, step=draws.step + 1).normal("z"),
    "purpose": lambda draws: draws.normal("noise"),
    "scope": lambda draws: draws.named("correction").normal("z"),
    "scope of the same letters": lambda draws: draws.named("z").normal("z"),
    "samples": lambda draws: Draws(0, 0, 6400, 12800).normal("z"),
    "nested scopes": lambda draws: draws.named("a", "b").normal("z"),
}


def is_independent(other: Callable[[Draws], Tensor]) -> None:
    """No number in common, and a correlation within 5 σ of none."""
    draws = Draws(0, 0, 0, 6400)
    a, b = draws.normal("z"), other(draws)
    assert not (a == b).any()
    assert abs(float(a @ b) / 6400) < 5 / 80


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_draws_differ_by_seed_step_purpose_scope_and_sample(
    other: Callable[[Draws], Tensor],
) -> None:
    is_independent(other)


@pytest.mark.parametrize(
    "same", [lambda draws: draws.normal("z"), lambda draws: -draws.normal("z")]
)
def test_dependence_would_be_seen(same: Callable[[Draws], Tensor]) -> None:
    with pytest.raises(AssertionError):
        is_independent(same)


def test_scopes_do_not_run_together() -> None:
    draws = Draws(0, 0, 0, 8)
    assert not torch.equal(draws.named("a", "b").normal("z"), draws.named("ab").normal("z"))
    assert not torch.equal(draws.named("a").normal("bz"), draws.named("ab").normal("z"))
    assert torch.equal(draws.named("a").named("b").normal("z"), draws.named("a", "b").normal("z"))


def test_the_blocks_of_a_batch_differ() -> None:
    blocks = Draws(0, 0, 0, 4 * BLOCK).normal("z").view(4, BLOCK)
    assert len(blocks.unique(dim=0)) == 4


def test_drawing_leaves_the_global_random_state_alone() -> None:
    state = torch.get_rng_state()
    for draw in DRAWS.values():
        draw(Draws(0, 0, 0, 100))
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_have_the_law_they_are_named_after() -> None:
    draws = Draws(0, 0, 0, 64_000)
    normal, uniform = draws.normal("z").double(), draws.uniform("t").double()
    integers = draws.integers("label", 5)
    root = 64_000**0.5
    assert abs(float(normal.mean())) < 5 / root
    assert abs(float(normal.var()) - 1) < 5 * 2**0.5 / root
    assert abs(float(uniform.mean()) - 0.5) < 5 * (1 / 12) ** 0.5 / root
    assert abs(float(uniform.var()) - 1 / 12) < 5 * (1 / 180) ** 0.5 / root
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1
    assert ((integers.bincount() - 12_800).abs() < 5 * (64_000 * 0.16) ** 0.5).all()


def test_draws_are_the_same_in_every_release() -> None:
    """A changed number here breaks every resume, and every result that is compared by seed."""
    draws = Draws(1, 2, 30, 34).named("prediction")  # across the border of two blocks
    # The vectorised and the plain Box-Muller of torch differ by rounding.
    torch.testing.assert_close(
        draws.normal("z"),
        torch.tensor([0.2789249, -0.2866092, -1.0480835, -0.7442067]),
        rtol=1e-5,
        atol=1e-6,
    )
    torch.testing.assert_close(
        draws.uniform("delta"),
        torch.tensor([0.3885287, 0.7525723, 0.2589024, 0.9663681]),
        rtol=0,
        atol=1e-7,
    )
    assert draws.integers("label", 10).tolist() == [8, 8, 7, 8]


def test_no_samples_draw_nothing() -> None:
    for start in (0, BLOCK, BLOCK + 3):
        assert Draws(0, 0, start, start).normal("z", (2,)).shape == (0, 2)


def test_draws_are_cut_contiguously() -> None:
    with pytest.raises(ValueError, match="contiguously"):
        Draws(0, 0, 0, 8)[::2]
