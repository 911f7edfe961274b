"""One component's table from a plain tree, and the places of a recipe's problems."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Annotated, Any

from ffcore.keys import ComponentOf
from ffcore.plugins import Registry, installed
from ffcore.recipe.diagnostics import Diagnostic, Problem, Problems, RecipeError, path_text
from ffcore.recipe.source import Source
from ffcore.recipe.structure import make_converter


def component(role: str, tree: Mapping[str, object], *, registry: Registry | None = None) -> Any:
    """Return one component's table from a plain tree, as in a recipe; `type` names the component.

    Its `build` returns the live object. Raises `RecipeError` with every error.
    """
    converter = make_converter(installed() if registry is None else registry)
    kind: Any = Annotated[Any, ComponentOf(role)]
    try:
        return converter.structure(tree, kind)
    except Problems as found:
        raise locate(found.problems, [Source(f"({role})", dict(tree), is_file=True)]) from None


def locate(problems: Iterable[Problem], sources: Sequence[Source]) -> RecipeError:
    """Return problems as an error that names their files and lines; the last source counts."""
    return RecipeError(
        Diagnostic(source.name, path_text(p.path), p.text, source.line(p.path), p.about)
        for p in problems
        for source in [_origin(p, sources)]
    )


def _origin(problem: Problem, sources: Sequence[Source]) -> Source:
    """Return the last source that wrote the key; for a missing key, the last file with its table.

    An array has one source, since it is replaced as a whole.
    """
    path = tuple(takewhile(lambda step: isinstance(step, str), problem.path))
    for source in reversed(sources):
        if path and source.holds(path):
            return source
    files = [source for source in sources if source.is_file] or [sources[-1]]
    for end in range(len(path) - 1, 0, -1):
        for source in reversed(files):
            if source.holds(path[:end]):
                return source
    return files[-1]
