"""The command line, `ffd`. Importing it imports click and nothing heavier."""

from ffcore.cli.commands import main
from ffcore.cli.exit_codes import ExitCode

__all__ = ["ExitCode", "main"]
