"""The recipe tables of the trackers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import attrs

from ffcore.keys import key

if TYPE_CHECKING:
    from ffcore.interfaces import Context, Tracker


@attrs.frozen(kw_only=True)
class TensorBoard:
    """Event files for TensorBoard, in the run's directory."""

    def build(self, context: Context) -> Tracker:
        """Return the tracker. Raises MissingFile if the library is not installed."""
        from ffcore_tracking.event_files import EventFiles

        del context
        return EventFiles()


@attrs.frozen(kw_only=True)
class Wandb:
    """A run of Weights & Biases."""

    project: str = key("ffcore", help="project of the run")
    entity: str | None = key(None, help="user or team that owns the project; 'none': you")
    mode: Literal["online", "offline"] | None = key(
        None,
        help=(
            "'offline' stores the run in its directory, for `wandb sync`; 'none': WANDB_MODE, or "
            "online"
        ),
    )

    @classmethod
    def examples(cls) -> Iterator[Wandb]:
        """Yield one that needs no server."""
        yield cls(mode="offline")

    def build(self, context: Context) -> Tracker:
        """Return the tracker.

        Raises MissingFile if the library is not installed, or if an online run has no API key.
        """
        from ffcore_tracking.wandb_run import WandbRun

        del context
        return WandbRun(project=self.project, entity=self.entity, mode=self.mode)
