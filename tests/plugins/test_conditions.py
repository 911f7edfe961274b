"""Conditions from a file: what is written is read, and anything else is refused."""

import pytest
import torch
from conditioned import poses
from safetensors.torch import save_file

from ffcore.interfaces import Condition, NamedConditions
from ffcore.system.weights import WeightsError, write_weights
from ffcore.testing import check_tables
from ffcore_conditions.file import FIELDS, read_named, write_named
from ffcore_conditions.tables import Named


def prompts() -> NamedConditions:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(4, 3, 5, generator=generator)
    rows = Condition(
        size=4, embedding=tokens, mask=torch.tensor([[True, True, False]] * 4), pooled=tokens[:, 0]
    )
    return NamedConditions(["a red fox", "an owl, at night", "~", "/x"], rows, rows[:1])


@pytest.mark.parametrize("source", [poses(), prompts()])
def test_what_is_written_is_read(tmp_path, source):
    write_named(tmp_path / "c.safetensors", source)
    found = read_named(str(tmp_path / "c.safetensors"))
    assert found.names == source.names
    assert found.fingerprint() == source.fingerprint()
    assert {*found.conditions.tensors()} <= {*FIELDS}


def test_the_table_keeps_every_law(tmp_path):
    write_named(tmp_path / "c.safetensors", prompts())
    table = Named(file=str(tmp_path / "c.safetensors"))
    results = check_tables("conditions/named", "conditions", [table])
    assert [each.found for each in results if each.fails] == []
    assert table.files[0].key == "conditions.file"


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    for tensors, config in (
        ({"pooled": torch.zeros(2, 3)}, {}),
        ({"pooled": torch.zeros(2, 3)}, {"names": "ab"}),
        ({"poled": torch.zeros(2, 3)}, {"names": ["a", "b"]}),
        ({}, {"names": ["a"]}),
    ):
        write_weights(path, tensors, config)
        with pytest.raises(WeightsError, match="is no list of conditions with names"):
            read_named(str(path))
    save_file({"pooled": torch.zeros(2, 3)}, path)
    with pytest.raises(WeightsError, match="is no list of conditions"):
        read_named(str(path))
    for tensors, message in (
        ({"pooled": torch.zeros(3, 3)}, "damaged list .* has 3 rows for 2 samples"),
        ({"null pooled": torch.zeros(1, 3)}, "it holds a null condition alone"),
        ({"pooled": torch.zeros(2, 3), "null image": torch.zeros(1, 3)}, "must be of size 1"),
        ({"pooled": torch.full((2, 3), torch.nan)}, "NaN or infinity"),
    ):
        write_weights(path, tensors, {"names": ["a", "b"]})
        with pytest.raises(WeightsError, match=message):
            read_named(str(path))
