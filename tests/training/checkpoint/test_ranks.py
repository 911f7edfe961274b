"""Checkpoints that several ranks write and read together."""

from pathlib import Path

from two_ranks import exchanges, fails, reads, start, writes

from ffcore.training.checkpoint import Manifest


def test_any_number_of_ranks_reads_what_any_other_wrote(tmp_path):
    """One process, two under DDP, two under FSDP2: every one reads every other's, bit for bit."""
    writes(tmp_path / "alone", "alone")
    start(exchanges, tmp_path, "fsdp", ["alone"])
    start(exchanges, tmp_path, "ddp", ["alone", "fsdp"])
    for kind in ("alone", "ddp", "fsdp"):
        reads(tmp_path / kind, "alone")
        step = tmp_path / kind / "step-00000003"
        assert Manifest.read(step).ranks == (1 if kind == "alone" else 2)
        assert not [path for path in step.iterdir() if path.suffix not in {".safetensors", ".json"}]
    # A tensor that both ranks have is written by one of them.
    size = {kind: _bytes(tmp_path / kind / "step-00000003") for kind in ("alone", "ddp")}
    assert size["ddp"] < 1.5 * size["alone"]


def _bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def test_what_fails_in_one_rank_fails_in_all(tmp_path):
    start(fails, tmp_path / "c")
