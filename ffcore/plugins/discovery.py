"""Discovery: from entry points to one record per plugin.

The number in the group's name is the major version of the plugin interface, so ffcore recognises a
plugin for another version without importing it. Pluggy's own loader stops at the first plugin that
fails. Here each plugin has its own host, and a failure becomes its `cause`. Imports have no time
limit; their time is recorded.

ffcore cannot survive a module that ends the process (`os._exit`, a crash) or never returns.
`FFCORE_DISABLE_PLUGINS` disables such a plugin before it is imported.
"""

import logging
import os
import reprlib
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import attrs
import pluggy

from ffcore.plugins import hookspecs
from ffcore.plugins.component import Component
from ffcore.plugins.metadata import Entry, canonical, entries
from ffcore.plugins.place import describe_error

_LOG = logging.getLogger(__name__)
GROUP = "ffcore.v1"
DISABLE = "FFCORE_DISABLE_PLUGINS"
THIRD_PARTIES = "third-party"
"""The word in `DISABLE` that stands for every distribution except ffcore."""
OWN = "ffcore"
MOST = 1000
"""Components per plugin, at most: a hook that never stops yielding would fill memory."""

State = Literal["active", "disabled", "incompatible", "broken"]


@attrs.frozen(kw_only=True)
class Plugin:
    """An installed plugin: its origin, its state, and the cause if it is not active."""

    name: str
    distribution: str
    version: str
    value: str
    state: State
    cause: str | None = None
    components: tuple[Component, ...] = ()
    import_seconds: float | None = None
    """Time to import its module and call its hook, in seconds; None if it was not imported. A
    module that several plugins import counts towards the first of them."""

    @property
    def origin(self) -> str:
        """Distribution and version, as in `ffcore 0.1.0`."""
        return f"{self.distribution} {self.version}"


def discover() -> tuple[Plugin, ...]:
    """All installed plugins of any interface version, sorted by distribution and name.

    Environment: `FFCORE_DISABLE_PLUGINS=a,b` disables plugins by name or distribution before they
    are imported; the word `third-party` stands for every distribution except ffcore.
    """
    disabled = {canonical(name) for name in os.environ.get(DISABLE, "").split(",")}
    found = (_meet(entry, disabled) for entry in entries())
    return tuple(sorted(found, key=lambda plugin: (plugin.distribution, plugin.name)))


@contextmanager
def fence() -> Iterator[None]:
    """Send to stderr what this block prints; restore the working directory afterwards.

    Output that a subprocess or a C library writes is not redirected.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:
        here = None
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        with suppress(OSError):
            os.chdir(here or ".")


def _meet(entry: Entry, disabled: set[str]) -> Plugin:
    plugin = Plugin(
        name=entry.name,
        distribution=entry.distribution,
        version=entry.version,
        value=entry.value,
        state="active",
    )
    if cause := _disabling(plugin, disabled):
        return attrs.evolve(plugin, state="disabled", cause=cause)
    if entry.damage is not None:
        return attrs.evolve(plugin, state="broken", cause=entry.damage)
    if entry.group != GROUP:
        cause = f"made for plugin interface {entry.group}, but this ffcore has {GROUP}"
        return attrs.evolve(plugin, state="incompatible", cause=cause)
    start = time.perf_counter()
    found = _outcome(plugin)
    return attrs.evolve(plugin, import_seconds=time.perf_counter() - start, **found)


def _disabling(plugin: Plugin, disabled: set[str]) -> str | None:
    """The reason why a plugin is disabled, if it is."""
    if {canonical(plugin.name), canonical(plugin.distribution)} & disabled:
        return f"named in {DISABLE}"
    if THIRD_PARTIES in disabled and canonical(plugin.distribution) != OWN:
        return f"--no-plugins or {DISABLE}={THIRD_PARTIES} disables third-party plugins"
    return None


def _outcome(plugin: Plugin) -> dict[str, Any]:
    """Import a plugin and call its hook; return the fields that follow."""
    try:
        with fence():
            return {"components": _components(plugin.value)}
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(
            f"while importing plugin {plugin.name!r} ({plugin.origin}); "
            f"{DISABLE}={plugin.distribution} disables it"
        ) from interrupt
    except BaseException as error:  # noqa: BLE001 - a third party's module may raise anything
        _LOG.debug("plugin %r (%s) is broken:", plugin.name, plugin.origin, exc_info=error)
        return {"state": "broken", "cause": describe_error(error)}


def _components(value: str) -> tuple[Component, ...]:
    """Import the plugin's module and call its hook; raises whatever that raises."""
    if not EntryPoint.pattern.match(value):
        raise ValueError(f"the entry point must name a module, found {value!r}")
    host = pluggy.PluginManager("ffcore")
    host.add_hookspecs(hookspecs)
    host.register(EntryPoint("", value, GROUP).load())
    try:
        host.check_pending()  # a misspelt hook would otherwise never be called
    except pluggy.PluginValidationError as error:
        raise TypeError(f"{error}; possible: ffcore_components") from None
    if not host.hook.ffcore_components.get_hookimpls():
        raise TypeError(
            f"{value} implements no hook; possible: ffcore_components, marked by @hookimpl"
        )
    answers = host.hook.ffcore_components()
    if not answers:
        raise TypeError("ffcore_components must return or yield Component, found None")
    return _check(component for answer in answers for component in answer)


def _check(components: Iterable[object]) -> tuple[Component, ...]:
    checked: dict[tuple[str, str], Component] = {}
    for component in components:
        if not isinstance(component, Component):
            found = reprlib.repr(component)
            raise TypeError(f"ffcore_components must yield Component, found {found}")
        if (component.role, component.name) in checked:
            raise ValueError(f"{component.role} {component.name!r} is declared twice")
        if len(checked) == MOST:
            raise ValueError(f"ffcore_components yields more than {MOST} components")
        checked[component.role, component.name] = component
    return tuple(checked.values())
