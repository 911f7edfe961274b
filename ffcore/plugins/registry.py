"""The registry: from a role and a recipe's `type` to a table class."""

import functools
import importlib
import importlib.util
import logging
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

from ffcore.keys import did_you_mean
from ffcore.plugins.component import Component
from ffcore.plugins.discovery import DISABLE, THIRD_PARTIES, Plugin, discover, fence
from ffcore.plugins.errors import (
    AmbiguousComponent,
    BrokenPlugin,
    UnknownComponent,
    UntrustedCode,
)
from ffcore.plugins.metadata import canonical
from ffcore.plugins.place import describe_error

_LOG = logging.getLogger(__name__)
Claim = tuple[Plugin, Component]


@attrs.frozen
class Registry:
    """The installed plugins. A table is imported when a recipe first names it."""

    plugins: tuple[Plugin, ...]
    file: str = ""
    """The file that it reads, whose names stand for components of plugins; "" for what the user
    names, which may be any class."""
    known: Callable[[], Mapping[str, str | None]] = dict
    """Returns the other classes that this file may name, each with the path of its code; None for
    any path. Called only for a class that no plugin provides."""

    @classmethod
    def load(cls) -> "Registry":
        """Discover the installed plugins at each call; `installed()` caches the result."""
        return cls(discover())

    @property
    def components(self) -> tuple[Component, ...]:
        """The components of all active plugins."""
        return tuple(component for _, component in self._claims())

    def find(self, role: str, name: str) -> Component:
        """The component of this role, named `"name"` or `"distribution:name"`.

        Raises `UnknownComponent`, `AmbiguousComponent`, or `BrokenPlugin` if `name` is the name of
        an inactive plugin.
        """
        return self._claim(role, name)[1]

    def table(self, role: str, type_name: str) -> type[Any]:
        """The table class that `type = "…"` names; importing it imports no torch.

        `type_name` is a component's name, `"distribution:name"`, or `"module:Class"` for a class
        without a plugin; the module may be in the current folder. If the part before the colon is
        the name of a distribution with plugins, it is read as one. Raises `PluginError`.
        """
        if self.is_outside(type_name):
            self.check_trusted(f"the {role}", type_name)
            _make_current_folder_importable()
            return _import_table(type_name, f"{role} type {type_name!r}")
        plugin, component = self._claim(role, type_name)
        where = f"{role} {component.name!r} of plugin {plugin.name} ({plugin.origin})"
        return _import_table(component.target, where)

    def is_outside(self, type_name: str) -> bool:
        """Whether a `type` names a class by its module, and not a component of a plugin."""
        left, _, _ = type_name.rpartition(":")
        return bool(left) and not self._is_distribution(left)

    def check_trusted(self, what: str, name: str) -> None:
        """Raise UntrustedCode if the file may not name this `"module:name"`, the code of `what`."""
        if not self.file:
            return
        module = name.rpartition(":")[0]
        code = path_of_code(module)
        known = self.known()
        if name in known and known[name] in (None, code):
            return
        was = known.get(name)
        raise UntrustedCode(
            f"{self.file} names {what} {name!r}, which is not of an installed plugin: it "
            f"would run {code or f'the module {module!r}, which cannot be found here'}"
            + (f". Your run used {was}" if was else "")
            + ". If you trust that code, use --trust (in Python, trust=True)"
        )

    def check_download(self, what: str, address: str) -> None:
        """Raise UntrustedCode if the file may not name this address, from which `what` comes."""
        if self.file and address not in self.known():
            raise UntrustedCode(
                f"{self.file} names {what} {address!r}, which would be downloaded. If you want "
                "that, use --trust (in Python, trust=True), or name your own copy"
            )

    def provider(self, role: str, table: object) -> Claim | None:
        """The plugin and component that provide this table; None if no active plugin does."""
        own = f"{type(table).__module__}:{type(table).__qualname__}"
        for plugin, component in self._claims(role):
            if component.target == own or _resolves_to(component.target, type(table)):
                return plugin, component
        return None

    def type_name(self, role: str, table: object) -> str:
        """The shortest `type` for which `table(role, type)` returns the class of `table`."""
        claim = self.provider(role, table)
        if claim is None:
            return f"{type(table).__module__}:{type(table).__qualname__}"
        plugin, component = claim
        shared = self.rivals(plugin, component)
        return f"{plugin.distribution}:{component.name}" if shared else component.name

    def rivals(self, plugin: Plugin, component: Component) -> list[Plugin]:
        """The other plugins with a component of the same role and name."""
        return [
            other
            for other, each in self._claims(component.role)
            if each.name == component.name and other is not plugin
        ]

    def _claims(self, role: str | None = None) -> list[Claim]:
        return [
            (plugin, component)
            for plugin in self.plugins
            for component in plugin.components
            if role in (None, component.role)
        ]

    def _claim(self, role: str, name: str) -> Claim:
        distribution, _, short = name.rpartition(":")
        claims = [
            (plugin, component)
            for plugin, component in self._claims(role)
            if component.name == short and _is_from(plugin, distribution)
        ]
        if not claims:
            raise self._unknown(role, short, distribution)
        if len(claims) > 1:
            raise _ambiguous(role, short, claims)
        return claims[0]

    def _is_distribution(self, name: str) -> bool:
        return any(_is_from(plugin, name) for plugin in self.plugins)

    def _unknown(self, role: str, name: str, distribution: str) -> UnknownComponent | BrokenPlugin:
        """The error when no active plugin provides `name`; it lists the inactive plugins."""
        inactive = [
            plugin
            for plugin in self.plugins
            if plugin.state != "active" and _is_from(plugin, distribution)
        ]
        for plugin in inactive:
            if plugin.name == name:
                return BrokenPlugin(f"{role} {name!r}: {_excuse(plugin)}")
        known = sorted({component.name for _, component in self._claims(role)})
        message = f"unknown {role} {name!r}" + (f" of {distribution}" if distribution else "")
        message += did_you_mean(name, known)
        message += f" (possible: {', '.join(known) or 'none'})"
        return UnknownComponent("; ".join([message, *map(_excuse, inactive)]))


