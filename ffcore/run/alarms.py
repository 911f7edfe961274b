"""Alarms: sentences about a run that goes wrong, from the history of its numbers.

Each function reads the lines of a run's metrics up to now and returns the alarm that they deserve,
if any. So a resumed run has the alarms that it would have had. An alarm gives its number and the
keys to change. It never stops a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import attrs

from ffcore.evaluate.evaluator import Evaluation
from ffcore.evaluate.verdict import MEASURES
from ffcore.flow.solver import Solver
from ffcore.interfaces import Alarm
from ffcore.run.measurements import INTERVAL, MEASURE

Line = Mapping[str, Any]
"""A line of the metrics: "step" and numbers by name."""

SOLVER = "solver"
"""The name of the alarm that only an evaluation can raise."""
FEWEST = 5
"""Fewest reports behind an alarm."""
_EARLY = 0.2
"""The first part of a run, whose reports say nothing about a lag."""
_RECENT = 0.2
"""The share of all reports since then that counts as recent."""
_SURE = 3.0
"""Standard errors by which a mean must exceed its limit."""
_FALLS = 0.03
"""A number that surely loses a smaller share within a third of the run so far does not fall."""
_WORSE = 1.5
"""Factor by which a measure must be worse than its best."""
_COLLAPSES = {
    "coverage": "the student loses parts of the teacher's distribution",
    "class": "the student loses a class",
}
_COARSE = 0.03
"""Largest error of a solver whose samples count as converged, as a share of the way."""
_CHECKS = 100
"""Checks in a run: the cost of one grows with the history."""


@attrs.frozen(kw_only=True)
class Raised:
    """An alarm that a run has deserved."""

    name: str
    """Each name is raised once in a run."""
    step: int
    sentence: str
    """Without a full stop."""


def raised(history: Sequence[Line], steps: int, rules: Iterable[Alarm]) -> Iterator[Raised]:
    """Yield the alarms that the history deserves now.

    Args:
        history: the run's metrics up to now, in order.
        steps: length of the run.
        rules: of the objectives.
    """
    for rule in rules:
        lines = [line for line in history if rule.number in line]
        if found := _BY_RULE[rule.rule](lines, steps, rule):
            yield Raised(name=rule.number, step=lines[-1]["step"], sentence=found)
    measured = [line for line in history if any(each.startswith(MEASURE) for each in line)]
    for name, loss in _COLLAPSES.items():
        if found := _collapses(measured, name, loss):
            yield Raised(name=f"{MEASURE}{name}", step=measured[-1]["step"], sentence=found)


def due(step: int, before: int, steps: int) -> bool:
    """Whether to check after `step` steps, if the last line of the history was after `before`."""
    return step == steps or _CHECKS * step // steps > _CHECKS * before // steps


def _stays_above(lines: Sequence[Line], steps: int, rule: Alarm) -> str:
    late = [line[rule.number] for line in lines if line["step"] > _EARLY * steps]
    recent = late[-max(FEWEST, round(_RECENT * len(late))) :]
    if len(recent) < FEWEST or not all(map(math.isfinite, recent)):
        return ""
    mean, error = fmean(recent), stdev(recent) / math.sqrt(len(recent))
    if mean - _SURE * error <= rule.limit:
        return ""
    return (
        f"{rule.title} was {mean:.3g} on average over the last {len(recent)} reports, and "
        f"{rule.limit:.3g} at most is healthy: {rule.remedy}"
    )


def _stops_falling(lines: Sequence[Line], steps: int, rule: Alarm) -> str:
    if not lines or 2 * (now := lines[-1]["step"]) < steps:
        return ""
    thirds = [
        [line[rule.number] for line in lines if third < 3 * line["step"] / now <= third + 1]
        for third in (1, 2)
    ]
    if min(map(len, thirds)) < FEWEST:
        return ""
    before, after = map(fmean, thirds)
    noise = math.hypot(*(stdev(each) / math.sqrt(len(each)) for each in thirds))
    if not (after > rule.limit and before - after + _SURE * noise < _FALLS * before):
        return ""
    return (
        f"{rule.title} stopped falling: it was {after:.3g} on average over the last third of the "
        f"{now:,} steps so far, after {before:.3g} over the third before: {rule.remedy}"
    )


_BY_RULE: dict[str, Callable[[Sequence[Line], int, Alarm], str]] = {
    "stays above": _stays_above,
    "stops falling": _stops_falling,
}


def _collapses(measured: Sequence[Line], name: str, loss: str) -> str:
    """Return the alarm if the last two measurements are far worse than the best before them."""
    key, interval = f"{MEASURE}{name}", f"{INTERVAL}{name}"
    lines = [line for line in measured if key in line]
    if len(lines) < 3:
        return ""
    best = min(lines[:-2], key=lambda line: float(line[key]))

    def worse(line: Line) -> bool:
        apart = line[key] - best[key]
        factor = line[key] > _WORSE * max(best[key], 0.0)
        return bool(factor and apart > 2 * (line[interval] + best[interval]))

    if not all(worse(line) for line in lines[-2:]):
        return ""
    title = MEASURES[name].title
    last = lines[-1]
    return (
        f"{loss}: {title} is {last[key]:.3g} ± {last[interval]:.2g} after step {last['step']:,}, "
        f"and was {best[key]:.3g} ± {best[interval]:.2g} after step {best['step']:,}: lower "
        "optimizer.learning_rate, or the weight of the corrector (balancer.alpha, "
        "balancer.correction); evaluation.keep_best keeps the better student"
    )


def solver_alarm(evaluation: Evaluation, solver: Solver, step: int) -> Raised | None:
    """Return the alarm if the teacher's solver errs too much, or more than half as the student."""
    error, left = evaluation.solver_error, evaluation.trajectory_error.get(1.0)
    if error is None or left is None or error <= min(_COARSE, left.value / 2):
        return None
    adaptive = solver.method == "dopri5"
    plural = "" if solver.steps == 1 else "s"
    how = f"tolerance {solver.tolerance:g}" if adaptive else f"{solver.steps} step{plural}"
    remedy = "lower evaluation.solver.tolerance" if adaptive else "raise evaluation.solver.steps"
    return Raised(
        name=SOLVER,
        step=step,
        sentence=(
            f"the teacher's converged samples are not converged: {solver.method} with {how} is off "
            f"by {error:.2%} of the way, beside a student's trajectory error of {left.value:.2%}, "
            f"so the verdict compares with an inaccurate reference: {remedy}"
        ),
    )
