"""Weights as people have them: which network of a file is read, and which file is refused."""

from __future__ import annotations

import argparse
import datetime
import logging
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from ffcore.keys import StartsFromStudent
from ffcore.plugins import installed
from ffcore.system.layout import read_part, without_prefix
from ffcore.system.parts import AVERAGES, RAW, PartError, asked, choose, kind
from ffcore.system.weights import WeightsError, read_weights

Tensors = dict[str, Tensor]


class Network(nn.Module):
    """Two parameters of one shape, so that an order can be wrong, and a buffer."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(3, 3)
        self.second = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


RAW_WEIGHTS, AVERAGE = Network(1).state_dict(), Network(2).state_dict()
PARAMETERS = [name for name, _ in Network().named_parameters()]
LIST = [AVERAGE[name] for name in PARAMETERS]


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name}": each for name, each in tensors.items()}


def without_dots(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name.replace('.', '')}": each for name, each in tensors.items()}


def only(tensors: Tensors, names: list[str]) -> Tensors:
    return {name: tensors[name] for name in names}


# Every file here holds the average and perhaps the raw weights; the part that must be read.
LAYOUTS: dict[str, tuple[Any, str]] = {
    "the average alone": ({"model_ema": AVERAGE}, "model_ema"),
    "MAR": ({"model": RAW_WEIGHTS, "model_ema": AVERAGE, "epoch": 3}, "model_ema"),
    "SiT": ({"model": RAW_WEIGHTS, "ema": AVERAGE, "opt": {}}, "ema"),
    "BasicSR": ({"params": RAW_WEIGHTS, "params_ema": AVERAGE}, "params_ema"),
    "timm": ({"state_dict": RAW_WEIGHTS, "state_dict_ema": AVERAGE}, "state_dict_ema"),
    "ema_model": ({"net": under("module.", RAW_WEIGHTS), "ema_model": AVERAGE}, "ema_model"),
    "ema_state_dict": ({"model": RAW_WEIGHTS, "ema_state_dict": AVERAGE}, "ema_state_dict"),
    "camel case": ({"model": RAW_WEIGHTS, "modelEMA": AVERAGE}, "modelEMA"),
    "StyleGAN": ({"g": RAW_WEIGHTS, "d": {"a": torch.ones(1)}, "g_ema": AVERAGE}, "g_ema"),
    "nested": ({"ema": {"decay": 0.99, "shadow": AVERAGE}, "model": RAW_WEIGHTS}, "ema.shadow"),
    "its decay beside it": ({"ema": {**AVERAGE, "decay": 0.999}}, "ema"),
    "prefixes": ({"ema": under("ema_model.module.", AVERAGE)}, "ema"),
    "one average of a decay": ({"model": RAW_WEIGHTS, "ema_0.9999": AVERAGE}, "ema_0.9999"),
    "Lightning": (
        {"state_dict": under("model.", RAW_WEIGHTS) | under("ema.", AVERAGE)},
        "state_dict.ema",
    ),
    "Lightning with more": (
        {
            "state_dict": under("net.", RAW_WEIGHTS)
            | under("net_ema.", AVERAGE)
            | under("vae.", {"a.b": torch.ones(1)}),
            "pytorch-lightning_version": "2.5",
        },
        "state_dict.net_ema",
    ),
    "latent diffusion": (
        {
            "state_dict": under("model.", RAW_WEIGHTS)
            | without_dots("model_ema.", only(AVERAGE, PARAMETERS))
            | {"model_ema.decay": torch.tensor(0.9999), "betas": torch.ones(4)}
        },
        "state_dict.model_ema",
    ),
    "ema-pytorch": (
        {
            "ema": under("online_model.", RAW_WEIGHTS)
            | under("ema_model.", AVERAGE)
            | {"initted": torch.tensor(True), "step": torch.tensor(7)}
        },
        "ema.ema_model",
    ),
    "torch's AveragedModel": (
        {
            "model": RAW_WEIGHTS,
            "swa": under("module.", AVERAGE) | {"n_averaged": torch.tensor(9)},
        },
        "swa",
    ),
    "EMAModel": (
        {"model": RAW_WEIGHTS, "ema": {"decay": 0.9999, "shadow_params": LIST}},
        "ema.shadow_params",
    ),
    "EMAModel, of a wrapped network": (
        {"model": under("module.", RAW_WEIGHTS), "ema": {"shadow_params": LIST}},
        "ema.shadow_params",
    ),
    "parameters only": ({"model": RAW_WEIGHTS, "ema": only(AVERAGE, PARAMETERS)}, "ema"),
    "a callback": (
        {"state_dict": under("net.", RAW_WEIGHTS), "callbacks": {"EMA": {"ema_weights": AVERAGE}}},
        "callbacks.EMA.ema_weights",
    ),
}


def saved(content: object, folder: Path) -> str:
    torch.save(content, folder / "layout.pt")
    return str(folder / "layout.pt")


def read_into_network(reference: str, part: str | None = None) -> tuple[str, Tensors]:
    network, weights = Network(), read_weights(reference, part)
    weights.load_into(network)
    return weights.part, network.state_dict()


def equal(found: Tensors, expected: Tensors, names: list[str] | None = None) -> bool:
    return all(torch.equal(found[name], expected[name]) for name in names or expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_average_is_read_in_every_layout(layout: str, tmp_path: Path) -> None:
    content, part = LAYOUTS[layout]
    read, found = read_into_network(saved(content, tmp_path))
    assert read == part
    assert equal(found, AVERAGE, PARAMETERS)


FLAT = {
    part.removeprefix("state_dict."): content["state_dict"]
    for content, part in LAYOUTS.values()
    if part.startswith("state_dict.")
}


@pytest.mark.parametrize("part", FLAT)
def test_a_flat_layout_reads_alike_from_safetensors(part: str, tmp_path: Path) -> None:
    save_file(FLAT[part], tmp_path / "a.safetensors")
    read, found = read_into_network(str(tmp_path / "a.safetensors"))
    assert read == part
    assert equal(found, AVERAGE, PARAMETERS)


RAW_LAYOUTS: dict[str, Any] = {
    "bare": RAW_WEIGHTS,
    "prefixed": under("model.net.", RAW_WEIGHTS),
    "model": {"model": RAW_WEIGHTS, "optimizer": {"state": {0: {"step": torch.ones(())}}}},
    "empty average": {"model": RAW_WEIGHTS, "ema": {}},
    "no average": {"model": RAW_WEIGHTS, "ema": None},
    "an average of nothing": {"model": RAW_WEIGHTS, "ema": {"shadow_params": [], "decay": 0.9}},
    "only its decay": {"model": RAW_WEIGHTS, "ema": 0.9999},
    "Lightning": {"state_dict": under("model.", RAW_WEIGHTS), "hyper_parameters": {"lr": 1.0}},
    "non_ema": {"non_ema": RAW_WEIGHTS},
}


@pytest.mark.parametrize("layout", RAW_LAYOUTS)
def test_raw_weights_are_read_where_there_is_no_average(layout: str, tmp_path: Path) -> None:
    _, found = read_into_network(saved(RAW_LAYOUTS[layout], tmp_path))
    assert equal(found, RAW_WEIGHTS)


def line(content: object, folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO, "ffcore.system.weights"):
        read_into_network(saved(content, folder))
    (record,) = caplog.records
    return record.getMessage().partition("; ")[2]


def test_the_log_says_what_was_taken_and_what_else_was_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw, average = RAW_WEIGHTS, AVERAGE
    both = {"model": raw, "ema": average, "opt": {"state": {}}}
    assert line(both, tmp_path, caplog) == "beside it: model (9 tensors)"
    assert line({"model": raw, "ema": {}}, tmp_path, caplog) == "ema is empty"
    assert line({"model": raw}, tmp_path, caplog) == "no average beside it"
    assert line(raw, tmp_path, caplog) == ""
    assert "removed the prefix net." in line(under("net.", raw), tmp_path, caplog)
    shadow = {"model": raw, "ema": {"shadow_params": LIST}}
    assert "in the order of the parameters among the raw" in line(shadow, tmp_path, caplog)
    assert "took 3 buffers from the raw weights" in line(shadow, tmp_path, caplog)


# A list without names.


class Bare(nn.Module):
    """A network without buffers; `swapped` defines its layers in another order."""

    def __init__(self, swapped: bool = False) -> None:
        super().__init__()
        for name in ("b", "a") if swapped else ("a", "b"):
            self.add_module(name, nn.Linear(2, 2))


def test_a_list_takes_its_names_from_the_raw_weights_of_its_file(tmp_path: Path) -> None:
    """The network that reads may define its layers in another order than the one that trained."""
    trained, reads = Bare(), Bare(swapped=True)
    shadow = [each + 1 for each in trained.state_dict().values()]
    path = saved({"model": trained.state_dict(), "ema": {"shadow_params": shadow}}, tmp_path)
    read_weights(path).load_into(reads)
    assert equal(reads.state_dict(), dict(zip(trained.state_dict(), shadow, strict=True)))


def test_a_list_alone_takes_its_names_from_the_network_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained, reads = Bare(), Bare()
    path = saved({"shadow_params": [*trained.state_dict().values()], "decay": 0.9}, tmp_path)
    with caplog.at_level(logging.INFO):
        read_weights(path).load_into(reads)
    assert equal(reads.state_dict(), trained.state_dict())
    assert "which the file cannot confirm" in caplog.text


def test_a_list_alone_lacks_buffers(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"missing: second\.1\.running_mean"):
        read_into_network(saved({"ema": {"shadow_params": LIST}}, tmp_path))


@pytest.mark.parametrize("wrong", [LIST[:-1], LIST[::-1], [*LIST, torch.ones(1)]])
def test_a_list_that_does_not_fit_is_refused(wrong: list[Tensor], tmp_path: Path) -> None:
    content = {"model": RAW_WEIGHTS, "ema": {"shadow_params": wrong}}
    with pytest.raises(WeightsError, match=r'without names, .*\n.*set part = "model"'):
        read_into_network(saved(content, tmp_path))


def test_a_list_of_tied_parameters_has_each_once(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        network = Bare()
        network.b.weight = network.a.weight
        return network

    trained, reads = tied(), tied()
    shadow = [each.detach() for each in trained.parameters()]
    path = saved({"model": trained.state_dict(), "ema": {"shadow_params": shadow}}, tmp_path)
    read_weights(path).load_into(reads)
    assert equal(reads.state_dict(), trained.state_dict())


# A part by name.


@pytest.mark.parametrize(
    ("content", "part", "expected"),
    [
        ({"model": RAW_WEIGHTS, "ema": AVERAGE}, "model", RAW_WEIGHTS),
        ({"model": RAW_WEIGHTS, "ema": AVERAGE}, "ema", AVERAGE),
        ({"ema_0.999": RAW_WEIGHTS, "ema_0.9999": AVERAGE}, "ema_0.999", RAW_WEIGHTS),
        ({"a": {"b": {"c": RAW_WEIGHTS}}, "ema": AVERAGE}, "a.b.c", RAW_WEIGHTS),
        ({"a": {"b": {"c": RAW_WEIGHTS}}, "ema": AVERAGE}, "a", RAW_WEIGHTS),
        ({"unknown": RAW_WEIGHTS}, "unknown", RAW_WEIGHTS),
        (LAYOUTS["Lightning with more"][0], "state_dict.net", RAW_WEIGHTS),
        (under("net.", RAW_WEIGHTS) | under("vae.", AVERAGE), "net", RAW_WEIGHTS),
        ({"state_dict": under("a.b.", RAW_WEIGHTS)}, "state_dict.a", RAW_WEIGHTS),
        (LAYOUTS["ema-pytorch"][0], "ema", AVERAGE),
        (LAYOUTS["ema-pytorch"][0], "ema.online_model", RAW_WEIGHTS),
    ],
)
def test_part_chooses(content: Any, part: str, expected: Tensors, tmp_path: Path) -> None:
    _, found = read_into_network(saved(content, tmp_path), part)
    assert equal(found, expected)


SMALL = {"a": torch.ones(1)}


@pytest.mark.parametrize(
    ("content", "part", "message"),
    [
        (
            {"ema_0.999": SMALL, "ema_0.9999": SMALL, "model": SMALL},
            None,
            r"holds 2 averages \(EMAs\): ema_0.999 \(1 tensor\), ema_0.9999 \(1 tensor\)\. Name "
            r'one with part, as in part = "ema_0.999"',
        ),
        ({"model_ema1": SMALL, "model_ema2": SMALL}, None, "holds 2 averages"),
        ({"generator": SMALL, "model": SMALL}, None, "holds 2 sets of raw weights: generator"),
        ({"vae": SMALL, "text": SMALL}, None, r"name that ffcore knows, but vae \(1 tensor\), tex"),
        ({"exp_avg": SMALL}, None, "under a name that ffcore knows, but exp_avg"),
        ({"model": SMALL}, "ema", r"has no part 'ema'\. It holds model \(1 tensor\)"),
        ({"model": SMALL, "opt": SMALL}, "opt", "has no part 'opt'"),
        (SMALL, "model", r"has no part 'model'\. It holds the whole \(1 tensor\)"),
        ({"epoch": 1}, "model", r"has no part 'model'\. It holds no tensors"),
        ({"ema": {"a": torch.ones(1), "b": 0.5}}, None, "'ema' holds 'b', a float, among"),
        ({"ema": {"shadow_params": [torch.ones(1), None]}}, None, "holds 1, a NoneType, among"),
    ],
)
def test_what_could_mean_several_or_none_is_refused(
    content: Any, part: str | None, message: str, tmp_path: Path
) -> None:
    path = saved(content, tmp_path)
    with pytest.raises(WeightsError, match=message) as caught:
        read_weights(path, part)
    assert str(caught.value).startswith(path)


def test_an_average_that_does_not_fit_is_not_replaced_by_raw_weights(tmp_path: Path) -> None:
    for wrong in (AVERAGE | {"first.bias": torch.ones(4)}, only(AVERAGE, PARAMETERS[1:])):
        path = saved({"model": RAW_WEIGHTS, "ema": wrong}, tmp_path)
        with pytest.raises(WeightsError, match=r"\(ema\) does not fit") as caught:
            read_into_network(path)
        assert 'to use the raw weights, set part = "model".' in str(caught.value)
        assert equal(read_into_network(path, "model")[1], RAW_WEIGHTS)


def test_no_part_is_recommended_that_does_not_fit_either(tmp_path: Path) -> None:
    content = {"model": SMALL, "ema": {"b": torch.ones(1)}}
    with pytest.raises(WeightsError, match="None of these fits") as caught:
        read_into_network(saved(content, tmp_path))
    assert "set part" not in str(caught.value)


def test_a_prefix_that_fits_is_named_and_not_taken(tmp_path: Path) -> None:
    """Lightning's own layout without an average: which prefix is the network is not said."""
    content = {"state_dict": under("model.", RAW_WEIGHTS) | under("loss.", {"a.b": torch.ones(1)})}
    path = saved(content, tmp_path)
    with pytest.raises(WeightsError, match=r"unexpected: loss\.a\.b") as caught:
        read_into_network(path)
    advice = 'state_dict.model fits the network: to use the raw weights, set part = "state_dict.mo'
    assert advice in str(caught.value)
    assert equal(read_into_network(path, "state_dict.model")[1], RAW_WEIGHTS)


