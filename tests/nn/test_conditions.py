"""Which conditions a network reads, and the refusal of what it would ignore."""

import pytest
import torch
from conditioned import Posed, poses

from ffcore.interfaces import Condition, Context, Labels, NamedConditions, Unconditional
from ffcore.nn.conditions import fields_of, read_fields
from ffcore_mlp.tables import MlpNetwork, MlpStudent
from ffcore_sit.tables import SiTStudent

IMAGES = NamedConditions(["a"], Condition(size=1, image=torch.zeros(1, 1, 4, 4)))


class Weighted(Labels):
    """Labels by another name: how many there are, a network cannot know."""


def test_the_fields_are_those_of_what_is_drawn():
    assert fields_of(poses()) == {"pooled": (3,)}
    assert fields_of(Labels(3)) == {"label": ()}
    assert fields_of(IMAGES) == {"image": (1, 4, 4)}
    assert read_fields("x", Unconditional(), set()) == {}


def test_what_a_network_would_ignore_is_refused():
    with pytest.raises(ValueError, match=r"x cannot read the pooled of .* \(NamedConditions\)"):
        read_fields("x", poses(), {"label"})
    labelled = NamedConditions(["a"], Condition(size=1, label=torch.zeros(1, dtype=torch.long)))
    with pytest.raises(ValueError, match="x cannot read the label of"):
        read_fields("x", labelled, {"label", "pooled"})


@pytest.mark.parametrize("table", [MlpStudent(), MlpNetwork()])
def test_a_perceptron_reads_the_vector_of_a_condition(table):
    context = Context(teacher=Posed(poses()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = table.build(context)
    x, t = torch.zeros(3, 2), torch.ones(3)
    times = (t, t) if isinstance(table, MlpStudent) else (t,)
    out = network(x, *times, poses().of(["left", "right", "left"]))
    torch.testing.assert_close(out[0], out[2], rtol=1e-5, atol=1e-6)
    assert (out[0] - out[1]).abs().max() > 0.01
    with pytest.raises(ValueError, match="mlp cannot read the image"):
        table.build(Context(teacher=Posed(IMAGES)))


def test_a_transformer_of_its_own_sizes_reads_labels_alone():
    sizes = {"input_size": 4, "channels": 1, "width": 8, "depth": 1, "heads": 2}
    table = SiTStudent(sizes=_sizes(sizes))
    with pytest.raises(ValueError, match="a transformer cannot read the pooled"):
        table.build(Context(teacher=Posed(poses(), (1, 4, 4))))


def _sizes(keys):
    from ffcore.nn.size import TransformerSize

    return TransformerSize(**keys)
