"""Laws of students."""

from __future__ import annotations

import copy
from typing import Any

import attrs
import torch

from ffcore.flow.derivative import Derivative
from ffcore.flow.derivative_check import self_check
from ffcore.flow.flow_map import push
from ffcore.testing import network
from ffcore.testing.answers import arguments
from ffcore.testing.case import Case
from ffcore.testing.law import Broken, NotChecked, law, require


@law("student", 1)
def says_where_it_starts(case: Case, live: Any) -> None:
    """`starts_at` is "prior" or "anywhere". From the prior it does not read t; from anywhere,
    with perturbed weights, it does."""
    require(live.starts_at in ("prior", "anywhere"), f"starts_at is {live.starts_at!r}")
    probe = network.perturb(live)
    x, t, delta, condition = arguments(case, probe)
    with torch.no_grad():
        late, early = (probe(x, time, 0 * delta, condition) for time in (t, t / 2))
    reads = not torch.equal(late, early)
    require(
        reads == (live.starts_at == "anywhere"),
        f"starts_at is {live.starts_at!r}, but it {'reads' if reads else 'does not read'} t",
    )


@law("student", 3)
def is_the_identity_at_no_duration(case: Case, live: Any) -> None:
    """At δ = 0 the average velocity is finite, so that the flow map x + δ F is the identity."""
    x, t, delta, condition = arguments(case, live, at=0.0)
    with torch.no_grad():
        moved = push(x, live(x, t, delta, condition), delta)
    require(torch.equal(moved, x), "at δ = 0 the flow map is not the identity: F is not finite")


@law("student", 4)
def is_finite_at_every_duration(case: Case, live: Any) -> None:
    """From the prior, the average velocity is finite for every δ in (0, 1]. From anywhere, it is
    finite for every t in (0, 1] too."""
    network.finite(case, live, network.ENDS[1:])
    if live.starts_at == "prior":
        return
    for at in network.ENDS[1:]:
        x, _, delta, condition = arguments(case, live, at=at)
        with torch.no_grad():
            found = live(x, delta, delta, condition)
        require(found.isfinite().all(), f"from t = {at:g} over δ = {at:g} it is not finite")


@law("student", 7)
def answers_the_same_in_training(case: Case, live: Any) -> None:
    """Training mode has no dropout and does not drop labels at random."""
    inputs = arguments(case, live)
    probe = copy.deepcopy(live)
    with torch.no_grad():
        training, evaluating = probe.train()(*inputs), probe.eval()(*inputs)
    difference = (training - evaluating).abs().max()
    require(difference == 0, f"in training mode it differs from eval mode by {difference:.1e}")


@law("student", 8)
def is_differentiable_in_the_duration(case: Case, live: Any) -> None:
    """∂F/∂δ exists: its integral is the change of F."""
    x, _, _, condition = arguments(case, live)
    try:
        self_check(live, Derivative(), x, condition, case.draws())
    except ValueError as error:
        raise Broken(str(error)) from error


@law("student", 12)
def can_be_rebuilt_without_its_teacher(case: Case, live: Any) -> None:
    """The table, or the table that its method `alone(student)` or `with_teacher(teacher's table,
    student)` returns, builds a network of the same shapes for a teacher that cannot be copied.
    `ffd export` relies on it."""
    table = _alone(case, live)
    try:
        rebuilt = attrs.evolve(case, table=table, setting=case.setting.with_black_box()).build()
    except (AttributeError, TypeError, ValueError) as error:
        raise Broken(
            f"with a teacher that cannot be copied it raised {error!r}: give the table a method "
            "`alone(student)`, or `with_teacher(teacher's table, student)`, that returns a table "
            "without need of the teacher"
        ) from error
    found, wanted = (
        {name: tuple(each.shape) for name, each in student.state_dict().items()}
        for student in (rebuilt, live)
    )
    other = sorted({name for name, _ in found.items() ^ wanted.items()})
    require(not other, f"the rebuilt student has other weights: {', '.join(other)}")


def _alone(case: Case, live: Any) -> Any:
    """Return the table that rebuilds a student; NotChecked if that takes a teacher's table."""
    if alone := getattr(case.table, "alone", None):
        return alone(live)
    with_teacher = getattr(case.table, "with_teacher", None)
    if with_teacher is None:
        return case.table
    if case.setting.table is None:
        raise NotChecked("no teacher here has a table from which the student could be rebuilt")
    return with_teacher(case.setting.table, live)
