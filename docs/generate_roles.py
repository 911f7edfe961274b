"""Writes docs/roles/ from the code: `python docs/generate_roles.py`.

A role's page has its class in ffcore/interfaces.py, its laws (ffcore/testing/laws/) and ffcore's
own components. values.md has the arguments and results of roles.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ffcore import interfaces
from ffcore.draws import Draws
from ffcore.flow.ode import integrate
from ffcore.flow.solver import Solver
from ffcore.plugins import ROLES, Component, Registry
from ffcore.testing import SETTINGS, Law, laws_of
from ffcore.testing.case import KINDS
from ffcore.testing.law import ANY
from ffcore.testing.plugin_laws import PLUGIN_LAWS
from ffcore.training.optimizer import Optimizer

VALUES = (
    interfaces.Context,
    interfaces.Moments,
    interfaces.Ratio,
    interfaces.Alarm,
    interfaces.Condition,
    interfaces.Unconditional,
    interfaces.Labels,
    interfaces.NamedConditions,
    interfaces.digest_of,
    interfaces.FrozenTeacher,
    interfaces.FunctionTeacher,
    interfaces.Batch,
    Draws,
    interfaces.Networks,
    interfaces.Gaps,
    interfaces.Gap,
    interfaces.Auxiliary,
    Optimizer,
    interfaces.Norms,
    interfaces.DataError,
    interfaces.ClassFeatures,
    Solver,
    integrate,
)
"""Arguments and results of roles, and helpers for them."""

FOLDER = Path(__file__).with_name("roles")

NOTICE = "Do not edit: `docs/generate_roles.py` writes this page. A test compares it with the code."

INTRODUCTION = f"""\
# Roles and their laws

{NOTICE}

A component plays a role. A role is a class in `ffcore/interfaces.py`; its docstrings are the
contract. Laws check the contract clause by clause:

```sh
ffd check-plugin ffcore-coin                      # everything that a distribution registers
ffd check-plugin ffcore_coin.tables:CoinTeacher   # one class, without a plugin
```

In pytest, one line does the same, with one test for each component and law (extra `testing`):

```python
from ffcore.testing import plugin_tests

TestPlugin = plugin_tests("ffcore-coin")
```
"""

CASES = """\
## Settings

ffcore builds a component from its recipe table, as a run does, with all keys at their defaults. If
a table has required keys, or its default is large, give it a class method `examples` that yields
small instances. ffcore builds each instance for these small teachers and for the teachers of the
component's own plugin:

{settings}

ffcore skips a setting that does not offer what the table `needs`, or that the component refuses
with a ValueError; the component must accept at least one. It does not check a component whose files
are missing on this machine. All laws run on the CPU with few samples: they find errors of
principle, not of scale.

## Known failures

