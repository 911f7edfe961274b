"""Low-rank factors: at first no change, then an update of their rank and nothing else."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inputs import Stream, seeds
from torch import Tensor, nn

from ffcore.nn.embedding import ScalarEmbedder
from ffcore.nn.lora import LowRankLinear, ZerosOnMeta, with_lora

RANK = 2


class Network(nn.Module):
    """Layers in every place where they can stand, in float64; `silent` starts from zero."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.scalar = ScalarEmbedder(12, frequencies=8)
            self.label = nn.Embedding(3, 12)
            self.enter = nn.Linear(6, 12)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 20), nn.SiLU(), nn.Linear(20, 12))
                for _ in range(2)
            )
            shared = nn.Linear(12, 12, bias=False)
            self.twice = nn.Sequential(shared, nn.Tanh(), shared)
            self.thrice = shared
            self.narrow = nn.Linear(12, RANK)
            self.leave = nn.Linear(12 + RANK, 6)
            self.silent = nn.Linear(12, 6)
        nn.init.zeros_(self.silent.weight)
        nn.init.zeros_(self.silent.bias)
        self.double()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.enter(x) + self.scalar(t) + self.label(torch.arange(len(x)) % 3)
        for block in self.blocks:
            h = h + block(h)
        h = h + self.thrice(self.twice(h))
        out: Tensor = self.leave(torch.cat([h, self.narrow(h)], 1)) + self.silent(h)
        return out


ADAPTED = {  # (in, out) of each layer that low-rank factors adapt
    "scalar.mlp.0": (8, 12),
    "scalar.mlp.2": (12, 12),
    "enter": (6, 12),
    "blocks.0.1": (12, 20),
    "blocks.0.3": (20, 12),
    "blocks.1.1": (12, 20),
    "blocks.1.3": (20, 12),
    "twice.0": (12, 12),  # and twice.2, and thrice
    "leave": (14, 6),
}
WHOLE = {"narrow.weight", "narrow.bias", "silent.weight", "silent.bias"}
X, T = Stream(0).normal(7, 6), Stream(1).uniform(0, 1, 7)

Adapt = Callable[[Network], Network]


def adapt(network: Network, rank: int = RANK) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return with_lora(network, rank)


