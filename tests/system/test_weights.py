"""Weights files: read without running code from them, loaded strictly, written whole."""

import argparse
import ctypes
import fractions
import gc
import json
import logging
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ffcore.system import weights
from ffcore.system.files import MissingFile
from ffcore.system.weights import Weights, WeightsError, read_weights, write_weights


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def loaded(changes: dict[str, Tensor | None]) -> Weights:
    """The weights of another such network, with some put in place or taken away."""
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    tensors = {**other.state_dict(), **changes}
    present = {name: each for name, each in tensors.items() if each is not None}
    return Weights(present, {}, "some.safetensors")


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], each) for name, each in expected.items()
    )


def official(folder: Path, **changes: Any) -> Path:
    """What a training script of the family saves, `ema` and `model` of different values."""
    model, average = nn.Linear(2, 3), nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "model": model.state_dict(),
        "ema": average.state_dict(),
        "opt": optimizer.state_dict(),
        "args": argparse.Namespace(model="SiT-XL/2", resolution=256, cfg_prob=0.1, resume=None),
        "steps": 400_000,
    }
    content |= changes
    path = folder / "last.pt"
    torch.save({name: each for name, each in content.items() if each is not None}, path)
    return path


# Loading.


def test_every_parameter_and_buffer_is_loaded() -> None:
    target, source = network(), loaded({"1.running_mean": torch.full((3,), 7.0)})
    source.load_into(target)
    assert same(target.state_dict(), source.tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"0.weight": None}, "missing: 0.weight"),
        ({"1.running_mean": None}, "missing: 1.running_mean"),
        ({"more": torch.zeros(1)}, "unexpected: more"),
        ({"0.bias": torch.zeros(4)}, r"0.bias: the file has \(4,\), the network \(3,\)"),
        ({"0.bias": torch.zeros(1)}, r"0.bias: the file has \(1,\), the network \(3,\)"),
        (
            {"0.bias": torch.zeros(3, dtype=torch.int64)},
            "0.bias: the file has torch.int64, the network torch.float32",
        ),
        ({"0.bias": torch.ones(3).bool()}, "the file has torch.bool, .* possible: dense float16"),
        ({"0.bias": torch.ones(3).cfloat()}, "the file has torch.complex64, .* possible: dense"),
        ({"0.bias": torch.ones(3).to(torch.float8_e5m2)}, "the file has torch.float8_e5m2, "),
        ({"0.bias": torch.ones(3).to_sparse()}, r"has torch.float32 \(torch.sparse_coo\), "),
        ({"1.running_mean": torch.ones(3).to_sparse()}, r"1.running_mean: .*\(torch.sparse_coo\)"),
        ({"1.num_batches_tracked": torch.ones(()).cfloat()}, "the network torch.int64$"),
        ({"0.bias": torch.tensor([0, 0, torch.nan])}, "1 tensor holds NaN .* first is 0.bias"),
        (
            {"0.weight": torch.full((3, 2), -torch.inf), "1.bias": torch.full((3,), torch.inf)},
            "2 tensors hold NaN or infinity, the first is 0.weight. .* use another checkpoint",
        ),
    ],
    ids=lambda value: "" if isinstance(value, dict) else None,
)
def test_weights_that_do_not_fit_change_nothing(
    changes: dict[str, Tensor | None], message: str
) -> None:
    target = network()
    before = {name: each.clone() for name, each in target.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        loaded(changes).load_into(target)
    assert same(target.state_dict(), before)


def test_all_that_does_not_fit_is_told_at_once() -> None:
    with pytest.raises(WeightsError) as caught:
        loaded({"0.weight": None, "more": torch.zeros(1), "0.bias": torch.zeros(4)}).load_into(
            network()
        )
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("some.safetensors does not fit")
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["missing", "unexpected", "0.bias"]


def test_another_precision_fits() -> None:
    target, source = network(), loaded({"0.bias": torch.full((3,), 0.5, dtype=torch.float16)})
    source.load_into(target)
    assert torch.equal(target.state_dict()["0.bias"], torch.full((3,), 0.5))


def test_a_buffer_may_hold_infinities_as_a_mask_does() -> None:
    target, source = network(), loaded({"1.running_mean": torch.full((3,), torch.inf)})
    source.load_into(target)
    assert same(target.state_dict(), source.tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_number_that_is_not_finite_is_seen_in_any_precision(dtype: torch.dtype) -> None:
    source = loaded({"0.bias": torch.tensor([0, torch.nan, 1], dtype=dtype)})
    with pytest.raises(WeightsError, match=r"the first is 0\.bias"):
        source.load_into(network())


def meta_network() -> nn.Module:
    with torch.device("meta"):
        return network()


def test_a_network_on_the_meta_device_gets_the_tensors_in_their_dtype() -> None:
    target, source = meta_network(), loaded({"0.weight": torch.ones(3, 2, dtype=torch.bfloat16)})
    target.requires_grad_(False)
    source.load_into(target)
    assert same(target.state_dict(), source.tensors)
    assert target.get_parameter("0.weight").data_ptr() == source.tensors["0.weight"].data_ptr()
    assert target.get_parameter("0.weight").dtype == torch.bfloat16
    assert not any(each.requires_grad for each in target.parameters())


def test_what_does_not_fit_leaves_the_meta_device_as_it_was() -> None:
    target = meta_network()
    with pytest.raises(WeightsError, match=r"missing: 0\.weight"):
        loaded({"0.weight": None}).load_into(target)
    assert all(each.is_meta for each in target.state_dict().values())


def test_tied_weights_stay_tied_when_they_leave_the_meta_device() -> None:
    with torch.device("meta"):
        target = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    target[1].weight = target[0].weight
    tensors = {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2), "1.bias": torch.ones(2)}
    Weights(tensors, {}, "some.safetensors").load_into(target)
    assert target[0].weight is target[1].weight
    assert len([*target.parameters()]) == 3


def test_buffers_that_no_file_holds_cannot_be_on_the_meta_device() -> None:
    for target in (meta_network(), network()):
        target.register_buffer("scale", torch.ones(1, device="meta"), persistent=False)
        with pytest.raises(ValueError, match="on the meta device that no file holds: scale"):
            loaded({}).load_into(target)


# The line on what was loaded.


def coverage(source: Weights, target: nn.Module, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO, "ffcore.system.weights"):
        source.load_into(target)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("ffcore.system.weights", logging.INFO)
    return record.getMessage()


def test_what_was_loaded_is_logged_in_one_line_with_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = official(tmp_path)
    into = "all 2 tensors loaded into 2 of 2 parameters"
    expected = f"{path} (ema): {into}; beside it: model (2 tensors)"
    assert coverage(read_weights(str(path)), nn.Linear(2, 3), caplog) == expected


def test_buffers_are_counted_apart(caplog: pytest.LogCaptureFixture) -> None:
    expected = "some.safetensors: all 7 tensors loaded into 4 of 4 parameters and 3 of 3 buffers"
    assert coverage(loaded({}), network(), caplog) == expected


def test_what_was_dropped_is_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    extra: dict[str, Tensor | None] = {f"heads.{i}.bias": torch.zeros(1) for i in range(3)}
    source = (
        loaded({**extra, "step": torch.zeros(1)}).without("heads.*", "absent.*").without("st?p")
    )
    line = coverage(source, network(), caplog)
    assert line.endswith(" 3 of 3 buffers; dropped 3: heads.*; dropped 1: st?p")


def test_a_network_that_does_not_fit_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(WeightsError):
        loaded({"more": torch.zeros(1)}).load_into(network())
    assert not caplog.records


# Leaving tensors out.


def test_tensors_are_dropped_by_pattern_and_remembered() -> None:
    source = loaded({"heads.0": torch.zeros(1), "heads.1": torch.zeros(1), "Heads": torch.ones(1)})
    rest = source.without("heads.*")
    assert rest.tensors.keys() == source.tensors.keys() - {"heads.0", "heads.1"}
    assert rest.dropped == ("heads.0", "heads.1")
    assert rest.without("H*").dropped == ("heads.0", "heads.1", "Heads")
    assert (rest.source, rest.config, rest.part) == (source.source, source.config, source.part)


def test_patterns_that_match_nothing_drop_nothing() -> None:
    source = loaded({})
    assert source.without() is source
    assert source.without("heads.*").tensors == source.tensors
    assert source.without("heads.*").notes == source.notes == ()


# Safetensors.


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"a": torch.randn(3, 2).T, "b": torch.arange(3)}
    write_weights(path, tensors, {"sizes": {"width": 4}, "classes": None})
    file = read_weights(str(path))
    assert file.config == {"sizes": {"width": 4}, "classes": None}
    assert same(file.tensors, tensors)
    assert (file.source, file.part) == (str(path), "")


