"""Templates: Markdown whose titled blocks are files.

One template is for what all plugins share, and one for each role: its first line is the summary,
and the words up to the first block say what to change first. Each `$name` is filled in, in titles
too, as `string.Template` does; a dollar sign is `$$`.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from string import Template

import attrs

SHARED = "distribution"
_FOLDER = files("ffcore.plugins.scaffold") / "templates"
_SUFFIX = ".md.txt"  # which linters and test runners leave alone
_BLOCK = re.compile(r'^(`{3,})\w+ title="([^"]+)"\n(.*?)^\1$', re.MULTILINE | re.DOTALL)


@attrs.frozen
class Filled:
    """A template whose names are filled in."""

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
    """Fill in the template of a role, or the SHARED one. Raises KeyError for a `$name` unknown."""
    text = Template((_FOLDER / f"{template}{_SUFFIX}").read_text(encoding="utf-8"))
    filled = text.substitute(values)
    heading, _, first = filled.partition("```")[0].partition("\n")
    blocks = {title: content for _, title, content in _BLOCK.findall(filled)}
    return Filled(heading.removeprefix("# "), first.strip(), blocks)
