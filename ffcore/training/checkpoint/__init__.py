"""Checkpoints: the complete state of a distillation on disk, resumed bit for bit."""

from ffcore.training.checkpoint.checkpoints import Checkpoints
from ffcore.training.checkpoint.manifest import CheckpointError, Damaged, Manifest
from ffcore.training.checkpoint.name import foreign

__all__ = ["CheckpointError", "Checkpoints", "Damaged", "Manifest", "foreign"]
