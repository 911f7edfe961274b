"""Checkpoints: the complete state of a distillation on disk, resumed bit for bit."""

from ffcore.training.checkpoint.checkpoints import Checkpoints, named_whole, restore
from ffcore.training.checkpoint.contents import ema_prefix, tensors_in
from ffcore.training.checkpoint.manifest import CheckpointError, Damaged, Manifest
from ffcore.training.checkpoint.name import foreign, step_of

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Damaged",
    "Manifest",
    "ema_prefix",
    "foreign",
    "named_whole",
    "restore",
    "step_of",
    "tensors_in",
]
