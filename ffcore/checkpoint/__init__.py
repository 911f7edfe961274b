"""Checkpoints: a distillation on the disk, whole, and resumed bit for bit."""

from ffcore.checkpoint.checkpoints import Checkpoints, foreign
from ffcore.checkpoint.manifest import CheckpointError, Damaged, Manifest

__all__ = ["CheckpointError", "Checkpoints", "Damaged", "Manifest", "foreign"]
