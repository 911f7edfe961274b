"""What MkDocs does not do by itself: pages made from the program, and formulas as MathML.

A component, a command, a public name, a role or a decision that comes later appears without a
change here. Formulas become MathML while the site is built, so that they need no script.
"""

import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

import ffcore
from ffcore.plugins import ROLES, Registry

ROOT = Path(__file__).parents[1]
COPIED = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""Pages that stand at the root of the repository."""

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_OUTWARD = re.compile(r"\[([^\]]*)\]\((?:\.\./)+(?!docs/)([^)#\s]+)[^)\s]*\)")


def on_config(config: Any) -> Any:
    """Fill in those parts of the navigation that are folders."""
    config["nav"] = _with_folders(config["nav"])
    return config


def _with_folders(entry: Any) -> Any:
    if isinstance(entry, list):
        return [_with_folders(each) for each in entry]
    ((title, target),) = entry.items()
    if isinstance(target, list):
        return {title: _with_folders(target)}
    return {title: _folder(target) if target.endswith("/") else target}


def _folder(name: str) -> list[str]:
    """Return the pages of a folder, its README first."""
    pages = sorted((ROOT / "docs" / name).glob("*.md"), key=lambda each: each.name != "README.md")
    return [f"{name}{page.name}" for page in pages]


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made from the program, and those of the repository's root."""
    made = {
        "reference/commands.md": _commands(),
        "reference/components.md": _components(),
        "reference/api.md": _api(),
        **{page: (ROOT / name).read_text() for page, name in COPIED.items()},
    }
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links that lead out of the documentation be names: the site does not hold the code."""
    if page.file.src_uri == "recipes.md":
        markdown = markdown.replace("<!-- recipes -->", _recipes())
    if page.file.src_uri in COPIED:
        return re.sub(
            r"\]\(docs/", "](", _named(markdown, r"\[([^\]]*)\]\((?!docs/[^)]*\.md|http|#)[^)]*\)")
        )
    return _OUTWARD.sub(_page_or_name, markdown)


def _named(markdown: str, link: str) -> str:
    return re.sub(link, r"\1", markdown)


def _page_or_name(found: re.Match[str]) -> str:
    words, target = found.groups()
    pages = {name: page for page, name in COPIED.items()}
    return f"[{words}]({pages[target]})" if target in pages else words


def on_page_content(html: str, **_: Any) -> str:
    """Turn formulas into MathML."""

    def mathml(found: re.Match[str]) -> str:
        text = unescape(found[2]).replace("{aligned}", "{align*}")
        for bar, side in (("lVert", "left"), ("rVert", "right")):
            text = re.sub(rf"(\\[Bb]ig)?\\{bar}", rf"\\{side}\\{bar}", text)
        return str(convert(text, display="block" if found[1] == "div" else "inline"))

    unset = "<code>Sentinel.UNSET</code>"  # as mkdocs-click prints an option without a default
    return _FORMULA.sub(mathml, html.replace(unset, ""))


def on_post_build(config: Any) -> None:
    """Leave out what no reader needs: source maps, and the search in other languages."""
    scripts = Path(config["site_dir"]) / "assets" / "javascripts"
    for each in Path(config["site_dir"]).rglob("*.map"):
        each.unlink()
    shutil.rmtree(scripts / "lunr", ignore_errors=True)


def _recipes() -> str:
    """Return the packaged recipes, by what their first lines say."""
    rows = ["| recipe | | reaches | costs |", "|---|---|---|---|"]
    for path in sorted((ROOT / "recipes").glob("*.toml")):
        head = path.read_text().partition("\n\n")[0].partition("\n")[2]
        told = re.split(r"(Reaches|Costs|Weights): ", re.sub(r"\s*\n?# ", " ", head).strip())
        cells = {"": told[0], **dict(zip(told[1::2], told[2::2], strict=True))}
        cells = [f"`{path.name}`", cells[""], cells["Reaches"], cells["Costs"]]
        rows.append(f"| {' | '.join(each.strip() for each in cells)} |")
    return "\n".join(rows)


def _commands() -> str:
    return (
        "# Commands\n\n"
        "::: mkdocs-click\n    :module: ffcore.cli\n    :command: main\n    :prog_name: ffd\n"
        "    :depth: 1\n    :style: table\n"
    )


def _components() -> str:
    """Return ffcore's own components by role, as `ffd list-plugins` lists them."""
    own = [
        (plugin.name, each)
        for plugin in Registry.load().plugins
        if plugin.distribution == "ffcore"
        for each in plugin.components
    ]
    parts = ["# Components", "`ffd list-plugins` prints this list, with the plugins of others."]
    for role, meaning in ROLES.items():
        rows = [
            f"| `{each.name}` | {each.summary} | `ffcore_{plugin}` | {_papers(each.citation)} |"
            for plugin, each in sorted(own, key=lambda pair: pair[1].name)
            if each.role == role
        ]
        contract = f"[Contract](../roles/{role}.md)"
        parts += [f"## {role}", f"{meaning[0].upper()}{meaning[1:]}. {contract}"]
        if rows:
            rows = ["| name | summary | plugin | paper |", "|---|---|---|---|", *rows]
            parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _papers(citation: str) -> str:
    found = re.findall(r"\d{4}\.\d{5}", citation)
    return ", ".join(f"[{each}](https://arxiv.org/abs/{each})" for each in found)


def _api() -> str:
    """Return the public names of `import ffcore`, with their docstrings."""
    by_home: dict[str, list[str]] = {}
    for name, home in ffcore._HOMES.items():
        by_home.setdefault(home, []).append(name)
    parts = ["# Python", ffcore.__doc__.partition("\n\n")[2]]
    for home, names in by_home.items():
        parts.append(f"## {home}")
        parts += [f"::: {home}.{name}" for name in names]
    return "\n\n".join(parts) + "\n"