To expect a law to fail, give its name and a reason:
`plugin_tests("ffcore-coin", expected={{"corrector/kernel/is-deterministic": "why"}})`, or the same
as lines of a TOML file for `ffd check-plugin --expect`. A shorter name, `corrector/kernel` or
`corrector`, covers all its laws. If a law holds although it is expected to fail, that is a failure
too: remove the expectation. ffcore refuses a name that matches no law, and an empty reason.
"""


def documents() -> dict[str, str]:
    """Return all pages: texts by file name."""
    registry = Registry.load()
    own = [
        (plugin.name, component)
        for plugin in registry.plugins
        if plugin.distribution == "ffcore"
        for component in plugin.components
    ]
    pages = {f"{role}.md": _page(role, own) for role in ROLES}
    return {"README.md": _index(), "values.md": _values()} | pages


def _index() -> str:
    rows = [
        f"| [{role}]({role}.md) | `{KINDS[role].__name__}` | {meaning} | {len(_own_laws(role))} |"
        for role, meaning in ROLES.items()
    ]
    table = ["| role | class | meaning | laws |", "|---|---|---|---|", *rows]
    settings = "\n".join(f"- {each.name}" for each in SETTINGS)
    plugin = [
        f"| plugin {number} | `{name}` | {text} |"
        for number, (name, text) in enumerate(PLUGIN_LAWS.items(), 1)
    ]
    parts = [
        INTRODUCTION,
        "\n".join(table),
        "[Values](values.md) has the arguments and results of roles.",
        CASES.format(settings=settings),
        "## Laws of a plugin\n\n" + "\n".join([*_HEADING, *plugin]),
        "## Laws of every component\n\n" + _laws(_own_laws(ANY)),
    ]
    return _joined(parts)


def _values() -> str:
    sections = [
        f"## {kind.__name__}\n\n```python\n# {kind.__module__}\n{_skeleton(kind)}\n```"
        for kind in VALUES
    ]
    return _joined([f"# Values\n\nArguments and results of roles. {NOTICE}", *sections])


def _met(contract: str) -> str:
    """Return links to the values that a contract names."""
    met = [each.__name__ for each in VALUES if re.search(rf"\b{each.__name__}\b", contract)]
    links = [f"[`{name}`](values.md#{name.lower()})" for name in ["Context", *met]]
    return f"Values: {', '.join(links)} (the first is the argument of the table's `build`)."


def _page(role: str, own: list[tuple[str, Component]]) -> str:
    meaning = ROLES[role]
    kind = KINDS[role]
    rows = [
        f"| `{each.name}` | {plugin} | {each.summary} | {each.citation} |"
        for plugin, each in sorted(own, key=lambda pair: pair[1].name)
        if each.role == role
    ]
    components = ["| name | plugin | summary | source |", "|---|---|---|---|", *rows]
    parts = [
        f"# {role}\n\n{meaning[0].upper()}{meaning[1:]}. {NOTICE}",
        f"## `ffcore.interfaces.{kind.__name__}`\n\n```python\n{_contract(kind)}\n```\n\n"
        + _met(_contract(kind)),
        "## Laws\n\nIn addition to the [laws of every component]"
        "(README.md#laws-of-every-component):\n\n" + _laws(_own_laws(role)),
        "## Components of ffcore\n\n"
        f"Their keys are in [the list of recipe keys](../reference/keys.md#{role}).\n\n"
        + "\n".join(components),
    ]
    return _joined(parts)


_HEADING = ["| number | law | text |", "|---|---|---|"]


def _laws(laws: list[Law]) -> str:
    rows = [f"| {each.label} | `{each.name}` | {each.text} |" for each in laws]
    return "\n".join([*_HEADING, *rows])


def _own_laws(role: str) -> list[Law]:
    found = [each for each in laws_of(role) if each.role == role]
    return list(dict.fromkeys(found))


def _contract(kind: type) -> str:
    """Return the class and its base classes in interfaces.py, with docstrings for bodies."""
    ours = [each for each in reversed(kind.__mro__) if each.__module__ == interfaces.__name__]
    return "\n\n\n".join(map(_skeleton, ours))


def _skeleton(kind: Callable[..., Any]) -> str:
    """Return a class without decorators, code of methods and private members, or a function's
    signature and docstring."""
    source = textwrap.dedent(inspect.getsource(kind))
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    if isinstance(node, ast.FunctionDef):
        del node.body[1:]
    return "\n".join(_lines(node, source.splitlines()))


def _lines(node: ast.ClassDef | ast.FunctionDef, lines: list[str]) -> Iterator[str]:
    yield from lines[node.lineno - 1 : node.body[0].lineno - 1]
    for index, member in enumerate(node.body):
        first, last = member.lineno, member.end_lineno
        if isinstance(member, ast.FunctionDef):
            if re.match(r"_[^_]|__attrs", member.name):
                continue
            yield ""
            first = min([first, *(each.lineno for each in member.decorator_list)])
            documented = ast.get_docstring(member) is not None
            last = member.body[0].end_lineno if documented else member.body[0].lineno - 1
        elif index and not isinstance(member, ast.Expr):
            yield ""
        yield from lines[first - 1 : last]


def _joined(parts: list[str]) -> str:
    return "\n\n".join(part.strip() for part in parts) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.md"):
        old.unlink()
    for name, text in documents().items():
        (FOLDER / name).write_text(text)
