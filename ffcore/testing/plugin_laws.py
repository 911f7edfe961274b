"""The laws of a plugin, checked before its components are built."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator

from ffcore.plugins import Plugin, Registry
from ffcore.plugins.discovery import OWN
from ffcore.plugins.metadata import canonical
from ffcore.testing.result import Result, Status

PLUGIN_LAWS = {
    "is-active": "The plugin can be found and imported, and its hook works.",
    "is-light": "Neither its module nor any of its tables imports torch or numpy.",
    "is-summarised": "Every component has a one-line summary.",
    "is-buildable": "Every component has an example that can be built in some setting. It refuses "
    "other settings only with a ValueError.",
    "names-nothing-twice": "No component has the role and name of another plugin's component: "
    "every recipe with that name would have to name the distribution too.",
}
"""Text by name, in the order of their numbers. Add new laws at the end."""

HEAVY = ("torch", "numpy")


def weights(plugins: Iterable[Plugin]) -> dict[str, str]:
    """Return, by plugin, what goes wrong when a new interpreter imports its modules.

    One interpreter checks all plugins first; only if it fails does each get its own.
    """
    modules = {each.name: _modules(each) for each in plugins if each.state == "active"}
    if len(modules) > 1 and not _weight([each for own in modules.values() for each in own]):
        return dict.fromkeys(modules, "")
    return {name: _weight(each) for name, each in modules.items()}


def of_plugin(plugin: Plugin, weight: str, registry: Registry) -> Iterator[Result]:
    """Yield the results of a plugin's own laws; only the first if it is not active.

    `weight` is its fault from `weights`; `registry` has the other plugins.
    """
    label = f"plugin/{plugin.name}"
    active = plugin.state == "active"
    yield plugin_result(label, "is-active", "" if active else f"{plugin.state}: {plugin.cause}")
    if not active:
        return
    yield plugin_result(label, "is-light", weight)
    dull = [
        f"{each.role} {each.name}"
        for each in plugin.components
        if not each.summary.strip() or "\n" in each.summary
    ]
    found = f"the summary is empty or has several lines: {', '.join(dull)}" if dull else ""
    yield plugin_result(label, "is-summarised", found)
    yield plugin_result(label, "names-nothing-twice", _claimed_before(plugin, registry))


def plugin_result(component: str, law: str, fault: str, unchecked: str = "") -> Result:
    """Return the result of a plugin's law."""
    status: Status = "broken" if fault else "not checked" if unchecked else "holds"
    return Result(
        component=component,
        law=law,
        number=f"plugin {1 + list(PLUGIN_LAWS).index(law)}",
        text=PLUGIN_LAWS[law],
        status=status,
        found=fault or unchecked,
    )


def _claimed_before(plugin: Plugin, registry: Registry) -> str:
    """Return which of a plugin's names another plugin has too; ffcore's plugins count as one."""
    if canonical(plugin.distribution) == OWN:
        return ""
    claims = [
        f"plugin {rival.name} ({rival.origin}) also has {each.role} {each.name!r}"
        for each in plugin.components
        for rival in registry.rivals(plugin, each)
    ]
    return f"{'; '.join(claims)}: choose another name" if claims else ""


def _modules(plugin: Plugin) -> list[str]:
    tables = {each.target.partition(":")[0] for each in plugin.components}
    return [plugin.value.partition(":")[0], *sorted(tables)]


def _weight(modules: list[str]) -> str:
    """Return what goes wrong when a new interpreter imports these modules."""
    code = (
        "import importlib, sys\n"
        f"sys.path[:] = {sys.path!r}\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = [each for each in {HEAVY!r} if each in sys.modules]\n"
        "    if heavy:\n"
        "        sys.exit(f'{name} imports ' + ' and '.join(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    return next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
