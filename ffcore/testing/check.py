"""Check components: every law of their role, in every setting that they accept.

    for result in check_distribution("ffcore-coin"):
        print(result.component, result.law, result.status)

It downloads nothing, and restores global state after every law.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ffcore.interfaces import Teacher
from ffcore.plugins import Component, Plugin, PluginError, Registry
from ffcore.plugins.metadata import canonical
from ffcore.plugins.place import describe_error, place
from ffcore.recipe.needs import CONDITIONS
from ffcore.system.files import MissingFile, locate_all
from ffcore.testing import process
from ffcore.testing.answers import arguments
from ffcore.testing.case import (
    KINDS,
    OBJECTIVES,
    RANGE,
    SETTINGS,
    SETTLED,
    Case,
    Setting,
    examples,
    words,
)
from ffcore.testing.expected import as_expected
from ffcore.testing.law import Broken, Law, NotChecked
from ffcore.testing.laws import laws_of
from ffcore.testing.plugin_laws import of_plugin, plugin_result, weights
from ffcore.testing.result import Result, Status

_LOG = logging.getLogger(__name__)
GATES = ("is-of-its-role", "answers-as-its-role-does")
"""Laws that must hold before the others are checked."""
Progress = Callable[[str], None]


def check_distribution(
    name: str,
    *,
    expected: Mapping[str, str] | None = None,
    registry: Registry | None = None,
    progress: Progress = lambda what: None,
) -> list[Result]:
    """Check everything that a distribution registers.

    Args:
        name: the distribution, or one of its plugins.
        expected: reasons for known failures by name; see `as_expected`.
        registry: the plugins; by default the installed ones, discovered now.
        progress: called with the name of each component before it is checked.

    Raises PluginError if no plugin has that name or all are disabled, and ExpectationError.
    """
    registry = registry or Registry.load()
    asked = canonical(name)
    plugins = [
        each
        for each in registry.plugins
        if asked in (canonical(each.distribution), canonical(each.name))
    ]
    if not plugins:
        known = ", ".join(sorted({each.distribution for each in registry.plugins})) or "none"
        raise PluginError(f"no plugin of {name!r} is installed (distributions: {known})")
    if all(each.state == "disabled" for each in plugins):
        raise PluginError(f"{name!r} cannot be checked because it is disabled: {plugins[0].cause}")
    heavy = weights(plugins)
    found: list[Result] = []
    for plugin in plugins:
        progress(f"plugin {plugin.name}")
        found += of_plugin(plugin, heavy.get(plugin.name, ""), registry)
        for component in plugin.components:
            progress(f"{component.role} {component.name}")
            found += _of_component(plugin, component, registry)
    return as_expected(found, expected or {})


def check_class(
    target: str,
    role: str | None = None,
    *,
    conditions: str | None = None,
    expected: Mapping[str, str] | None = None,
) -> list[Result]:
    """Check one table class, "module:Class", which needs no plugin.

    Args:
        target: the class.
        role: its role; by default the object that `build` returns decides.
        conditions: the `type` of a table [conditions], for a teacher that needs one.
        expected: reasons for known failures by name; see `as_expected`.

    Raises PluginError if there is no such class, ValueError if its role is unclear, and
    ExpectationError.
    """
    registry = Registry.load()
    table = registry.table(role or "component", target)
    beside = list(_of_conditions(conditions, registry)) if conditions else []
    try:
        tables = examples(table)
    except Exception as error:  # noqa: BLE001 - third-party code may raise anything
        label = f"{role or 'component'}/{table.__qualname__}"
        found = [plugin_result(label, "is-buildable", describe_error(error))]
        return as_expected(found, expected or {})
    role = role or _role(target, tables, [*beside, *SETTINGS])
    label = f"{role}/{table.__qualname__}"
    return as_expected(check_tables(label, role, tables, [*beside, *SETTINGS]), expected or {})


def check_tables(
    label: str, role: str, tables: Iterable[Any], settings: Iterable[Setting] = SETTINGS
) -> list[Result]:
    """Check instances of a component's table against all laws of its role.

    Args:
        label: its name in the results, such as "student/mlp".
        role: its role.
        tables: at least one.
        settings: settings to build it in.
    """
    present: list[Any] = []
    missing = ""
    for table in tables:
        if why := _missing(table):
            missing = why
        else:
            present.append(table)
    if not present:
        return _unchecked(label, role, plugin_result(label, "is-buildable", "", missing))
    try:
        cases, refusals, fault = _cases(role, present, list(settings))
    except MissingFile as error:  # a library of an extra that is not installed
        return _unchecked(label, role, plugin_result(label, "is-buildable", "", str(error)))
    if fault or not cases:
        fault = fault or f"every setting is refused: {'; '.join(refusals) or 'there is none'}"
        return _unchecked(label, role, plugin_result(label, "is-buildable", fault))
    results = [plugin_result(label, "is-buildable", "")]
    for law in laws_of(role):
        if any(each.law in GATES and each.fails for each in results):
            results.append(_result(label, law, "not checked", "it breaks an earlier law"))
        else:
            results.append(_judge(label, law, cases, len(present) > 1))
    return results


def _of_component(plugin: Plugin, component: Component, registry: Registry) -> list[Result]:
    role, label = component.role, f"{component.role}/{component.name}"
    try:
        tables = examples(registry.table(role, f"{plugin.distribution}:{component.name}"))
        needed = frozenset[str]().union(*(words(table, "needs") for table in tables))
    except Exception as error:  # noqa: BLE001 - third-party code may raise anything
        return _unchecked(label, role, plugin_result(label, "is-buildable", describe_error(error)))
    settings = _teachers(plugin, needed, registry) if role not in SETTLED else ()
    if role == "teacher" and needed:
        settings = _all_conditions(needed, registry)
    return check_tables(label, role, tables, (*SETTINGS, *settings))


def _teachers(plugin: Plugin, needed: frozenset[str], registry: Registry) -> Iterator[Setting]:
    """Settings with the plugin's own teachers, and with teachers that offer what is needed."""
    common = frozenset[str]().union(*(each.offers for each in SETTINGS))
    for other in registry.plugins:
        for component in other.components:
            if component.role != "teacher":
                continue
            for table in _examples(other, component, registry):
                if other == plugin or (needed - common) & words(table, "offers"):
                    yield from _settings(component.name, table, registry)


