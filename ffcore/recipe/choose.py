"""What a recipe leaves out, chosen for its teacher: the student, its training, the objectives.

Every installed student is asked; the table of one may have a class method `propose`, which returns
a `Proposal` for a teacher, or None. The highest rank wins, then ffcore's own, then the first name.
A key that the recipe states is never replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ffcore.draws import Draws
from ffcore.interfaces import Context, Teacher
from ffcore.keys import Proposal
from ffcore.plugins import PluginError, Registry
from ffcore.recipe.choices import OBJECTIVES, Choices
from ffcore.recipe.component import component
from ffcore.recipe.components import BuildError, teacher_of
from ffcore.recipe.diagnostics import Diagnostic, RecipeError

PREDICTOR = "freeflow"
"""The objective of a recipe that names none."""


def choose(written: Mapping[str, Any], registry: Registry) -> Choices:
    """Choose what a recipe leaves out.

    Args:
        written: the recipe's keys.
        registry: of the components.

    Raises RecipeError for a teacher that cannot be built, and if no student suits it.
    """
    table, teacher = _teacher(written, registry)
    bounds = written.get("guidance", {}).get("range")
    ranged = (float(bounds[0]), float(bounds[1])) if isinstance(bounds, list) else None
    context = Context(teacher=teacher, meta=True, guidance_range=ranged)
    offered = frozenset(getattr(table, "offers", ()))
    name, proposal = _student(written, registry, context, offered)
    tree: dict[str, Any] = {"student": {}, "predictor": {}, "corrector": {}}
    tree |= {table: dict(keys) for table, keys in proposal.tree.items()}
    reasons = dict(proposal.reasons)
    tree["student"] = {"type": name} | tree["student"]
    reasons.setdefault("student", proposal.why)
    if not any(each in written for each in OBJECTIVES):
        tree["predictor"] = {"type": PREDICTOR} | tree["predictor"]
        reasons.setdefault("predictor", "needs the teacher alone, and no second network")
    for table in OBJECTIVES:
        if table not in written and "type" not in tree[table]:
            del tree[table]
    if "minutes" in written.get("training", {}):
        tree.get("training", {}).pop("steps", None)
    return Choices(tree=_unstated(tree, written), reasons=reasons, facts=_facts(teacher))


def _teacher(written: Mapping[str, Any], registry: Registry) -> tuple[Any, Teacher]:
    tables = {
        role: component(role, written[role], registry=registry) if role in written else None
        for role in ("teacher", "conditions")
    }
    try:
        teacher = teacher_of(tables["teacher"], tables["conditions"], meta=True)
    except BuildError as error:
        raise _refused(str(error)) from error
    return tables["teacher"], teacher


def _student(
    written: Mapping[str, Any], registry: Registry, context: Context, offered: frozenset[str]
) -> tuple[str, Proposal]:
    """Return the best proposal and its student's name; only that of the student that is named.

    A student whose needs the teacher's table does not offer is left out.
    """
    named = written.get("student", {}).get("type")
    found: list[tuple[int, bool, str, Proposal]] = []
    for name, own, table in _tables(registry, named):
        propose = getattr(table, "propose", None)
        proposal = None if propose is None else propose(context)
        if proposal is None:
            continue
        keys = {"type": name} | dict(proposal.tree.get("student", {}))
        needs: frozenset[str] = getattr(
            component("student", keys, registry=registry), "needs", frozenset()
        )
        if needs <= offered or named is not None:
            found.append((-proposal.rank, not own, name, proposal))
    if found:
        *_, name, proposal = min(found, key=lambda each: each[:3])
        return name, proposal
    if named is not None:
        raise _refused(
            f"student {named!r} proposes nothing for this teacher: state training.steps or "
            "training.minutes, and [predictor] or [corrector]"
        )
    assert context.teacher is not None
    raise _refused(
        f"no installed student suits this teacher ({_facts(context.teacher)}): name one in "
        "[student]"
    )


def _tables(registry: Registry, named: str | None) -> Iterator[tuple[str, bool, type]]:
    """Yield the name of each student, whether it is ffcore's own, and its table's class."""
    if named is not None:
        yield named, True, registry.table("student", named)
        return
    for plugin in registry.plugins:
        for each in plugin.components:
            if each.role != "student":
                continue
            own = plugin.distribution == "ffcore"
            qualified = f"{plugin.distribution}:{each.name}"
            name = qualified if registry.rivals(plugin, each) else each.name
            try:
                yield name, own, registry.table("student", qualified)
            except PluginError:
                if own:
                    raise


def _unstated(tree: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of `tree` that the recipe does not state."""
    found = {}
    for table, keys in tree.items():
        stated = written.get(table, {})
        left = {n: v for n, v in keys.items() if n not in stated}
        if left and stated.get("type", keys.get("type")) == keys.get("type"):
            found[table] = left
    return found


def _facts(teacher: Teacher) -> str:
    """Return what the choice rests on, in words."""
    shape = tuple(teacher.sample_shape)
    fields = sorted(teacher.conditions.draw(Draws(0, 0, 0, 1)).tensors())
    size = f"vectors of {shape[0]}" if len(shape) == 1 else f"samples {shape}"
    return f"{size}, conditions: {', '.join(fields) or 'none'}"


def _refused(message: str) -> RecipeError:
    return RecipeError([Diagnostic("(chosen)", "", message)])
