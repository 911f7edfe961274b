"""The verdict: how many of its teacher's Euler steps a student's sampling is worth.

In each measure the student has a place among the teacher's own Euler steps, with an interval of
95 %. The verdict is the worst of these places, and names its measure. The noise floor, the
teacher's converged samples from other noise, stands for infinitely many steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import attrs
import numpy as np
from numpy.typing import NDArray

from ffcore.evaluate.distribution import DRAWS, FEWEST, Replicates

_T = 2.262
"""Quantile 0.975 of Student's t with DRAWS − 1 = 9 degrees of freedom."""
_ALIKE = math.log(1.05)
"""Nearest distances that differ by less than 5 % count as equal."""
_TINY = 1e-12
_FINEST = 16
"""Places between a number of steps and its double."""
_FEWEST = 1 / 64
"""The least place, in Euler steps."""

Array = NDArray[np.float64]


@attrs.frozen(kw_only=True)
class Measure:
    """A measure of `distribution`."""

    title: str
    excess: Callable[[Array, Array], Array]
    """Replicates of a measure and of its floor -> how much worse; 0 at the floor."""
    shown: Callable[[Array, Array], Array] = lambda found, _: found
    """Replicates of the number that people see."""
    alike: float = 0.0
    """The largest excess that counts as none."""


def _difference(found: Array, floor: Array) -> Array:
    return found - floor


def _ratio(found: Array, floor: Array) -> Array:
    """Return the ratio of two distances, which are 0 if all samples are the same."""
    return np.maximum(found, _TINY) / np.maximum(floor, _TINY)


def _more(found: Array, floor: Array) -> Array:
    return np.log(_ratio(found, floor))


def _either_way(found: Array, floor: Array) -> Array:
    """Few Euler steps contract: samples sharper than the teacher's are no better than blurred."""
    excess = _more(found, floor)
    return -excess if excess[0] < 0 else excess


MEASURES = {
    "frechet": Measure(title="Fréchet distance", excess=_difference),
    "energy": Measure(title="energy distance", excess=_difference),
    "sharpness": Measure(title="sharpness", excess=_either_way, shown=_ratio, alike=_ALIKE),
    "coverage": Measure(
        title="coverage",
        excess=_more,
        shown=_ratio,
        alike=_ALIKE,
    ),
    "class": Measure(title="worst class", excess=_difference),
    "class_coverage": Measure(
        title="worst-class coverage", excess=_more, shown=_ratio, alike=_ALIKE
    ),
    "accuracy": Measure(title="class accuracy", excess=lambda found, floor: floor - found),
}
"""The measures by name."""


@attrs.frozen(kw_only=True)
class Ladder:
    """Replicates of one measure of a teacher's own samples."""

    floor: Replicates
    """Of converged samples from other noise."""
    euler: Mapping[int, Replicates]
    """By the number of Euler steps."""


@attrs.frozen(kw_only=True)
class Estimate:
    """A number and its interval of 95 %, from independent draws."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(replicates: Array) -> Estimate:
        """Return the estimate of jackknife replicates."""
        value, around = float(replicates[0]), _T * _error(replicates)
        return Estimate(value=value, low=value - around, high=value + around)


@attrs.frozen(kw_only=True)
class Worth:
    """The place of a student among its teacher's Euler steps, in one measure."""

    text: str
    """The range of steps in words, rounded outwards."""
    low: float | None
    """Least number of steps; None if nothing tells the student from the converged teacher."""
    high: float | None
    """Largest number of steps; None without a bound."""
    at: float | None
    """Most likely number of steps; None beyond the last that this measure orders."""
    told: bool
    """Whether this measure tells the student from the converged teacher."""
    orders: int
    """Most Euler steps that this measure tells from the converged teacher; 0 if none."""


