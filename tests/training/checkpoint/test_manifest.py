"""The manifest, and what is found out by it."""

import json
from pathlib import Path

import pytest

from ffcore.training.checkpoint import CheckpointError, Damaged, Manifest
from ffcore.training.checkpoint.manifest import describe_file
from ffcore.training.checkpoint.name import directory_name


def whole(folder: Path) -> Path:
    """A directory with one small file and its manifest."""
    directory = folder / directory_name(12)
    directory.mkdir()
    (directory / "a.safetensors").write_bytes(b"weights")
    files = {"a.safetensors": describe_file(directory / "a.safetensors")}
    manifest = Manifest(step=12, run={"recipe": "r"}, ranks=2, files=files)
    (directory / "manifest.json").write_text(manifest.to_json())
    return directory


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    found = Manifest.read(whole(tmp_path))
    assert (found.step, found.run, found.ranks) == (12, {"recipe": "r"}, 2)
    assert found.files.keys() == {"a.safetensors"}
    assert found.files["a.safetensors"]["bytes"] == 7
    assert len(found.files["a.safetensors"]["sha256"]) == 64


@pytest.mark.parametrize("bit", range(8))
def test_a_bit_that_flips_anywhere_in_it_is_seen(bit, tmp_path):
    path = whole(tmp_path) / "manifest.json"
    data = path.read_bytes()
    for index in range(len(data)):
        path.write_bytes(data[:index] + bytes([data[index] ^ 1 << bit]) + data[index + 1 :])
        with pytest.raises(Damaged, match=r"^manifest\.json "):
            Manifest.read(path.parent)


def test_a_manifest_of_a_later_format_is_not_taken_for_damage(tmp_path, monkeypatch):
    monkeypatch.setattr("ffcore.training.checkpoint.manifest.FORMAT", 2)
    directory = whole(tmp_path)
    assert json.loads((directory / "manifest.json").read_text())["format"] == 2
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="has checkpoint format 2, but this ffcore reads 1"):
        Manifest.read(directory)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "7", '{"format": 1}', "\udcff"])
def test_what_is_no_manifest_is_damage(text, tmp_path):
    path = whole(tmp_path) / "manifest.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(Damaged, match=r"manifest\.json (cannot be read|differs from what)"):
        Manifest.read(path.parent)
