"""Laws of every component."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any, get_args

import attrs
import tomli_w
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from ffcore.interfaces import Student
from ffcore.keys import kind_of, role_of
from ffcore.plugins import Registry, installed
from ffcore.recipe.needs import ANYWHERE, COPY, DATA, WHOLE
from ffcore.recipe.plain import plain
from ffcore.recipe.structure import make_converter
from ffcore.testing import process
from ffcore.testing.answers import answers, same
from ffcore.testing.case import KINDS, OBJECTIVES, Case, words
from ffcore.testing.law import ANY, Broken, ask_only_where, law, require


@law(ANY, 1)
def is_of_its_role(case: Case, live: Any) -> None:
    """`build` returns an object of its role's class in `ffcore.interfaces`."""
    kind = KINDS[case.role]
    require(isinstance(live, kind), f"build returns {type(live).__name__}, not a {kind.__name__}")


@law(ANY, 2)
def answers_as_its_role_does(case: Case, live: Any) -> None:
    """It works when called as ffcore calls its role. If it does not, no other law is checked."""
    found = answers(case, live)
    strange = [name for name, value in found.items() if not isinstance(value, Tensor)]
    require(not strange, f"not a tensor: {', '.join(strange)}")


@law(ANY, 3)
def is_a_frozen_table(case: Case, live: Any) -> None:
    """The table is a frozen attrs class, so that nothing can change a recipe's values."""
    del live
    table = type(case.table)
    name = next((field.name for field in attrs.fields(table)), "name")
    try:
        setattr(attrs.evolve(case.table), name, None)
    except attrs.exceptions.FrozenInstanceError:
        return
    except AttributeError:
        pass
    raise Broken(f"{table.__qualname__} is not frozen: use attrs.frozen")


@law(ANY, 4)
def survives_a_recipe(case: Case, live: Any) -> None:
    """A table written as TOML and read back is equal to itself."""
    del live
    registry = Registry(installed().plugins)
    tree = tomllib.loads(tomli_w.dumps(plain(case.table, registry=registry)))
    back = make_converter(registry).structure(tree, type(case.table))
    require(back == case.table, f"{case.table} came back as {back}")


@law(ANY, 5)
def explains_its_keys(case: Case, live: Any) -> None:
    """The table has a docstring, and every key has help, also in tables within it."""
    del live
    table = type(case.table)
    require((table.__doc__ or "").strip(), f"{table.__qualname__} has no docstring")
    silent = list(_silent(table))
    require(not silent, f"keys without help: {', '.join(silent)}; use ffcore.keys.key")


@law(ANY, 6)
def is_honest_about_its_needs(case: Case, live: Any) -> None:
    """A table's `needs` and `offers` are frozensets of words, and they are true. A teacher's table
    offers "trainable copy" if there is one; a student's offers "student starts anywhere" if it
    does; an objective's needs "data" or "whole batch" if the objective does. A teacher whose table
    needs conditions has those of its context. An objective whose table needs nothing works with a
    black box."""
    for side in ("needs", "offers"):
        declared: Any = getattr(case.table, side, frozenset())
        require(
            isinstance(declared, frozenset) and all(isinstance(each, str) for each in declared),
            f"{side} is {declared!r}: it must be a frozenset of words",
        )
    if case.role == "teacher":
        _offers(case, COPY, live.trainable_copy() is not None, "the teacher")
        context = case.context()
        if words(case.table, "needs"):
            own = case.table.build(context).conditions is not context.conditions
            require(not own, "its table needs conditions, but the teacher brings its own")
    elif isinstance(live, Student):
        _offers(case, ANYWHERE, live.starts_at == "anywhere", "the student")
    elif case.role in OBJECTIVES:
        for word in (DATA, WHOLE):
            table, own = word in words(case.table, "needs"), word in live.needs
            require(
                table == own,
                f"the table {_does(table)} need {word}, but the objective {_does(own)}",
            )
        if not words(case.table, "needs"):
            _works_with_a_black_box(case)