def worth(name: str, student: Replicates, ladder: Ladder) -> Worth:
    """Return the student's place in the measure of this name.

    The ladder leaves out a number of steps that is better than a larger one, so a measure that
    crosses its floor on the way, as sharpness can, orders the others. Every comparison takes the
    jackknife error of the difference, which shared noise makes small.
    """
    measure = MEASURES[name]
    floor = np.array(ladder.floor)
    mine = measure.excess(np.array(student), floor)
    excess = {k: measure.excess(np.array(e), floor) for k, e in ladder.euler.items()}
    envelope = _envelope(excess)
    # Twice the interval: samples at the floor are then told from this rung as well.
    told = [k for k, each in envelope.items() if each[0] - 2 * _T * _error(each) > measure.alike]
    last = max(told, default=0)
    if not last:
        return _unordered(mine, excess, measure.alike)
    places, rungs = _rungs(envelope, last)
    away = mine - rungs
    error = _T * np.array([_error(each) for each in away])
    end = len(places) - 1
    no_better, no_worse = away[:, 0] + error >= 0, away[:, 0] - error <= 0
    passed = np.flatnonzero(away[:, 0] <= 0)
    at = passed[-1] if len(passed) else 0
    low = min(np.flatnonzero(no_better)[0] if no_better.any() else end, at)
    high = max(np.flatnonzero(no_worse)[-1] if no_worse.any() else 0, at)
    if mine[0] - _T * _error(mine) <= measure.alike:  # at the floor, as far as can be told
        least = None if places[low] >= last else float(places[low])
        text = _range(last if least is None else least, None)
        return Worth(text=text, low=least, high=None, at=None, told=False, orders=last)
    most = None if high == end else float(places[high])
    return Worth(
        text=_range(float(places[low]), most),
        low=float(places[low]),
        high=most,
        at=None if at == end else float(places[at]),
        told=True,
        orders=last,
    )


def _unordered(mine: Array, excess: Mapping[int, Array], alike: float) -> Worth:
    """Return the place in a measure that orders no Euler steps: none, or worse than all of them."""
    beyond = [mine - alike, *(mine - each for each in excess.values())]
    if not excess or any(each[0] <= _T * _error(each) for each in beyond):
        return Worth(text="not ordered", low=None, high=None, at=None, told=False, orders=0)
    first = min(excess)
    text = f"less than {first}"
    return Worth(text=text, low=0.0, high=float(first), at=None, told=True, orders=0)


def _envelope(excess: Mapping[int, Array]) -> dict[int, Array]:
    """Return the numbers of steps that are worse than all larger ones, with their excess."""
    found: dict[int, Array] = {}
    worst = -math.inf
    for steps in sorted(excess, reverse=True):
        if excess[steps][0] > worst:
            found[steps], worst = excess[steps], excess[steps][0]
    return dict(sorted(found.items()))


@attrs.frozen(kw_only=True)
class Standing:
    """One measure in one feature space: the student among its teacher's baselines."""

    title: str
    """Of the measure."""
    floor: Estimate
    """Of the teacher's converged samples from other noise."""
    euler: Mapping[int, Estimate]
    """Of the teacher's samples, by the number of Euler steps."""
    student: Mapping[int, Estimate]
    """Of the student's samples, by the number of steps."""
    worth: Mapping[int, Worth]
    """The student's place, by the number of steps."""


def standing(name: str, student: Mapping[int, Replicates], ladder: Ladder) -> Standing:
    """Return the standing in the measure of this name, of replicates by numbers of steps."""
    floor = np.array(ladder.floor)

    def estimate(found: Replicates) -> Estimate:
        return Estimate.of(MEASURES[name].shown(np.array(found), floor))

    return Standing(
        title=MEASURES[name].title,
        floor=estimate(ladder.floor),
        euler={steps: estimate(each) for steps, each in ladder.euler.items()},
        student={steps: estimate(each) for steps, each in student.items()},
        worth={steps: worth(name, each, ladder) for steps, each in student.items()},
    )


Standings = Mapping[str, Mapping[str, Standing]]
"""By the name of the features, then of the measure."""


@attrs.frozen(kw_only=True)
class Verdict:
    """What a student's sampling is worth, in its teacher's Euler steps."""

    sentence: str
    """Without a full stop."""
    low: float | None = None
    """Least number of Euler steps; None if nothing is known."""
    high: float | None = None
    """Largest number of Euler steps; None without a bound."""
    limited_by: str | None = None
    """The measure in which the student is worst, "sharpness" if a blur explains its coverage; None
    if none tells it from its teacher."""
    features: str | None = None
    """The features of that measure."""


