"""Resuming a run: from which checkpoint, and with which changes.

A checkpoint names the recipe, the teacher, its conditions and the number of data samples of its
training. A run
that resumes with others (--allow-changes) records the checkpoint in its provenance, so that it can
stop and resume again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ffcore.training.checkpoint import CheckpointError, Checkpoints, Manifest
from ffcore.training.distillation import Distillation


def resume(
    checkpoints: Checkpoints,
    distillation: Distillation,
    *,
    accepted: Sequence[Any] = (),
    allow_changes: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> Manifest | None:
    """Restore the newest whole checkpoint into the distillation; None if there is none.

    Args:
        checkpoints: of the run.
        distillation: as it was built.
        accepted: the `run` of past changes; a checkpoint may name one of them instead of
            `checkpoints.run`.
        allow_changes: accept any checkpoint.
        say: gets a sentence about each EMA or network that begins anew or is dropped.

    Raises CheckpointError if no checkpoint is whole, or if the newest whole one belongs to another
    run, has more steps than the run, or does not fit.
    """
    found = checkpoints.newest()
    if found is None:
        return None
    where = f"the checkpoint of step {found.step} in {checkpoints.directory}"
    if found.step > distillation.steps:
        raise CheckpointError(
            f"{where} has more steps than training.steps = {distillation.steps}: "
            f"set it to {found.step} or more"
        )
    different = [name for name in found.run if found.run[name] != checkpoints.run.get(name)]
    if different and not allow_changes and found.run not in accepted:
        raise CheckpointError(
            f"{where} was made with {' and '.join(map(_other, different))}. Restore the original, "
            "or use --allow-changes to resume anyway, or --restart to start again."
        )
    for sentence in checkpoints.restore(found, distillation):
        say(sentence)
    return found


def _other(name: str) -> str:
    return f"other {name}" if name in ("conditions", "data") else f"another {name}"


def note(found: Manifest | None, changed: Sequence[str]) -> dict[str, Any]:
    """Return the record of a change: the keys, and the checkpoint that the run resumed from."""
    return {
        "after_step": found.step if found else 0,
        "changed": list(changed),
        "run": dict(found.run) if found else None,
    }