def _all_conditions(needed: frozenset[str], registry: Registry) -> Iterator[Setting]:
    """Yield settings with every installed table of conditions that offers what a teacher needs."""
    for component in registry.components:
        if component.role == CONDITIONS:
            for setting in _of_conditions(component.name, registry):
                if needed <= setting.offers:
                    yield setting


def _of_conditions(name: str, registry: Registry) -> Iterator[Setting]:
    """Yield settings with the conditions of a table's examples."""
    for table in examples(registry.table(CONDITIONS, name)):
        if not _missing(table):
            case = Case(role=CONDITIONS, table=table, setting=SETTINGS[0])
            offers = words(table, "offers") | {CONDITIONS}
            teacher = SETTINGS[0].teacher
            yield Setting(f"conditions {name}", teacher, offers, conditions=case.build)


def _examples(plugin: Plugin, component: Component, registry: Registry) -> list[Any]:
    """Return a component's usable examples; its own check reports the others."""
    try:
        found = examples(registry.table(component.role, f"{plugin.distribution}:{component.name}"))
    except Exception:  # noqa: BLE001 - third-party code may raise anything
        return []
    return [each for each in found if not _missing(each)]


def _settings(name: str, table: Any, registry: Registry) -> Iterator[Setting]:
    """Yield settings with a teacher that can be built, over a range of γ if it can be guided."""
    needed = words(table, "needs")
    try:
        beside = next(_all_conditions(needed, registry)) if needed else SETTINGS[0]
        case = Case(role="teacher", table=table, setting=beside)

        teacher = case.build()
        assert isinstance(teacher, Teacher)
    except Exception:  # noqa: BLE001 - third-party code may raise anything
        return
    offers = words(table, "offers")
    yield Setting(f"teacher {name}", case.build, offers, table=table)
    try:
        teacher.conditions.null(teacher.conditions.draw(case.draws()))
    except Exception:  # noqa: BLE001 - third-party code may raise anything
        return
    yield Setting(f"teacher {name}, a range of γ", case.build, offers, RANGE, table=table)


