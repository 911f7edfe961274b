"""What a recipe leaves to be chosen, and what was chosen. Torch-free."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path as File
from typing import Any

import attrs

from ffcore.recipe.diagnostics import Path, Problem

OBJECTIVES = ("predictor", "corrector")
_OPEN: tuple[tuple[Path, str], ...] = (
    (("student",), "missing key 'student'"),
    (("student", "type"), "missing key 'type'"),
    (("training",), "missing key 'training'"),
    (("training",), "training: training needs steps or minutes, found neither"),
    ((), "a recipe needs [predictor], [corrector] or both"),
)
"""The errors of a recipe that leaves these to be chosen: their places, how they begin."""


@attrs.frozen(kw_only=True)
class Choices:
    """Keys that were chosen for a teacher, each with its reason."""

    tree: dict[str, Any] = attrs.field(factory=dict)
    """The keys, as in a recipe."""
    reasons: Mapping[str, str] = attrs.field(factory=dict)
    """Reasons by dotted names; a table's own name stands for its `type`."""
    facts: str = ""
    """What was seen of the teacher."""

    def lines(self) -> Iterator[str]:
        """Yield a line for each key, with its reason."""
        for table, keys in self.tree.items():
            for name, value in keys.items():
                dotted = table if name == "type" else f"{table}.{name}"
                why = self.reasons.get(dotted)
                yield f"{dotted} = {_toml(value)}" + (f": {why}" if why else "")


def is_open(problem: Problem) -> bool:
    """Whether a problem is no more than something left to be chosen."""
    return any(problem.path == path and problem.text.startswith(text) for path, text in _OPEN)


def incomplete(written: Mapping[str, Any]) -> bool:
    """Whether a recipe leaves its student, its objectives or its length to be chosen."""
    training = written.get("training", {})
    if "teacher" not in written or not isinstance(training, dict):
        return False
    has_length = "steps" in training or "minutes" in training
    return not ("student" in written and has_length and any(o in written for o in OBJECTIVES))


def kept(choices: Choices, earlier: File | None) -> Choices:
    """Return what an earlier run of the recipe has, where there is one, instead of the choices.

    So a newer ffcore, which may choose otherwise, continues a run as it began. `earlier` is the
    resolved recipe of that run.
    """
    try:
        stored = {} if earlier is None else tomllib.loads(earlier.read_text())
    except (OSError, ValueError):  # there is none, or the run says that it is damaged
        stored = {}
    tree = {}
    for table, keys in choices.tree.items():
        known = stored.get(table, {})
        whole = "type" in keys and "type" in known
        tree[table] = known if whole else {name: known.get(name, v) for name, v in keys.items()}
    return attrs.evolve(choices, tree=tree)


def _toml(value: object) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
