"""What `ffd` tells the shell."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit status of every command."""

    OK = 0
    FAILED = 1
    """The command was understood and did not succeed."""
    USAGE = 2
    """An impossible command line, or an invalid recipe."""
    PLUGIN = 3
    """A plugin that was asked for is missing, ambiguous or broken."""
    ENVIRONMENT = 4
    """The machine lacks something: an accelerator, memory, disk space."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C: training after a step and a checkpoint; at once if asked twice."""
    TERMINATED = 143
    """Stopped by SIGTERM or SIGUSR1, likewise."""
