"""What a plugin module may implement. Version 1 of the plugin interface is this file.

A plugin is a module behind an entry point of the group `ffcore.v1`. It is imported to list what
is installed, so it imports neither torch nor numpy: everything heavy stays behind the targets.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from ffcore.plugins.component import Component

hookspec = pluggy.HookspecMarker("ffcore")
hookimpl = pluggy.HookimplMarker("ffcore")


@hookspec
def ffcore_components() -> "Iterable[Component]":  # type: ignore[empty-body]
    """The components that this plugin brings, in any order; a generator will do."""