def test_a_file_of_another_program_has_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    assert read_weights(str(path)).config == {}


@pytest.mark.parametrize("length", range(120, 136, 8))
def test_no_length_of_the_header_is_taken_for_a_pickle(tmp_path: Path, length: int) -> None:
    """A header of 128 bytes begins as pickles do."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + b"\0\0\x80\x3f")
    assert same(read_weights(str(path)).tensors, {"a": torch.ones(1)})


def test_a_file_with_broken_configuration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for config in ("{", "[1]"):
        save_file({"a": torch.zeros(2)}, path, {"ffcore": config})
        with pytest.raises(WeightsError, match="cannot be read"):
            read_weights(str(path))


def test_a_file_may_be_named_as_a_package_s_resource(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    write_weights(package / "a.safetensors", {"a": torch.ones(1)})
    monkeypatch.syspath_prepend(tmp_path)
    assert read_weights("some_weights:a.safetensors").source == "some_weights:a.safetensors"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"no such file: .*nowhere\.safetensors"):
        read_weights(str(tmp_path / "nowhere.safetensors"))


# Torch files.


def test_of_a_training_checkpoint_the_average_is_read(tmp_path: Path) -> None:
    path = official(tmp_path)
    content = torch.load(path, weights_only=False)
    assert not same(content["ema"], content["model"])
    file = read_weights(str(path))
    assert same(file.tensors, content["ema"])
    assert (file.part, file.config, file.source) == ("ema", {}, str(path))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({}, "ema"),
        ({"ema": None}, "model"),
        ({"ema": {}, "other": {"c": torch.ones(1)}}, "model"),
        ({"ema": None, "model": None, "state_dict": {"c": torch.ones(1)}}, "state_dict"),
    ],
)
def test_the_part_that_was_taken_is_kept(
    tmp_path: Path, changes: dict[str, Any], part: str
) -> None:
    path = official(tmp_path, **changes)
    file = read_weights(str(path))
    assert file.part == part
    assert same(file.tensors, torch.load(path, weights_only=False)[part])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.ckpt", "a.bin", "a", "a.safetensors"])
def test_a_bare_state_dict_is_read_whatever_its_file_is_called(
    tmp_path: Path, name: str, zipped: bool
) -> None:
    tensors = OrderedDict(a=torch.randn(3, 2).T, b=torch.arange(3), c=nn.Parameter(torch.ones(2)))
    path = tmp_path / name
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    file = read_weights(str(path))
    assert same(file.tensors, tensors)
    assert file.part == ""
    assert not any(each.requires_grad for each in file.tensors.values())


def test_safetensors_are_read_whatever_their_file_is_called(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_weights(path, {"a": torch.ones(2)}, {"b": 1})
    assert read_weights(str(path)).config == {"b": 1}


def test_a_training_checkpoint_of_the_old_format_is_read(tmp_path: Path) -> None:
    path = official(tmp_path)
    content = torch.load(path, weights_only=False)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(path)
    file = read_weights(str(path))
    assert file.part == "ema"
    assert same(file.tensors, content["ema"])


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module._orig_mod."]
)
def test_prefixes_of_wrappers_are_taken_off(tmp_path: Path, prefix: str) -> None:
    tensors = {"module_list.a": torch.ones(1), "b": torch.zeros(1)}
    wrapped = {f"{prefix}{name}": each for name, each in tensors.items()}
    torch.save({"ema": wrapped}, tmp_path / "a.pt")
    save_file(wrapped, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        assert same(read_weights(str(tmp_path / name)).tensors, tensors)


def test_a_prefix_that_only_some_names_bear_is_part_of_them(tmp_path: Path) -> None:
    tensors = {"module.a": torch.ones(1), "b": torch.zeros(1)}
    torch.save(tensors, tmp_path / "a.pt")
    assert same(read_weights(str(tmp_path / "a.pt")).tensors, tensors)


def test_names_in_files_of_our_own_stay_as_they_were_written(tmp_path: Path) -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(1, 1)

    target = Wrapper()
    write_weights(tmp_path / "a.safetensors", target.state_dict())
    read_weights(str(tmp_path / "a.safetensors")).load_into(target)


def test_a_file_written_elsewhere_is_read_on_the_cpu(tmp_path: Path) -> None:
    """The pickle says "cuda:0" where a published file says so; no such device is needed."""
    plain, path = tmp_path / "plain.pt", tmp_path / "a.pt"
    torch.save({"a": torch.ones(2)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert content.count(b"\x03\0\0\0cpu") == 1
                content = content.replace(b"\x03\0\0\0cpu", b"\x06\0\0\0cuda:0")
            new.writestr(entry, content)
    assert read_weights(str(path)).tensors["a"].device.type == "cpu"


def resident() -> int:
    """Bytes of memory that this process holds and no file backs, or did not have to."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed must not serve what is asked for next
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory through /proc")
@pytest.mark.parametrize("reader", ["ours", "without mapping"])
def test_the_optimizer_s_state_is_never_brought_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    size, kept, load = 64 << 20, [], torch.load
    state = torch.zeros(size, dtype=torch.uint8)  # which keeps its memory for itself
    path = official(tmp_path, opt={"state": state})

    def keeping(file: object, **options: Any) -> object:
        if reader == "without mapping":
            options["mmap"] = False
        kept.append(load(file, **options))
        return kept[-1]

    monkeypatch.setattr(torch, "load", keeping)
    before = resident()
    read_weights(str(path))
    grown = resident() - before
    assert len(kept) == 1
    assert (grown > size // 2) == (reader == "without mapping")  # the check sees what it is for


def test_tensors_that_are_mapped_do_not_write_to_the_file(tmp_path: Path) -> None:
    path = official(tmp_path)
    before = path.read_bytes()
    read_weights(str(path)).tensors["bias"].fill_(7.0)
    assert path.read_bytes() == before


def test_a_checkpoint_that_was_compressed_is_read_and_not_mapped(tmp_path: Path) -> None:
    path, packed = official(tmp_path), tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert same(read_weights(str(packed)).tensors, read_weights(str(path)).tensors)


# What is refused.


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.mark,))