def test_without_another_part_there_is_no_advice(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        read_into_network(saved(AVERAGE | {"a.b": torch.ones(1)}, tmp_path))
    assert str(caught.value).endswith("unexpected: a.b")


def test_names_with_a_prefix_that_the_network_has_stay(tmp_path: Path) -> None:
    target = nn.ModuleDict({"net": nn.ModuleDict({"net": nn.Linear(2, 2)})})
    tensors = {name: each + 1 for name, each in target.state_dict().items()}
    read_weights(saved(tensors, tmp_path)).load_into(target)
    assert equal(target.state_dict(), tensors)


def test_a_network_may_have_what_looks_like_a_counter(tmp_path: Path) -> None:
    class Counts(nn.Linear):
        def __init__(self) -> None:
            super().__init__(1, 1)
            self.register_buffer("step", torch.zeros(()))

    target = Counts()
    content = target.state_dict() | {"step": torch.tensor(5.0)}
    read_weights(saved({"ema": content}, tmp_path)).load_into(target)
    assert target.step == 5


# Values beside tensors.

HARMLESS = {
    "int": np.int64(7),
    "float": np.float32(0.5),
    "bool": np.bool_(True),
    "text": np.str_("a"),
    "time": np.datetime64("2026-01-01"),
    "dtype": np.dtype("float32"),
    "array": np.arange(6.0).reshape(2, 3),
    "texts": np.array(["a", "bc"]),
    "random state": np.random.RandomState(0).get_state(),
    "datetime": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "date": datetime.date(2026, 1, 1),
    "timedelta": datetime.timedelta(1),
    "path": Path("results"),
    "arguments": argparse.Namespace(folder=Path("results"), decay=np.float64(0.5)),
}


@pytest.mark.parametrize("value", HARMLESS)
@pytest.mark.parametrize("zipped", [True, False])
def test_values_of_numpy_and_dates_do_not_hinder(value: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    content = {"ema": AVERAGE, "value": HARMLESS[value]}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert equal(read_into_network(str(path))[1], AVERAGE)


def test_values_of_an_older_numpy_do_not_hinder(tmp_path: Path) -> None:
    """NumPy 1 writes another module's name."""
    reference = saved({"ema": AVERAGE, "step": np.int64(7)}, tmp_path)
    path = tmp_path / "old.pt"
    with zipfile.ZipFile(reference) as new, zipfile.ZipFile(path, "w") as old:
        for entry in new.infolist():
            content = new.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert content.count(b"numpy._core.multiarray") == 1
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            old.writestr(entry, content)
    assert equal(read_into_network(str(path))[1], AVERAGE)


def test_what_is_skipped_is_never_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names in the pickle lead to stand-ins: an array of objects is not even made."""
    skipped: list[type] = []
    from ffcore.system import weights

    for stand_in, _ in weights._SKIPPED:
        skipped.append(stand_in)
    loaded: list[Any] = []
    load = torch.load

    def keeping(*arguments: Any, **options: Any) -> Any:
        loaded.append(load(*arguments, **options))
        return loaded[-1]

    monkeypatch.setattr(torch, "load", keeping)
    read_weights(
        saved({"ema": AVERAGE, "array": HARMLESS["array"], "day": HARMLESS["date"]}, tmp_path)
    )
    assert type(loaded[0]["array"]) in skipped
    assert type(loaded[0]["day"]) in skipped
    assert not vars(loaded[0]["array"])


def test_weights_in_numpy_arrays_are_refused_by_kind(tmp_path: Path) -> None:
    path = saved({"model": {"a": torch.ones(1), "b": np.ones(2)}}, tmp_path)
    with pytest.raises(WeightsError, match=r"'model' holds 'b', a numpy\.ndarray, among"):
        read_weights(path)


# Properties.

NAMES = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3).map(".".join)


@given(st.sets(NAMES, min_size=1), st.lists(st.sampled_from(["net", "model", "ema"]), max_size=3))
def test_a_common_prefix_is_found_whatever_it_is(names: set[str], outer: list[str]) -> None:
    prefix = "".join(f"{each}." for each in outer)
    tensors = {f"{prefix}{name}": torch.ones(1) for name in names}
    found, rest = without_prefix(tensors, names)
    assert (found, rest.keys()) == (prefix, names)


PATHS = st.lists(st.sampled_from(["ema", "model", "a", "online", "shadow"]), max_size=3).map(tuple)


@given(st.dictionaries(PATHS, st.integers(1, 9), min_size=1))
def test_a_choice_is_never_one_of_several(sizes: dict[tuple[str, ...], int]) -> None:
    averages = [path for path in sizes if kind(path) == "average"]
    raw = [path for path in sizes if kind(path) == "raw"]
    candidates = averages or raw
    if [*sizes] == [()]:
        assert choose(sizes) == ()
    elif len(candidates) == 1:
        assert choose(sizes) == candidates[0]
    else:
        with pytest.raises(PartError):
            choose(sizes)


@given(st.dictionaries(PATHS.filter(bool), st.integers(1, 9), min_size=1), st.data())
def test_every_part_can_be_asked_for(sizes: dict[tuple[str, ...], int], data: Any) -> None:
    path = data.draw(st.sampled_from(sorted(sizes)))
    assert asked(sizes, ".".join(path)) == [path]


@pytest.mark.parametrize("name", sorted(RAW))
def test_every_known_name_of_raw_weights_is_raw_and_none_an_average(name: str) -> None:
    assert kind((name,)) == kind((f"{name}_2",)) == "raw"
    assert kind((f"{name}_ema",)) == kind(("ema", name)) == "average"


def wrong_last(sizes: dict[tuple[str, ...], int]) -> tuple[str, ...]:
    return [*sizes][-1]


def wrong_raw(sizes: dict[tuple[str, ...], int]) -> tuple[str, ...]:
    return next((path for path in sizes if kind(path) == "raw"), next(iter(sizes)))


@pytest.mark.parametrize("wrong", [wrong_last, wrong_raw])
def test_the_layouts_catch_a_wrong_choice(
    wrong: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ffcore.system import layout

    monkeypatch.setattr(layout, "choose", wrong)
    parts = [(".".join(read_part(content, None).path), part) for content, part in LAYOUTS.values()]
    assert any(found != expected for found, expected in parts)


# The table in the documents.

DOCUMENT = Path(__file__).parents[2] / "docs" / "weights.md"
ROWS = re.findall(r"^\| `(raw|\{.*\})` \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("content", "expected"), ROWS)
def test_the_documented_layouts_are_read_or_refused_as_said(content: str, expected: str) -> None:
    names = {"raw": RAW_WEIGHTS, "ema": only(AVERAGE, PARAMETERS), "prefixed": under}
    found = eval(content.replace("\\|", "|"), names)
    if refused := re.fullmatch(r"refused: `(.*)`", expected):
        with pytest.raises(PartError, match=re.escape(refused[1])):
            read_part(found, None)
    else:
        part = expected.strip("`").replace("the whole", "")
        assert ".".join(read_part(found, None).path) == part


def test_the_documents_name_every_known_name() -> None:
    text = DOCUMENT.read_text()
    assert len(ROWS) > 20
    assert all(f"`{name}`" in text for name in RAW | AVERAGES)


# The key.


def test_every_table_with_weights_lets_its_user_choose_a_part() -> None:
    """Students start from files of ffcore; the decoder reads published files alone."""
    found = installed()
    tables = {found.table(each.role, each.name) for each in found.components}
    reads = [table for table in tables if "weights" in attrs.fields_dict(table)]
    choose = [table for table in reads if "part" in attrs.fields_dict(table)]
    others = [each for each in reads if each not in choose]
    others = [each for each in others if not issubclass(each, StartsFromStudent)]
    assert [each.__name__ for each in others] == ["SdVae"]
    assert len(choose) >= 6
