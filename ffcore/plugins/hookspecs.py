"""The hook that a plugin module implements: version 1 of the plugin interface.

A plugin is a module behind an entry point of the group `ffcore.v1`. ffcore imports it to list what
is installed, so it must import neither torch nor numpy; heavy imports belong behind the targets.
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
    """Return or yield the components that this plugin provides, in any order."""
