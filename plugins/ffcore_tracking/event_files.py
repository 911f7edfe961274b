"""TensorBoard's event files, written by torch's SummaryWriter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from ffcore.interfaces import Tracker
from ffcore.system.files import MissingFile


class EventFiles(Tracker):
    """One event file for each start of the run; TensorBoard reads them as one log.

    Raises MissingFile if tensorboard is not installed.
    """

    def __init__(self) -> None:
        self.writer_of = _import_writer()
        self.writer: Any = None

    def open(self, folder: Path, run: str, recipe: Mapping[str, Any], step: int) -> None:
        """Start a file; TensorBoard then hides steps after `step` in earlier files."""
        del run
        self.writer = self.writer_of(str(folder), purge_step=step + 1 if step else None)
        if step == 0:
            text = tomli_w.dumps(recipe)
            self.writer.add_text("recipe", "".join(f"    {line}\n" for line in text.splitlines()))
        self.writer.flush()

    def track(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write each number as a scalar, immediately: a killed run loses nothing."""
        for name, number in numbers.items():
            self.writer.add_scalar(name, number, step)
        self.writer.flush()

    def show(self, step: int, name: str, picture: Path) -> None:
        """Write the picture into the file."""
        import numpy as np
        from PIL import Image

        with Image.open(picture) as image:
            pixels = np.asarray(image.convert("RGB"))
        self.writer.add_image(name, pixels, step, dataformats="HWC")
        self.writer.flush()

    def close(self, *, finished: bool) -> None:
        """Close the file."""
        del finished
        self.writer.close()


def _import_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingFile(
            f"tracker 'tensorboard' needs tensorboard, which cannot be imported ({error}): "
            "pip install 'ffcore[tracking]'"
        ) from error
    return SummaryWriter