def _role(target: str, tables: list[Any], settings: list[Setting]) -> str:
    """Return the role of what these tables build in the first setting that they accept."""
    found = ""
    for table, setting in itertools.product(tables, settings):
        try:
            live = Case(role="", table=table, setting=setting).build()
        except Exception as error:  # noqa: BLE001 - third-party code may raise anything
            found = describe_error(error)
            continue
        roles = [role for role, kind in KINDS.items() if isinstance(live, kind)]
        if isinstance(live, Teacher) or len(roles) == 1:
            return roles[0]
        found = f"it builds {type(live).__name__}"
        break
    needy = any(words(table, "needs") for table in tables)
    hint = "; for a teacher that needs conditions, name them: --conditions TYPE" if needy else ""
    raise ValueError(
        f"{target}: cannot tell its role from what it builds ({found}): use --role (possible: "
        f"{', '.join(KINDS)}){hint}"
    )


def _missing(table: Any) -> str:
    """Return which file of a table is missing on this machine; download nothing."""
    try:
        for each in getattr(table, "files", ()):
            locate_all(each.reference, download=False)
    except MissingFile as error:
        return str(error)
    except Exception:  # noqa: BLE001 - building it reports the error
        return ""
    return ""


def _cases(
    role: str, tables: list[Any], settings: list[Setting]
) -> tuple[list[Case], list[str], str]:
    """Return the cases that can be built, the reasons of refusals, and a fault if there is one.

    Raises MissingFile if a component says that it lacks a file or a library.
    """
    cases: list[Case] = []
    refusals: dict[str, None] = {}
    for table in tables:
        fit = [each for each in settings if each.meets(role, table)] or settings
        for setting in fit[:1] if role in SETTLED else settings:
            case = Case(role=role, table=table, setting=setting)
            try:
                with process.restore():
                    refused = _refusal(case)
            except (KeyboardInterrupt, MissingFile):
                raise
            except BaseException as error:  # noqa: BLE001 - third-party code may raise anything
                _LOG.debug("%s:", case.table, exc_info=error)
                return [], [], f"raised {describe_error(error)}{_where(case, len(tables) > 1)}"
            if refused:
                refusals[f"{setting.name}: {refused}"] = None
            else:
                cases.append(case)
    return cases, list(refusals), ""


def _refusal(case: Case) -> str:
    """Return why a component refuses the case, if it does; any other error is a fault."""
    if not case.setting.meets(case.role, case.table):
        if case.role == "teacher":
            return (
                "the table needs conditions: name a table of them, as in --conditions module:Class"
            )
        return "it does not offer what the table needs"
    try:
        live = case.build()
        of_role = isinstance(live, KINDS[case.role])
        if of_role and case.role in OBJECTIVES:
            case.inputs_for(live)
    except ValueError as error:
        found = place(error)
        return f"{error} (at {found})" if found else str(error)
    if of_role and case.role in ("features", "decoder"):
        try:
            live(*arguments(case, live))
        except Exception as error:  # noqa: BLE001 - samples of another shape may raise anything
            return describe_error(error)
    return ""


def _judge(label: str, law: Law, cases: list[Case], several: bool) -> Result:
    asked, reasons = False, dict[str, None]()
    for case in cases:
        try:
            with process.restore():
                law.check(case, case.build())
        except NotChecked as reason:
            reasons[str(reason)] = None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - third-party code may raise anything
            _LOG.debug("%s, %s:", label, law.name, exc_info=error)
            found = str(error) if isinstance(error, Broken) else f"raised {describe_error(error)}"
            return _result(label, law, "broken", found + _where(case, several))
        else:
            asked = True
    return (
        _result(label, law, "holds")
        if asked
        else _result(label, law, "not checked", "; ".join(reasons))
    )


def _where(case: Case, several: bool) -> str:
    places = [] if case.role in SETTLED else [f"setting: {case.setting.name}"]
    if several:
        places.append(f"example: {case.table}")
    return f" ({', '.join(places)})" if places else ""


def _unchecked(label: str, role: str, built: Result) -> list[Result]:
    """Return the result of `is-buildable`, and "not checked" for all other laws."""
    why = "it cannot be built" if built.fails else built.found
    return [built, *(_result(label, law, "not checked", why) for law in laws_of(role))]


def _result(label: str, law: Law, status: Status, found: str = "") -> Result:
    return Result(
        component=label,
        law=law.name,
        number=law.label,
        text=law.text,
        status=status,
        found=found,
    )