def verdict(standings: Standings, steps: int, samples: int) -> Verdict:
    """Return the verdict on a number of steps: the place in the worst measure.

    Args:
        standings: in all feature spaces.
        steps: of the student.
        samples: from which they were measured.
    """
    whose = "one step" if steps == 1 else f"{steps} steps"
    places = [
        (features, name, each.worth[steps])
        for features, measures in standings.items()
        for name, each in measures.items()
        if each.worth[steps].orders or each.worth[steps].told
    ]
    if samples < FEWEST:
        return Verdict(
            sentence=f"no verdict: {samples} samples are too few, at least {FEWEST} are needed"
        )
    if not any(each.euler for measures in standings.values() for each in measures.values()):
        return Verdict(sentence="no verdict: evaluation.euler names no steps to compare with")
    if not places:
        return Verdict(
            sentence=f"no verdict: {samples:,} samples do not tell the teacher's Euler steps from "
            "its converged samples"
        )
    start = f"{whose} {'is' if steps == 1 else 'are'} worth"
    limits = [each for each in places if each[2].told]
    if limits:
        features, name, found = min(limits, key=lambda each: _order(each[2]))
        name = _cause(name, standings[features], steps)
        where = f" in features {features}" if len(standings) > 1 else ""
        return Verdict(
            sentence=f"{start} {_euler(found.text)} (limited by {MEASURES[name].title}{where})",
            low=found.low,
            high=found.high,
            limited_by=name,
            features=features,
        )
    most = max(each.orders for *_, each in places)
    least = min([each.low for *_, each in places if each.low is not None], default=float(most))
    if least < 1:
        return Verdict(
            sentence=f"no verdict: {samples:,} samples tell {whose} neither from the teacher's "
            "first Euler step nor from its converged samples"
        )
    it = "it" if steps == 1 else "them"
    return Verdict(
        sentence=f"{start} {_euler(_range(least, None))}: no measure tells {it} from the "
        "converged teacher",
        low=least,
    )


def _cause(name: str, measures: Mapping[str, Standing], steps: int) -> str:
    """Return the measure that names the fault.

    A blurred sample is far from every sample of the teacher. So a blur takes coverage with it, and
    is the fault where sharpness is as far from the teacher's as coverage is.
    """
    sharpness = measures.get("sharpness")
    if name != "coverage" or sharpness is None or not sharpness.worth[steps].told:
        return name
    blur, lost = sharpness.student[steps].value, measures[name].student[steps].value
    return "sharpness" if blur >= lost else name


def _order(place: Worth) -> tuple[float, float, float]:
    """Return what sorts places, the worst first: an upper end is known, a centre only likely."""
    return place.high or math.inf, place.at or math.inf, place.low or 0.0


def _range(low: float, high: float | None) -> str:
    """Return a range of steps in words, rounded outwards."""
    least = math.floor(low)
    if high is None:
        return f"{least} or more"
    most = math.ceil(high)
    if not least:
        return "less than 1" if high < 1 else f"at most {most}"
    return f"{least} to {most}" if least < most else f"{least}"


def _euler(text: str) -> str:
    """Return a range of steps with its unit."""
    return f"{text} Euler step{'' if text in ('1', 'less than 1', 'at most 1') else 's'}"


def _rungs(envelope: Mapping[int, Array], last: int) -> tuple[Array, Array]:
    """Return places in Euler steps, and the replicates of the excess at each.

    Between two numbers of steps the excess follows a power law, below the first it falls with the
    number of steps. After the last that the measure orders come the steps up to the next number.
    """
    known = {k: each for k, each in envelope.items() if k <= last}
    first = min(known)
    beyond = next((k for k in envelope if k > last), None)
    if beyond is not None:
        least = known[last] * (last / beyond) ** 2  # no order of an Euler error is higher
        known[beyond] = envelope[beyond] if envelope[beyond][0] > least[0] else least
    places, rungs = [], []
    for place in np.exp2(np.arange(math.log2(first * _FEWEST), math.log2(first), 1 / _FINEST)):
        places.append(place)
        rungs.append(known[first] * (first / place))
    steps = list(known)
    for here, there in pairwise(steps):
        a, b = known[here], known[there]
        for part in np.arange(0, 1, 1 / (_FINEST * math.log2(there / here))):
            value = a[0] * (b[0] / a[0]) ** part
            weight = (a[0] - value) / (a[0] - b[0]) if a[0] > b[0] else part
            places.append(here * (there / here) ** part)
            rungs.append((1 - weight) * a + weight * b)
    places.append(float(steps[-1]))
    rungs.append(known[steps[-1]])
    return np.array(places), np.array(rungs)


def _error(replicates: Array) -> float:
    """Return the standard error of a jackknife that leaves out one draw at a time."""
    each = replicates[1:]
    return float(np.sqrt((DRAWS - 1) / DRAWS * np.square(each - each.mean()).sum()))
