"""Discovery: from entry points to one record per plugin, whatever a plugin does.

The number in the group's name is the major version of the plugin interface: a plugin made for
another one is known as such without importing it. Pluggy's own loader stops at the first plugin
that fails; here each plugin meets a host of its own, and a failure becomes its `cause`. No import
is cut off, however long it takes; its time is kept.

What no host survives is a module that ends the process itself (`os._exit`, a crash) or never
returns. `FFCORE_DISABLE_PLUGINS` leaves it out before anything of it is imported.
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
"""The word in `DISABLE` for every distribution but ffcore itself."""
OWN = "ffcore"
MOST = 1000
"""Components of one plugin: a hook that yields without end is nonsense, and would fill memory."""

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
    import_seconds: float | None = None
    """What importing its module and asking its hook took; None: it was not imported. A module
    that several plugins import counts for the first of them."""

    @property
    def origin(self) -> str:
        """Distribution and version, as in `ffcore 0.1.0`."""
        return f"{self.distribution} {self.version}"


def discover() -> tuple[Plugin, ...]:
    """Every installed plugin of any interface version, sorted by distribution and name.

    Environment: `FFCORE_DISABLE_PLUGINS=a,b` disables plugins by their own name or that of their
    distribution, before anything of theirs is imported; the word `third-party` stands for every
    distribution but ffcore.
    """
    disabled = {canonical(name) for name in os.environ.get(DISABLE, "").split(",")}
    found = (_meet(entry, disabled) for entry in entries())
    return tuple(sorted(found, key=lambda plugin: (plugin.distribution, plugin.name)))


@contextmanager
def fence() -> Iterator[None]:
    """Meanwhile, what a stranger's module prints goes to stderr, and it moves to no other folder.

    Output that a program or a library in C writes directly is not seen here.
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
        cause = f"made for plugin interface {entry.group}, this is {GROUP}"
        return attrs.evolve(plugin, state="incompatible", cause=cause)
    start = time.perf_counter()
    found = _outcome(plugin)
    return attrs.evolve(plugin, import_seconds=time.perf_counter() - start, **found)


def _disabling(plugin: Plugin, disabled: set[str]) -> str | None:
    """What disables a plugin, if anything does."""
    if {canonical(plugin.name), canonical(plugin.distribution)} & disabled:
        return f"named in {DISABLE}"
    if THIRD_PARTIES in disabled and canonical(plugin.distribution) != OWN:
        return f"third parties are disabled, by --no-plugins or {DISABLE}={THIRD_PARTIES}"
    return None


def _outcome(plugin: Plugin) -> dict[str, Any]:
    """Import a plugin and call its hook; return the fields that this decides."""
    try:
        with fence():
            return {"components": _components(plugin.value)}
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(
            f"while plugin {plugin.name!r} ({plugin.origin}) was imported; "
            f"{DISABLE}={plugin.distribution} leaves it out"
        ) from interrupt
    except BaseException as error:  # noqa: BLE001 - a stranger's module may raise anything
        _LOG.debug("plugin %r (%s) is broken:", plugin.name, plugin.origin, exc_info=error)
        return {"state": "broken", "cause": describe_error(error)}


def _components(value: str) -> tuple[Component, ...]:
    """Import the plugin's module and call its hook; raises whatever that raises."""
    if not EntryPoint.pattern.match(value):
        raise ValueError(f"the entry point names no module, found {value!r}")
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
