"""A run of Weights & Biases, which its own library sends or keeps, from a process of its own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ffcore.interfaces import Tracker
from ffcore.system.files import MissingFile, write_text

PATIENCE = 300.0
"""Seconds that the end of a run waits for a server to take the rest."""


class WandbRun(Tracker):
    """One wandb run, whose id the run directory keeps: a resumed run goes on in it.

    Numbers stand over ffcore's step, not over wandb's own, which cannot go back: steps that are
    made again after an interruption stand there twice.

    Raises MissingFile where wandb is not installed, and where an online run has no API key.
    """

    def __init__(
        self, *, project: str, entity: str | None, mode: Literal["online", "offline"] | None
    ) -> None:
        self.wandb = _import_wandb()
        self.project, self.entity, self.mode = project, entity, mode
        self.live: Any = None
        if (mode or os.environ.get("WANDB_MODE", "online")) == "online":
            self._require_key()

    def _require_key(self) -> None:
        if self.wandb.run is None and not self.wandb.login(prompt=False, verify=False):
            raise MissingFile(
                "tracker 'wandb' is online, and wandb knows no API key here: `wandb login` stores "
                "one, WANDB_API_KEY names one, mode = 'offline' needs none"
            )

    def open(self, folder: Path, run: str, recipe: Mapping[str, Any], step: int) -> None:
        """Begin the run, or go on with it."""
        del step
        wandb = self.wandb
        self.live = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            name=run,
            id=_id_of(folder / "wandb-id"),
            resume="allow",
            reinit="create_new",  # beside a run that the calling program may have
            dir=str(folder),
            config=dict(recipe),
            settings=wandb.Settings(
                console="off",  # stdout and stderr stay as they are
                silent=True,
                disable_git=True,
                save_code=False,
                finish_timeout=PATIENCE,
            ),
        )
        self.live.define_metric("*", step_metric="step")

    def track(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log the numbers at a step."""
        self.live.log({"step": step, **numbers})

    def show(self, step: int, name: str, picture: Path) -> None:
        """Log the picture at a step."""
        self.live.log({"step": step, name: self.wandb.Image(str(picture))})

    def close(self, *, finished: bool) -> None:
        """End the run; as failed where it is not `finished`, until it goes on."""
        self.live.finish(exit_code=0 if finished else 1)


def _id_of(file: Path) -> str:
    """Return the id that this run has had before, or a new one."""
    if not file.exists():
        write_text(file, secrets.token_hex(4))
    return file.read_text().strip()


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise MissingFile(
            f"tracker 'wandb' needs wandb, which cannot be imported ({error}): "
            "pip install 'ffcore[tracking]'"
        ) from error
    return wandb
