"""A run of Weights & Biases. wandb's own process sends or stores it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ffcore.interfaces import Tracker
from ffcore.system.files import MissingFile, write_text

PATIENCE = 300.0
"""Seconds that the end of a run waits for the last upload."""


class WandbRun(Tracker):
    """One wandb run. The run directory stores its id, so that a resumed run continues it.

    Numbers are plotted over ffcore's step, because wandb's own step cannot go back. Steps that are
    repeated after an interruption appear twice.

    Raises MissingFile if wandb is not installed, or if an online run has no API key.
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
                "tracker 'wandb' is online, but wandb has no API key: run `wandb login`, set "
                "WANDB_API_KEY, or use mode = 'offline'"
            )

    def open(self, folder: Path, run: str, recipe: Mapping[str, Any], step: int) -> None:
        """Start the run, or continue it."""
        del step
        wandb = self.wandb
        self.live = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            name=run,
            id=_id_of(folder / "wandb-id"),
            resume="allow",
            reinit="create_new",  # the calling program may have a run of its own
            dir=str(folder),
            config=dict(recipe),
            settings=wandb.Settings(
                console="off",  # leaves stdout and stderr alone
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
        """End the run; mark it failed unless `finished`."""
        self.live.finish(exit_code=0 if finished else 1)


def _id_of(file: Path) -> str:
    """Return the run's stored id, or a new one."""
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
