"""The exit codes of `ffd`."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit status of every command."""

    OK = 0
    FAILED = 1
    """The command is valid but did not succeed."""
    USAGE = 2
    """The command line or the recipe is invalid."""
    PLUGIN = 3
    """A plugin that the command needs is missing, ambiguous or broken."""
    ENVIRONMENT = 4
    """The machine lacks something: a GPU, memory, disk space."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C. Training finishes its step and writes a checkpoint; a second Ctrl-C stops
    it at once."""
    TERMINATED = 143
    """Stopped by SIGTERM or SIGUSR1, in the same way."""