@law(ANY, 7)
def builds_the_same_twice(case: Case, live: Any) -> None:
    """Two builds under one seed give the same outputs. New weights come from torch's global random
    state, and `build` does not seed it."""
    found = answers(case, case.build())
    for name, value in answers(case, live).items():
        require(same(value, found[name]), f"{name} differs between two builds under one seed")
    context, states = case.context(), []
    for seed in (0, 1):
        with process.seed_torch(seed):
            case.table.build(context)
            states.append(torch.get_rng_state())
    require(not torch.equal(*states), "build seeds torch's global random state")


@law(ANY, 8)
def is_deterministic(case: Case, live: Any) -> None:
    """The same inputs give the same outputs, to the last bit. All randomness comes from the
    component's draws."""
    ask_only_where(case.role != "tracker", "it has no outputs")
    first, second = answers(case, live), answers(case, live)
    for name, value in first.items():
        off = (value.detach().double() - second[name].detach().double()).abs().max()
        require(same(value, second[name]), f"{name} differs between two calls by {off:.1e}")


@law(ANY, 9)
def leaves_the_process_alone(case: Case, live: Any) -> None:
    """Neither `build` nor a call changes the process's global state: random states (except torch's
    in `build`), default dtype, grad mode, threads and torch's other switches."""
    del live
    before = process.state()
    built = case.build()
    changed = process.changes(before)
    require(not changed, f"build changes {', '.join(changed)}")
    answers(case, built)
    changed = process.changes(before)
    require(not changed, f"a call changes {', '.join(changed)}")


@law(ANY, 10)
def saves_and_loads(case: Case, live: Any) -> None:
    """A network's `state_dict`, saved as safetensors and loaded into a build with other weights,
    gives the same outputs in eval mode: all state is in it."""
    ask_only_where(isinstance(live, nn.Module), "it is not a network")
    state = live.eval().state_dict()
    with torch.no_grad():
        for tensor in state.values():
            if tensor.is_floating_point():
                tensor.add_(0.01)
    stored = save({name: each.contiguous().clone() for name, each in state.items()})
    other = case.build(seed=1)
    other.load_state_dict(load(stored))
    found = answers(case, other.eval())
    for name, value in answers(case, live).items():
        require(same(value, found[name]), f"{name} differs after saving and loading")


@law(ANY, 11)
def has_the_same_shapes_meta(case: Case, live: Any) -> None:
    """With `context.meta`, a teacher, student or network has the same parameters as without, by
    name and shape: a dry run counts them."""
    counted = ("teacher", "student", "network")
    ask_only_where(case.role in counted, "a dry run does not count its parameters")
    meta, full = (
        {name: tuple(each.shape) for name, each in network.named_parameters()}
        for network in (case.build(meta=True), live)
    )
    other = sorted({name for name, _ in meta.items() ^ full.items()})
    require(not other, f"other parameters with context.meta: {', '.join(other)}")


def _silent(table: type) -> Iterator[str]:
    """Yield the keys without help, of a table and of tables within it."""
    for field in attrs.fields(attrs.resolve_types(table)):
        if not field.metadata.get("help", "").strip():
            yield f"{table.__qualname__}.{field.name}"
        if not role_of(kind_of(field)):
            for inner in _tables_in(kind_of(field)):
                yield from _silent(inner)


def _tables_in(kind: Any) -> list[type]:
    if isinstance(kind, type) and attrs.has(kind):
        return [kind]
    return [inner for part in get_args(kind) for inner in _tables_in(part)]


def _offers(case: Case, word: str, given: bool, who: str) -> None:
    offered = word in words(case.table, "offers")
    require(
        offered == given,
        f"the table {_does(offered)} offer {word!r}, but {who} {_does(given)}",
    )


def _does(affirmed: bool) -> str:
    return "does" if affirmed else "does not"


def _works_with_a_black_box(case: Case) -> None:
    boxed = attrs.evolve(case, setting=case.setting.with_black_box())
    try:
        answers(boxed, boxed.build())
    except (ValueError, AttributeError, TypeError) as error:
        raise Broken(
            f"its table needs nothing, but with a teacher that cannot be copied it raised {error!r}"
        ) from error
