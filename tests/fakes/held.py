"""`ffd`, which goes on with long work after a certain file is there only when it is asked to stop.

    python held.py FILE COMMAND…

So a test can send its signal in the middle of the work, however fast the machine is.
"""

import sys
import time
from pathlib import Path

from ffcore.cli import main
from ffcore.cli.signals import Signals


def hold(file: Path) -> None:
    """Let whoever asks whether a signal came wait for it, once the file is there."""

    def stop(signals: Signals) -> bool:
        while file.exists() and not signals.code:
            time.sleep(0.01)
        return signals.code != 0

    Signals.stop = stop  # type: ignore[method-assign]


if __name__ == "__main__":
    hold(Path(sys.argv[1]))
    main(sys.argv[2:], prog_name="ffd")
