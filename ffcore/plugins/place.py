"""The line of third-party code that an error came from."""

import sysconfig
import traceback
from pathlib import Path
from types import FrameType

from ffcore.plugins.errors import causes, root_cause
from ffcore.plugins.metadata import canonical, entries

OURS = "ffcore"


def describe_error(error: BaseException) -> str:
    """One line: the error, its causes, and the line of third-party code, if any."""
    found = place(error)
    return f"{root_cause(error)}, at {found}" if found else root_cause(error)


def place(error: BaseException) -> str:
    """The innermost line of third-party code in the traceback of `error`: "moon/teacher.py:31".

    Empty if there is none. Third-party code is a plugin of another distribution, or a file that is
    not installed. An error inside a library is attributed to the line that called the library.
    """
    owners = {each.value.partition(":")[0].partition(".")[0]: each for each in entries()}
    strangers = {
        package for package, each in owners.items() if canonical(each.distribution) != OURS
    }
    ours = {OURS, "__main__", *(owners.keys() - strangers)}
    for each in reversed(causes(error)):
        for frame, line in reversed(list(traceback.walk_tb(each.__traceback__))):
            package = _module(frame).partition(".")[0]
            if package in strangers or (package not in ours and _is_of_a_user(frame)):
                return f"{_file(frame)}:{line}"
    return ""


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_of_a_user(frame: FrameType) -> bool:
    """Whether the code is a file that belongs neither to Python nor to an installed library."""
    file = Path(frame.f_code.co_filename)
    folders = map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))
    return file.exists() and not any(file.is_relative_to(folder) for folder in folders)


def _file(frame: FrameType) -> str:
    """The file's path, starting at its top-level package."""
    file = Path(frame.f_code.co_filename)
    levels = _module(frame).count(".") + 1 + (file.name == "__init__.py")
    return "/".join(file.parts[-levels:])
