"""The plugin host: installed plugins, their states and their components' tables."""

from ffcore.plugins.component import ROLES, Component
from ffcore.plugins.discovery import GROUP, Plugin, State, discover
from ffcore.plugins.errors import (
    AmbiguousComponent,
    BrokenPlugin,
    PluginError,
    UnknownComponent,
    UntrustedCode,
)
from ffcore.plugins.hookspecs import hookimpl
from ffcore.plugins.registry import (
    Registry,
    import_object,
    installed,
    path_of_code,
    without_third_parties,
)

__all__ = [
    "GROUP",
    "ROLES",
    "AmbiguousComponent",
    "BrokenPlugin",
    "Component",
    "Plugin",
    "PluginError",
    "Registry",
    "State",
    "UnknownComponent",
    "UntrustedCode",
    "discover",
    "hookimpl",
    "import_object",
    "installed",
    "path_of_code",
    "without_third_parties",
]
