"""`ffd`, of which process 1 dies at a step of its first life, as torchrun counts lives.

torchrun … dies.py STEP COMMAND…
"""

import os
import signal
import sys
from typing import Any

from ffcore.cli import main
from ffcore.training.distillation import Distillation

step, first_life = int(sys.argv.pop(1)), os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
plain = Distillation.step


def mortal(self: Distillation) -> Any:
    if self.step_index == step and first_life and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self)


Distillation.step = mortal  # type: ignore[method-assign]
main()