class Shell:
    """Unpickled, it runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        import os

        return (os.system, (f"touch '{self.mark}'",))


class Evaluates:
    """Unpickled, it evaluates an expression."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (eval, (f"__import__('pathlib').Path({str(self.mark)!r}).touch()",))


WRITERS: dict[str, Callable[[object, Path], None]] = {
    "zip": lambda content, path: torch.save({"model": {}, "args": content}, path),
    "zip, whole": torch.save,
    "old format": lambda content, path: torch.save(
        content, path, _use_new_zipfile_serialization=False
    ),
    "plain pickle": lambda content, path: path.write_bytes(pickle.dumps(content, 2)) and None,
    "new pickle": lambda content, path: path.write_bytes(pickle.dumps(content)) and None,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    ("trap", "asked"), [(Trap, "getattr"), (Shell, "posix.system"), (Evaluates, "eval")]
)
@pytest.mark.parametrize("name", ["last.pt", "last.safetensors"])
def test_a_pickle_that_would_run_code_is_refused_with_the_reason(
    tmp_path: Path, writer: str, trap: Callable[[Path], object], asked: str, name: str
) -> None:
    path, mark = tmp_path / name, tmp_path / "mark"
    WRITERS[writer](trap(mark), path)
    with pytest.raises(WeightsError) as caught:
        read_weights(str(path))
    assert not mark.exists()
    message = str(caught.value)
    assert message.startswith(f"{path} is refused: ")
    if writer != "new pickle":  # which torch's unpickler does not read so far
        assert f"its pickle names {asked}, " in message
        assert "can run any code" in message
    assert "safetensors.torch.save_file" in message
    assert "in the environment that made it" in message
    assert "weights_only" not in message
    assert "add_safe_globals" not in message