def train(network: nn.Module, steps: int = 5) -> None:
    """Move the output towards another, far away."""
    trainable = [each for each in network.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2, weight_decay=0.0)
    target = Stream(2).normal(7, 6)
    for _ in range(steps):
        (network(X, T) - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def trained() -> Network:
    network = adapt(Network())
    train(network)
    return network


# What it computes.


def test_a_layer_adds_its_low_rank_product() -> None:
    base = nn.Linear(2, 2, dtype=torch.float64)
    layer = LowRankLinear(base, rank=1)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        assert base.bias is not None
        base.bias.copy_(torch.tensor([10.0, 20.0]))
        layer.A.copy_(torch.tensor([[1.0, -1.0]]))
        layer.B.copy_(torch.tensor([[5.0], [7.0]]))
    # W x + b = [15, 31]; A x = −1, so that B A x = [−5, −7].
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    assert layer(x).tolist() == [[10.0, 24.0]]
    assert layer.weight.tolist() == [[6.0, -3.0], [10.0, -3.0]]
    assert layer.bias is base.bias


def changes_nothing_at_first(adapt: Adapt) -> None:
    network = Network()
    before = network(X, T)
    torch.testing.assert_close(adapt(network)(X, T), before, rtol=0, atol=1e-12)


def test_an_adapted_network_is_at_first_what_it_was() -> None:
    changes_nothing_at_first(adapt)


def test_factors_that_are_both_random_would_be_seen() -> None:
    def wrong(network: Network) -> Network:
        for module in adapt(network).modules():
            if isinstance(module, LowRankLinear):
                nn.init.normal_(module.B, std=1e-3)
        return network

    with pytest.raises(AssertionError):
        changes_nothing_at_first(wrong)


@given(seed=seeds, rank=st.integers(1, 4), batch=st.sampled_from([(), (3,), (2, 0), (2, 5)]))
def test_a_layer_is_linear_in_the_weight_that_it_tells(
    seed: int, rank: int, batch: tuple[int, ...]
) -> None:
    stream = Stream(seed)
    layer = LowRankLinear(nn.Linear(6, 5).double(), rank)
    with torch.no_grad():
        layer.B.copy_(stream.normal(5, rank))
    x = stream.normal(*batch, 6)
    expected = nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


# What learns.


def test_only_factors_and_the_layers_that_stay_whole_learn() -> None:
    network = adapt(Network())
    found = {name for name, each in network.named_parameters() if each.requires_grad}
    assert found == WHOLE | {f"{name}.{factor}" for name in ADAPTED for factor in "AB"}


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_so_many_numbers_learn(rank: int) -> None:
    """r (in + out) for each adapted layer; in · out + out for one that stays whole."""
    network = adapt(Network(), rank)
    found = sum(each.numel() for each in network.parameters() if each.requires_grad)
    narrow = rank * (12 + RANK) if rank < RANK else 12 * RANK + RANK
    assert found == sum(rank * sum(sides) for sides in ADAPTED.values()) + narrow + 12 * 6 + 6


def test_training_changes_the_function_and_no_frozen_number() -> None:
    network = adapt(Network())
    frozen = {name: p.clone() for name, p in network.named_parameters() if not p.requires_grad}
    learning = {name: p.clone() for name, p in network.named_parameters() if p.requires_grad}
    before = network(X, T).detach()
    train(network, steps=2)  # the first moves B alone: A's gradient is Bᵀ times something
    assert (network(X, T) - before).abs().max() > 1e-2
    now = dict(network.named_parameters())
    assert all(torch.equal(now[name], each) for name, each in frozen.items())
    assert not any(torch.equal(now[name], each) for name, each in learning.items())


def weights(network: Network) -> dict[str, Tensor]:
    found = {}
    for name in ADAPTED:
        weight = network.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        found[name] = weight.detach()
    return found


def updates_have_rank(network: Network, rank: int) -> None:
    first = weights(Network())
    for name, weight in weights(network).items():
        values = torch.linalg.svdvals(weight - first[name])
        assert values[rank - 1] > 1e-6, name
        assert values[rank] < 1e-14, name


def test_what_a_layer_learns_has_the_rank_of_its_factors() -> None:
    updates_have_rank(trained(), RANK)


def test_updates_of_another_rank_would_be_seen() -> None:
    for wrong in (Network(), adapt(Network(), RANK + 1)):
        train(wrong)
        with pytest.raises(AssertionError):
            updates_have_rank(wrong, RANK)


def test_factors_learn_the_best_update_of_their_rank() -> None:
    """Which leaves the singular values beyond it (Eckart and Young)."""
    torch.manual_seed(0)
    base = nn.Linear(6, 5, bias=False, dtype=torch.float64)
    wanted = base.weight.detach() + Stream(0).normal(5, 6)
    layer = LowRankLinear(base, RANK)
    optimizer = torch.optim.LBFGS([layer.A, layer.B], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        error: Tensor = (layer(torch.eye(6, dtype=torch.float64)).T - wanted).square().sum()
        error.backward()
        return error

    optimizer.step(loss)
    left = torch.linalg.svdvals(wanted - base.weight)[RANK:].square().sum()
    torch.testing.assert_close(loss().detach(), left.detach(), rtol=1e-6, atol=0)


def test_a_layer_in_several_places_is_still_one() -> None:
    network = adapt(Network())
    assert network.twice[0] is network.twice[2] is network.thrice
    assert isinstance(network.thrice, LowRankLinear)


def test_layers_of_any_type_that_are_zero_stay_whole() -> None:
    silent = nn.Embedding(3, 8)
    nn.init.zeros_(silent.weight)
    network = with_lora(nn.Sequential(silent, nn.Linear(8, 8), nn.Conv1d(8, 8, 1)), 2)
    learning = {name for name, each in network.named_parameters() if each.requires_grad}
    assert learning == {"0.weight", "1.A", "1.B"}


def test_frozen_layers_and_factors_stay_so_when_a_copy_is_made() -> None:
    network = trained()
    copied = copy.deepcopy(network)
    before = network(X, T).detach()
    grads = [[p.requires_grad for p in each.parameters()] for each in (network, copied)]
    assert grads[0] == grads[1]
    train(copied)
    assert torch.equal(network(X, T), before)
    assert not torch.equal(copied(X, T), before)


# Where it works.


def test_a_state_makes_another_network_the_same() -> None:
    network, other = trained(), with_lora(Network(), RANK)
    assert not torch.equal(other(X, T), network(X, T))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(X, T), network(X, T))


def test_factors_have_the_dtype_of_their_layer() -> None:
    network = with_lora(Network().to(torch.bfloat16), RANK)
    assert {each.dtype for each in network.parameters()} == {torch.bfloat16}
    network.float()
    assert network(X.float(), T.float()).dtype == torch.float32


def test_autocast_computes_the_factors_in_low_precision_too() -> None:
    network = trained().float()
    with torch.autocast("cpu", torch.bfloat16):
        found = network(X.float(), T.float())
        layer = network.enter(X.float())
    assert layer.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), network(X.float(), T.float()), rtol=0.1, atol=0.1)


