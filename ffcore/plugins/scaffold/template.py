"""Templates: Markdown whose titled blocks are files.

One template has the files that all plugins share; each role has one too. In a role's template, the
first line is the summary, and the text up to the first block says what to change first.
`string.Template` fills in each `$name`, in titles too; `$$` is a dollar sign.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from string import Template

import attrs

SHARED = "distribution"
_FOLDER = files("ffcore.plugins.scaffold") / "templates"
_SUFFIX = ".md.txt"  # linters and test runners ignore it
_BLOCK = re.compile(r'^(`{3,})\w+ title="([^"]+)"\n(.*?)^\1$', re.MULTILINE | re.DOTALL)


@attrs.frozen
class Filled:
    """A filled-in template."""

    summary: str
    first: str
    """What to change first."""
    files: Mapping[str, str]
    """Text by path within the distribution."""


def roles() -> list[str]:
    """The roles that have a template."""
    names = {each.name.removesuffix(_SUFFIX) for each in _FOLDER.iterdir()}
    return sorted(names - {SHARED})


def fill(template: str, values: Mapping[str, str]) -> Filled:
    """Fill in the template of a role, or SHARED. Raises KeyError for an unknown `$name`."""
    text = Template((_FOLDER / f"{template}{_SUFFIX}").read_text(encoding="utf-8"))
    filled = text.substitute(values)
    heading, _, first = filled.partition("```")[0].partition("\n")
    blocks = {title: content for _, title, content in _BLOCK.findall(filled)}
    return Filled(heading.removeprefix("# "), first.strip(), blocks)