def test_the_traps_would_run(tmp_path: Path) -> None:
    for kind in (Trap, Shell, Evaluates):
        mark = tmp_path / kind.__name__
        torch.save(kind(mark), tmp_path / "a.pt")
        torch.load(tmp_path / "a.pt", weights_only=False)
        assert mark.exists()


def test_any_other_class_is_refused_by_name(tmp_path: Path) -> None:
    path = official(tmp_path, args=argparse.Namespace(decay=fractions.Fraction(1, 2)))
    with pytest.raises(WeightsError, match=r"its pickle names fractions\.Fraction, "):
        read_weights(str(path))


def test_namespaces_are_let_in_while_weights_are_read_and_no_longer(tmp_path: Path) -> None:
    read_weights(str(official(tmp_path)))
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/data.pkl", "a/constants.pkl", "a/code/x.py"):
            archive.writestr(name, b"")
    with pytest.raises(WeightsError, match=r"TorchScript .* save its state_dict\(\)"):
        read_weights(str(path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (
            b"weights",
            "cannot be read as safetensors or as a torch file: it starts with b'weights'",
        ),
        (json.dumps({"a": 1}).encode(), "cannot be read as safetensors or as a torch file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "`git lfs pull`"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"\x10\0\0\0\0\0\0\0{", "cannot be read as safetensors: "),
        (b"\x08\0\0\0\0\0\0\0{garbage", "cannot be read as safetensors: "),
        (b"PK\3\4 and no more", "is damaged or incomplete"),
        (b"\x80\x02", "is damaged or incomplete"),
        (b"\x80\x02X\1\0\0\0a{", "is refused: it is not a pickle of torch"),
        (b"\x80\x02}q\0.", "is damaged or incomplete: Invalid magic number"),
    ],
)
def test_what_is_no_weights_file_is_told(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_weights(str(path))
    assert str(caught.value).startswith(f"{path} ")
    assert expected in str(caught.value)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["zip", "old format", "safetensors"])
def test_a_file_that_was_cut_short_is_told(tmp_path: Path, kind: str, part: float) -> None:
    path, tensors = tmp_path / "a", {"a": torch.ones(1000)}
    if kind == "safetensors":
        write_weights(path, tensors)
    else:
        torch.save({"model": tensors}, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    read_weights(str(path))
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(WeightsError, match="cannot be read"):
        read_weights(str(path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([torch.ones(1)], "holds a list, not a dict of tensors"),
        (torch.ones(1), "holds a Tensor, not a dict of tensors"),
        ({}, "holds no weights: .* It holds an empty dict"),
        ({"opt": {}, "epoch": 3}, r"no weights: .* It holds opt \(dict\), epoch \(int\)\."),
        ({str(i): i for i in range(20)}, r"7 \(int\) and 12 more\."),
        ({"ema": None, "epoch": 3}, r"It holds ema \(NoneType\), epoch \(int\)"),
        ({"ema": 0.999}, r"no weights: .* It holds ema \(float\)"),
        ({"ema": {"a": torch.ones(1), "b": 0.999}}, "'ema' holds 'b', a float, among"),
        ({0: torch.ones(1)}, "holds 0, a Tensor, among its tensors"),
        ({"a": torch.ones(1, device="meta")}, "only the shape of a"),
    ],
)
def test_a_torch_file_without_a_dict_of_tensors_is_told(
    tmp_path: Path, content: object, expected: str
) -> None:
    path = tmp_path / "a.pt"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=expected) as caught:
        read_weights(str(path))
    assert str(path) in str(caught.value)


def test_an_archive_of_something_else_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    with pytest.raises(WeightsError, match="a zip archive but not a torch file"):
        read_weights(str(path))


# Writing.


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    write_weights(path, {"a": torch.ones(2)})
    old = path.read_bytes()

    def full(tensors: object, partial: Path, metadata: object) -> None:
        partial.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        write_weights(path, {"a": torch.zeros(2)})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_takes_the_place_of_the_old_at_once(tmp_path: Path) -> None:
    """Who has the old one open reads it to its end: it is replaced, not written over."""
    path, link = tmp_path / "a.safetensors", tmp_path / "link"
    write_weights(path, {"a": torch.ones(2)})
    old = path.read_bytes()
    link.hardlink_to(path)
    write_weights(path, {"a": torch.zeros(2)})
    assert link.read_bytes() == old != path.read_bytes()


def test_a_written_file_can_be_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_weights(path, {"a": torch.ones(2)})
    assert path.stat().st_mode & 0o777 == 0o644