@functools.cache
def installed() -> Registry:
    """The registry of installed plugins, discovered once per process."""
    return Registry.load()


@contextmanager
def without_third_parties() -> Iterator[None]:
    """Limit `installed()` to ffcore's plugins within this block, in child processes too.

    No other distribution's plugin is imported.
    """
    before = os.environ.get(DISABLE)
    os.environ[DISABLE] = ",".join(filter(None, (before, THIRD_PARTIES)))
    installed.cache_clear()
    try:
        yield
    finally:
        if before is None:
            del os.environ[DISABLE]
        else:
            os.environ[DISABLE] = before
        installed.cache_clear()


def _is_from(plugin: Plugin, distribution: str) -> bool:
    """Whether the plugin belongs to this distribution; an empty name matches all."""
    return not distribution or canonical(plugin.distribution) == canonical(distribution)


def _excuse(plugin: Plugin) -> str:
    return f"plugin {plugin.name!r} ({plugin.origin}) is {plugin.state}: {plugin.cause}"


def _ambiguous(role: str, name: str, claims: list[Claim]) -> AmbiguousComponent:
    owners = " and ".join(f"plugin {p.name} ({p.origin})" for p, _ in claims)
    names = sorted({f"'{p.distribution}:{name}'" for p, _ in claims})
    choice = f"write {' or '.join(names)}, or " if len(names) == len(claims) else ""
    return AmbiguousComponent(
        f"{role} {name!r} is provided by {owners}; {choice}disable a plugin with {DISABLE}"
    )


def import_object(target: str, where: str) -> Callable[..., Any]:
    """The object that `"module:function"` names; the module may be in the current folder.

    Raises `BrokenPlugin`, whose message begins with `where`, unless the object can be called.
    """
    _make_current_folder_importable()
    with _blame(where):
        found = _import(target)
        if not callable(found):
            raise TypeError(f"{target} is of type {type(found).__name__} and cannot be called")
        return found


def path_of_code(module: str) -> str | None:
    """Return the file or folder from which a module's package would be imported; imports nothing.

    None if there is none. The current folder comes last, as it does for recipes.
    """
    package = module.partition(".")[0]
    _make_current_folder_importable()
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # ValueError: a module without a spec, as __main__
        return None
    if spec is None:
        return None
    folders = [*(spec.submodule_search_locations or ())]
    return str(Path(folders[0] if folders else spec.origin or package).resolve())


def _make_current_folder_importable() -> None:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def _import_table(target: str, where: str) -> type[Any]:
    with _blame(where):
        table = _import(target)
        if not (isinstance(table, type) and attrs.has(table)):
            raise TypeError(f"{target} is not an attrs class")
        return attrs.resolve_types(table)


def _import(target: str) -> object:
    module, _, name = target.rpartition(":")
    with fence():
        return _attribute(_module(module), name)


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{name}.".startswith(f"{missing}."):
            raise  # a module that it imports is missing
        parent, _, last = missing.rpartition(".")
        folders = getattr(sys.modules.get(parent), "__path__", []) if parent else None
        near = did_you_mean(last, (each.name for each in pkgutil.iter_modules(folders)))
        raise ModuleNotFoundError(f"{error}{near}", name=missing) from None


@contextmanager
def _blame(where: str) -> Iterator[None]:
    """Raise BrokenPlugin, whose message begins with `where`, for any error in this block."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        _LOG.debug("%s cannot be used:", where, exc_info=error)
        raise BrokenPlugin(f"{where} cannot be used: {describe_error(error)}") from error


def _attribute(module: ModuleType, name: str) -> object:
    if not hasattr(module, name):
        near = did_you_mean(name, vars(module))
        raise AttributeError(f"module {module.__name__} has no attribute {name!r}{near}")
    return getattr(module, name)


def _resolves_to(target: str, table: type) -> bool:
    """Whether `target` is another name of `table`; imports nothing."""
    module, _, name = target.rpartition(":")
    return getattr(sys.modules.get(module), name, None) is table
