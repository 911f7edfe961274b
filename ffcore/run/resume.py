"""Resuming a run: from which checkpoint, and what may have changed since.

A checkpoint names what it was trained with: the recipe, the teacher, the number of data samples. A
run that goes on with others (--allow-changes) records in its provenance what it went on from, so
that it can stop and resume again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ffcore.training.checkpoint import CheckpointError, Checkpoints, Manifest
from ffcore.training.distillation import Distillation


def resume(
    checkpoints: Checkpoints,
    distillation: Distillation,
    *,
    accepted: Sequence[Any] = (),
    allow_changes: bool = False,
) -> Manifest | None:
    """Restore the newest whole checkpoint into the distillation; None if there is none.

    Args:
        checkpoints: of the run.
        distillation: as it was built.
        accepted: the `run` of past changes, which a checkpoint may name instead of
            `checkpoints.run`.
        allow_changes: accept whatever it names.

    Raises CheckpointError if the checkpoint is of another run, has more steps than the run, or does
    not fit, and if no checkpoint is whole.
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
            f"{where} was made with another {' and another '.join(different)}. Put back what was "
            "there, or use --allow-changes to go on all the same, or --restart to begin again."
        )
    checkpoints.restore(found, distillation)
    return found


def note(found: Manifest | None, changed: Sequence[str]) -> dict[str, Any]:
    """Return the record of a change: the keys, and the checkpoint that the run went on from."""
    return {
        "after_step": found.step if found else 0,
        "changed": list(changed),
        "run": dict(found.run) if found else None,
    }
