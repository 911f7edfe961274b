"""A new plugin: its names, derived from the distribution's name, and its files."""

import importlib.util
import keyword
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs

from ffcore.keys import ImpossibleValue, Possible
from ffcore.plugins import GROUP, ROLES, installed
from ffcore.plugins.scaffold.template import SHARED, fill, roles

_NAME = re.compile(r"[a-z0-9]|[a-z0-9][a-z0-9._-]*[a-z0-9]", re.IGNORECASE)


def _is_a_name(plugin: "NewPlugin", attribute: "attrs.Attribute[str]", name: str) -> None:
    """Raise ImpossibleValue unless `name` is a valid distribution name and gives a valid module."""
    if not _NAME.fullmatch(name):
        possible = "letters, digits, '-', '_' and '.', with a letter or digit first and last"
        raise ImpossibleValue(attribute.name, name, possible)
    if not plugin.module.isidentifier() or keyword.iskeyword(plugin.module):
        possible = "a name that Python can import: not a keyword, and not starting with a digit"
        raise ImpossibleValue(attribute.name, name, possible)


@attrs.frozen
class NewPlugin:
    """A distribution with one small, working component of a role.

    Raises ImpossibleValue for a name that a distribution or module cannot have.
    """

    name: str = attrs.field(validator=_is_a_name)
    """Name of the distribution, such as "ffcore-kernel"."""
    role: str = attrs.field(validator=Possible(one_of=tuple(ROLES)))

    @property
    def module(self) -> str:
        """Its import package: "ffcore_kernel"."""
        return re.sub(r"[-_.]+", "_", self.name).lower()

    @property
    def component(self) -> str:
        """Its name in recipes, the last part of the name that starts with a letter: "kernel"."""
        parts = self.module.split("_")
        start = max(index for index, part in enumerate(parts) if part[:1].isalpha())
        return "-".join(parts[start:])

    def require_free(self) -> None:
        """Raise ValueError if one of its names is already in use on this machine."""
        if (found := _installed_version(self.name)) is not None:
            raise ValueError(
                f"distribution {self.name!r} {found} is already installed: choose another name, or "
                "uninstall it first"
            )
        if importlib.util.find_spec(self.module) is not None:
            raise ValueError(
                f"{self.name!r} would be imported as {self.module!r}, but a module of that name "
                "already exists: choose another name"
            )
        for plugin in installed().plugins:
            for each in plugin.components:
                if (each.role, each.name) == (self.role, self.component):
                    raise ValueError(
                        f"{self.name!r} would provide the {self.role} {self.component!r}, but "
                        f"{plugin.origin} already provides one: choose another last part of the "
                        "name"
                    )

    def files(self) -> dict[str, str]:
        """Return the text of each file by its path within the distribution, sorted.

        Raises ValueError for a role without a template.
        """
        if self.role not in roles():
            raise ValueError(
                f"no template for the role {self.role!r} (possible: {', '.join(roles())})"
            )
        values = {
            "name": self.name,
            "module": self.module,
            "component": self.component,
            "role": self.role,
            "table": f"{self.role.capitalize()}Table",
            "group": GROUP,
            "version": version("ffcore"),
        }
        own = fill(self.role, values)
        shared = fill(SHARED, {**values, "summary": own.summary, "first": own.first})
        return dict(sorted({**shared.files, **own.files}.items()))

    def write(self, directory: Path) -> None:
        """Write the distribution to `directory`, completely or not at all.

        Raises ValueError unless `directory` is empty or does not exist.
        """
        if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
            found = "is not empty" if directory.is_dir() else "is a file"
            raise ValueError(f"{directory} {found}: name another directory, or move it away")
        files = self.files()
        directory = directory.absolute()
        directory.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as beside:
            whole = Path(beside) / directory.name
            for name, text in files.items():
                file = whole / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            if directory.exists():  # it may be a shell's working directory
                for each in whole.iterdir():
                    each.rename(directory / each.name)
            else:
                whole.rename(directory)


def _installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