def test_on_the_meta_device_there_are_factors_without_values() -> None:
    with torch.device("meta"):
        network = with_lora(Network(), RANK)
    assert {each.device.type for each in network.parameters()} == {"meta"}
    # Without values none is known to be zero, where nobody watches.
    assert isinstance(network.silent, LowRankLinear)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_as_many_numbers_learn_on_the_meta_device_as_elsewhere(rank: int) -> None:
    def learning(network: Network) -> dict[str, int]:
        return {
            name: each.numel() for name, each in network.named_parameters() if each.requires_grad
        }

    with torch.device("meta"), ZerosOnMeta():
        network = with_lora(Network(), rank)
    assert learning(network) == learning(adapt(Network(), rank))


def test_on_the_meta_device_what_is_written_to_is_zero_no_more() -> None:
    with torch.device("meta"), ZerosOnMeta():
        network = Network()
        nn.init.normal_(network.silent.weight)
    assert isinstance(with_lora(network, RANK).silent, LowRankLinear)


def test_factors_from_the_meta_device_are_drawn_when_there_is_memory() -> None:
    with torch.device("meta"):
        network = with_lora(nn.Sequential(nn.Linear(8, 8)), RANK)
    layer = network.to_empty(device="cpu").get_submodule("0")
    assert isinstance(layer, LowRankLinear)
    layer.reset_parameters()
    assert not layer.B.any()
    assert 0 < float(layer.A.detach().abs().max()) <= 8**-0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_factors_are_drawn_alike_in_every_dtype(dtype: torch.dtype) -> None:
    def drawn(dtype: torch.dtype) -> Tensor:
        layer = nn.Linear(8, 8, dtype=dtype)
        torch.manual_seed(3)
        return LowRankLinear(layer, 4).A.detach()

    with torch.random.fork_rng(devices=[]):
        assert torch.equal(drawn(dtype), drawn(torch.float32).to(dtype))


def test_the_derivative_is_that_of_the_merged_network() -> None:
    network, merged = trained(), Network()
    state = network.state_dict()
    own = {name: state[name] for name in merged.state_dict() if name in state}
    own |= {f"{name}.weight": weight for name, weight in weights(network).items()}
    own |= {"twice.2.weight": own["twice.0.weight"], "thrice.weight": own["twice.0.weight"]}
    own |= {f"{name}.bias": state[f"{name}.base.bias"] for name in ADAPTED if name != "twice.0"}
    merged.load_state_dict(own)
    tangents = torch.ones_like(X), torch.ones_like(T)
    for found, expected in zip(
        torch.func.jvp(network, (X, T), tangents),
        torch.func.jvp(merged, (X, T), tangents),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_layers_that_are_read_and_not_called_count_too(training: bool) -> None:
    """nn.MultiheadAttention reads the weight of its last layer; PyTorch's fast path all."""
    torch.manual_seed(0)
    x = Stream(0).normal(2, 5, 8)
    network = nn.TransformerEncoderLayer(
        8, 2, 16, dropout=0.0, batch_first=True, dtype=torch.float64
    )
    network.train(training)
    before = network(x).detach()
    with_lora(network, 2)
    torch.testing.assert_close(network(x), before, rtol=0, atol=1e-12)
    layer = network.get_submodule("self_attn.out_proj")
    assert isinstance(layer, LowRankLinear)
    network(x).square().sum().backward()
    assert layer.B.grad is not None
    assert layer.B.grad.abs().max() > 0
    nn.init.normal_(layer.B)
    with torch.no_grad():
        assert (network(x) - before).abs().max() > 1e-3


# What is refused.


@pytest.mark.parametrize(
    ("make", "rank", "message"),
    [
        (Network, 0, "rank of low-rank factors must be at least 1, found 0"),
        (Network, 12, "rank 12 can adapt none of the 11 linear layers in Network"),
        (trained, 1, "Network already has low-rank factors"),
        (lambda: nn.Sequential(nn.Conv1d(4, 4, 1)), 1, "none of the 0 linear layers in Sequential"),
        (lambda: nn.Linear(4, 4), 1, "none of the 0 linear layers in Linear"),
    ],
)
def test_what_cannot_be_adapted_is_refused_and_left_alone(
    make: Callable[[], nn.Module], rank: int, message: str
) -> None:
    network = make()
    before = [(name, each.requires_grad) for name, each in network.named_parameters()]
    with pytest.raises(ValueError, match=message):
        with_lora(network, rank)
    assert [(name, each.requires_grad) for name, each in network.named_parameters()] == before


def test_a_rank_above_some_layers_leaves_these_whole() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8))
    with_lora(network, 4)
    assert isinstance(network[0], nn.Linear)
    assert isinstance(network[1], LowRankLinear)
    assert all(each.requires_grad for each in network[0].parameters())
