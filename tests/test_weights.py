"""Weights files: named by path or resource, loaded strictly, written whole."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ffcore import weights
from ffcore.weights import Weights, WeightsError, locate, read_weights, write_weights


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def loaded(changes: dict[str, Tensor | None]) -> Weights:
    """The weights of another such network, with some put in place or taken away."""
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    tensors = {**other.state_dict(), **changes}
    present = {name: each for name, each in tensors.items() if each is not None}
    return Weights(present, {}, "some.safetensors", "")


def test_every_parameter_and_buffer_is_loaded() -> None:
    target, source = network(), loaded({"1.running_mean": torch.full((3,), 7.0)})
    source.load_into(target)
    found = target.state_dict()
    assert found.keys() == source.tensors.keys()
    assert all(torch.equal(found[name], each) for name, each in source.tensors.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"0.weight": None}, "missing: 0.weight"),
        ({"1.running_mean": None}, "missing: 1.running_mean"),
        ({"more": torch.zeros(1)}, "left over: more"),
        ({"0.bias": torch.zeros(4)}, r"0.bias: the file has \(4,\), the network \(3,\)"),
        ({"0.bias": torch.zeros(1)}, r"0.bias: the file has \(1,\), the network \(3,\)"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(
    changes: dict[str, Tensor | None], message: str
) -> None:
    target = network()
    before = {name: each.clone() for name, each in target.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        loaded(changes).load_into(target)
    assert all(torch.equal(each, before[name]) for name, each in target.state_dict().items())


def test_all_that_does_not_fit_is_told_at_once() -> None:
    with pytest.raises(WeightsError) as caught:
        loaded({"0.weight": None, "more": torch.zeros(1), "0.bias": torch.zeros(4)}).load_into(
            network()
        )
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("some.safetensors does not fit")
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["missing", "left over", "0.bias"]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"a": torch.randn(3, 2).T, "b": torch.arange(3)}
    write_weights(path, tensors, {"sizes": {"width": 4}, "classes": None})
    file = read_weights(str(path))
    assert file.config == {"sizes": {"width": 4}, "classes": None}
    assert file.tensors.keys() == tensors.keys()
    assert all(torch.equal(file.tensors[name], each) for name, each in tensors.items())
    assert file.source == str(path)


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path, value in ((first, 0.0), (second, 1.0)):
        write_weights(path, {"a": torch.full((2,), value)})
    digests = [read_weights(str(path)).sha256 for path in (first, first, second)]
    assert digests[0] == digests[1] != digests[2]


def test_a_file_of_another_program_has_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    assert read_weights(str(path)).config == {}


def test_a_file_may_be_named_as_a_package_s_resource(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    write_weights(package / "a.safetensors", {"a": torch.ones(1)})
    monkeypatch.syspath_prepend(tmp_path)
    assert locate("some_weights:a.safetensors") == package / "a.safetensors"
    assert read_weights("some_weights:a.safetensors").source == "some_weights:a.safetensors"


def test_a_relative_path_starts_where_the_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weights(tmp_path / "a.safetensors", {"a": torch.ones(1)})
    monkeypatch.chdir(tmp_path)
    assert read_weights("a.safetensors").tensors["a"] == 1


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nowhere.safetensors", "no such weights file: nowhere.safetensors"),
        ("no_such_package:a.safetensors", "no package 'no_such_package' installed"),
        ("ffcore_sit:nowhere.safetensors", "no such weights file: .*ffcore_sit"),
        (".", "no such weights file"),
    ],
)
def test_a_missing_file_is_named(reference: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_weights(reference)


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("content", ["pickle", "checkpoint", "empty", "text", "json"])
def test_what_is_no_safetensors_file_is_refused_and_never_unpickled(
    content: str, tmp_path: Path
) -> None:
    path, mark = tmp_path / "a.safetensors", tmp_path / "mark"
    if content == "pickle":
        path.write_bytes(pickle.dumps(Trap(mark)))
    elif content == "checkpoint":
        torch.save({"model": Trap(mark)}, path)
    else:
        path.write_text({"empty": "", "text": "weights", "json": json.dumps({"a": 1})}[content])
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        read_weights(str(path))
    assert not mark.exists()


def test_a_file_with_broken_configuration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for config in ("{", "[1]"):
        save_file({"a": torch.zeros(2)}, path, {"ffcore": config})
        with pytest.raises(WeightsError, match="cannot be read"):
            read_weights(str(path))


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
