"""The errors of a recipe, as data. All of them are reported at once."""

from collections.abc import Iterable
from typing import Literal

import attrs

Path = tuple[str | int, ...]
"""A place in a recipe, as in `("evaluation", "features", 0, "type")`."""

Blame = Literal["recipe", "plugin"]


@attrs.frozen
class Problem:
    """One error, relative to the table or array that is being read."""

    text: str
    path: Path = ()
    about: Blame = "recipe"

    def under(self, step: str | int) -> "Problem":
        """Return the same error, relative to the enclosing table or array."""
        text = self.text if self.path else f"{path_text((step,))}: {self.text}"
        if self.path and all(isinstance(inner, int) for inner in self.path):
            text = f"{path_text((step,))}{self.text}"
        return Problem(text, (step, *self.path), self.about)


class Problems(ValueError):
    """All errors of one value. Structuring hooks raise it; it ends up as diagnostics."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problem.text for problem in self.problems))


@attrs.frozen
class Diagnostic:
    """One error of a recipe: its file, its key and, if known, its line.

    `about` says whether the recipe or one of its plugins is to blame.
    """

    file: str
    key: str
    message: str
    line: int | None = None
    about: Blame = "recipe"

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        table = self.key.rpartition(".")[0]
        return f"{place}: [{table}] {self.message}" if table else f"{place}: {self.message}"


class RecipeError(ValueError):
    """A recipe cannot be read or is invalid; `diagnostics` holds every reason."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(map(str, self.diagnostics)))

    @property
    def about(self) -> Blame:
        """Who is to blame: "plugin" if only plugins are."""
        return "recipe" if any(d.about == "recipe" for d in self.diagnostics) else "plugin"


def path_text(path: Path) -> str:
    """Return a path as text: `evaluation.features[0].type`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".")
