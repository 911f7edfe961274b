"""Discovery: from entry points to one record per plugin, whatever a plugin does.

The number in the group's name is the major version of the plugin interface: a plugin made for
another one is known as such without importing it. Pluggy's own loader stops at the first plugin
that fails; here each plugin meets a host of its own, and a failure becomes its `cause`.
"""

import os
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Literal

import attrs
import pluggy

from ffcore import hookspecs
from ffcore.plugins.component import Component
from ffcore.plugins.errors import root_cause

GROUP = "ffcore.v1"
DISABLE = "FFCORE_DISABLE_PLUGINS"

State = Literal["active", "disabled", "incompatible", "broken"]


@attrs.frozen(kw_only=True)
class Plugin:
    """A plugin as it was found: where it comes from, its state, and the cause if not active."""

    name: str
    distribution: str
    version: str
    value: str
    state: State
    cause: str | None = None
    components: tuple[Component, ...] = ()

    @property
    def origin(self) -> str:
        """Distribution and version, as in `ffcore 0.1.0`."""
        return f"{self.distribution} {self.version}"


def discover() -> tuple[Plugin, ...]:
    """Every installed plugin of any interface version, sorted by distribution and name.

    Environment: `FFCORE_DISABLE_PLUGINS=a,b` disables plugins by their own name or that of their
    distribution, before anything of theirs is imported.
    """
    disabled = {canonical(name) for name in os.environ.get(DISABLE, "").split(",")}
    found = (_meet(group, entry, disabled) for group, entry in _candidates())
    return tuple(sorted(found, key=lambda plugin: (plugin.distribution, plugin.name)))


def canonical(distribution: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", distribution).strip().lower()


def _candidates() -> Iterator[tuple[str, EntryPoint]]:
    installed = entry_points()
    for group in sorted(installed.groups):
        if re.fullmatch(r"ffcore\.v\d+", group):
            yield from ((group, entry) for entry in installed.select(group=group))


def _meet(group: str, entry: EntryPoint, disabled: set[str]) -> Plugin:
    plugin = Plugin(
        name=entry.name,
        distribution=(entry.dist and entry.dist.name) or "unknown",
        version=(entry.dist and entry.dist.version) or "unknown",
        value=entry.value,
        state="active",
    )
    if {canonical(plugin.name), canonical(plugin.distribution)} & disabled:
        return attrs.evolve(plugin, state="disabled", cause=f"named in {DISABLE}")
    if group != GROUP:
        cause = f"made for plugin interface {group}, this is {GROUP}"
        return attrs.evolve(plugin, state="incompatible", cause=cause)
    try:
        return attrs.evolve(plugin, components=_components(entry))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a stranger's module may raise anything
        return attrs.evolve(plugin, state="broken", cause=root_cause(error))


def _components(entry: EntryPoint) -> tuple[Component, ...]:
    """Import the plugin's module and ask it; raises whatever that raises."""
    host = pluggy.PluginManager("ffcore")
    host.add_hookspecs(hookspecs)
    host.register(entry.load())
    host.check_pending()  # a misspelt hook would otherwise never be called
    if not host.hook.ffcore_components.get_hookimpls():
        raise TypeError(f"{entry.value} implements no hook; possible: ffcore_components")
    return _checked(component for answer in host.hook.ffcore_components() for component in answer)


def _checked(components: Iterable[object]) -> tuple[Component, ...]:
    checked: dict[tuple[str, str], Component] = {}
    for component in components:
        if not isinstance(component, Component):
            raise TypeError(f"ffcore_components must yield Component, found {component!r}")
        if (component.role, component.name) in checked:
            raise ValueError(f"{component.role} {component.name!r} is declared twice")
        checked[component.role, component.name] = component
    return tuple(checked.values())
