"""What a pretrained network predicts, on which path and with which time. Torch-free.

A path is α x + σ n, x data and n unit noise; ours has α = 1 − t and σ = t. Two points of equal σ/α
differ in scale alone, so a network of any path answers at our t = ρ / (1 + ρ) with ρ = σ/α.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal, get_args

import attrs

from ffcore.keys import ImpossibleValue, did_you_mean, key, ordered

Prediction = Literal[
    "velocity-to-data", "velocity-to-noise", "noise", "data", "v", "score", "edm-output"
]
Path = Literal["linear", "vp", "ve", "edm", "trig"]
Time = Literal[
    "noise-at-1", "noise-at-0", "noise-at-1000", "index", "sigma", "log-snr", "c-noise", "angle"
]
Schedule = Literal["linear", "scaled-linear", "cosine"]

PATHS_OF: dict[str, tuple[str, ...]] = {
    "velocity-to-data": ("linear",),
    "velocity-to-noise": ("linear",),
    "v": ("vp", "edm", "trig"),
    "edm-output": ("edm", "trig"),
}
"""The paths on which a prediction means one thing; others mean it on every path."""
TIMES_OF: dict[str, tuple[str, ...]] = {
    "noise-at-1": ("linear", "trig"),
    "noise-at-0": ("linear", "trig"),
    "noise-at-1000": ("linear", "trig"),
    "index": ("vp",),
    "angle": ("vp", "edm", "trig"),
}
"""The same for times."""
_INSTEAD = {
    "velocity-to-data": "the derivative of a variance-preserving path is called v",
    "velocity-to-noise": "the derivative of a variance-preserving path is called v",
    "v": "on the linear path the derivative is a velocity",
    "noise-at-1": "fractions of other paths have several meanings: name another time",
    "noise-at-0": "fractions of other paths have several meanings: name another time",
    "noise-at-1000": "for the indices 0 to N − 1 of a schedule, write 'index'",
}
MAGNIFIED = frozenset({"noise", "data", "score"})
"""Predictions whose errors count 1 / (1 − t) or 1 / t times in the velocity."""
EDM_RANGE = (0.002, 80.0)
"""EDM's σ (Karras et al., 2206.00364, table 1)."""


def _falls(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    del instance
    if value is None:
        return
    if len(value) < 2 or any(b >= a for a, b in itertools.pairwise(value)):
        hint = "; betas and sigmas are other numbers" if len(value) > 1 else ""
        raise ImpossibleValue(attribute.name, tuple(value[:3]), "falling numbers" + hint)


def _time(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    del instance
    if value in get_args(Time) or callable(value):
        return
    possible = "a function of our t, or one of " + ", ".join(map(repr, get_args(Time)))
    raise ImpossibleValue(attribute.name, value, possible, did_you_mean(str(value), get_args(Time)))


@attrs.frozen(kw_only=True)
class Convention:
    """The convention of a network.

    Raises ValueError for words that do not go together.
    """

    prediction: Prediction = key(
        help="output of the network: 'velocity-to-data' (x − n), 'velocity-to-noise' (n − x), "
        "'noise' (ε), 'data' (x₀), 'v' (α ε − σ x), 'score' (of its own input), or 'edm-output' "
        "(EDM's F, before c_skip and c_out)",
        one_of=get_args(Prediction),
    )
    path: Path = key(
        help="input of the network: 'linear' (x_t itself), 'vp' (α² + σ² = 1), 've' (x + σ n), "
        "'edm' (c_in · (x + σ n)), or 'trig' (cos θ x / sigma_data + sin θ n)",
        one_of=get_args(Path),
    )
    time: Any = key(
        help="time of the network: its value at the noise ('noise-at-1', 'noise-at-0', "
        "'noise-at-1000'), the 'index' of a schedule, 'sigma' (σ/α), 'log-snr' (ln α²/σ²), "
        "'c-noise' (ln σ / 4), or 'angle' (θ)",
        validator=_time,
    )
    schedule: Schedule | None = key(
        None,
        help="published schedule of a 'vp' path: 'linear' (DDPM), 'scaled-linear' (Stable "
        "Diffusion) or 'cosine' (improved DDPM); 'none': alphas_cumprod or sigma_range",
        one_of=get_args(Schedule),
    )
    steps: int = key(1000, help="number of steps of `schedule`", at_least=2)
    alphas_cumprod: tuple[float, ...] | None = key(
        None,
        help="own schedule of a 'vp' path: α² at index 0, 1, …",
        at_least=0,
        below=1,
        validator=_falls,
    )
    sigma_data: float | None = key(
        None,
        help="standard deviation of the data on the paths 'edm' and 'trig'; EDM's is 0.5",
        above=0,
    )
    sigma_range: tuple[float, float] | None = key(
        None,
        help="lowest and highest σ/α that the network was trained at; EDM's is [0.002, 80]. "
        "'none': the ends of the schedule, or all of (0, ∞)",
        above=0,
        validator=ordered,
    )

    def __attrs_post_init__(self) -> None:
        self._fits("prediction", self.prediction, PATHS_OF)
        if isinstance(self.time, str):
            self._fits("time", self.time, TIMES_OF)
        self._has_its_schedule()
        if (self.sigma_data is None) == (self.path in ("edm", "trig")):
            raise ValueError(
                f"path {self.path!r} needs sigma_data, the standard deviation of the data that the "
                "network was built with; EDM's is 0.5, and 1 leaves the data as they are"
                if self.sigma_data is None
                else f"sigma_data belongs to 'edm' and 'trig', but path is {self.path!r}"
            )
        self._is_bounded()

    def _has_its_schedule(self) -> None:
        named, numbers = self.schedule is not None, self.alphas_cumprod is not None
        if named and numbers:
            raise ValueError("schedule and alphas_cumprod contradict each other: name one of them")
        if (named or numbers) and self.path != "vp":
            raise ValueError(f"a schedule belongs to the path 'vp', but path is {self.path!r}")
        if self.time == "index" and not (named or numbers):
            raise ValueError("time 'index' needs its schedule: schedule or alphas_cumprod")
        if self.steps != 1000 and self.schedule in (None, "scaled-linear"):
            raise ValueError(
                f"steps is {self.steps}, but the schedule is {self.schedule or 'not named'}: other "
                "numbers than 1000 belong to 'linear' and 'cosine'; or give alphas_cumprod"
            )

    def _fits(self, name: str, word: str, paths: dict[str, tuple[str, ...]]) -> None:
        possible = paths.get(word, (self.path,))
        if self.path not in possible:
            why = f" ({_INSTEAD[word]})" if word in _INSTEAD else ""
            raise ValueError(
                f"{name} {word!r} is for the path {' or '.join(map(repr, possible))}, but path is "
                f"{self.path!r}{why}"
            )

    def _is_bounded(self) -> None:
        state = "state sigma_range, the lowest and highest σ/α that the network was trained at"
        if self.path in ("ve", "edm") and self.sigma_range is None:
            raise ValueError(f"path {self.path!r} has no end: {state}; EDM's is {list(EDM_RANGE)}")
        low, high = self.trained
        if self.time in ("sigma", "log-snr", "c-noise") and (high >= 1 or low <= 0):
            raise ValueError(f"time {self.time!r} is infinite at an end of time: {state}")
        if self.prediction in ("noise", "score") and high >= 1:
            raise ValueError(f"prediction {self.prediction!r} says nothing of pure noise: {state}")
        if self.prediction in ("data", "score") and low <= 0:
            raise ValueError(f"prediction {self.prediction!r} says nothing of pure data: {state}")

    @property
    def numbers(self) -> tuple[float, ...] | None:
        """The schedule's t at index 0, 1, …, rising; None without a schedule."""
        alpha_bar = self.alphas_cumprod
        if self.schedule is not None:
            alpha_bar = _alphas_cumprod(self.schedule, self.steps)
        if alpha_bar is None:
            return None
        pairs = ((math.sqrt(each), math.sqrt(1 - each)) for each in alpha_bar)
        return tuple(sigma / (alpha + sigma) for alpha, sigma in pairs)

    @property
    def trained(self) -> tuple[float, float]:
        """The first and the last t that the network was trained at."""
        low, high = 0.0, 1.0
        if (numbers := self.numbers) is not None:
            low, high = numbers[0], numbers[-1]
        if self.sigma_range is not None:
            first, last = (sigma / (1 + sigma) for sigma in self.sigma_range)
            low, high = max(low, first), min(high, last)
        if not low < high:
            raise ValueError(f"sigma_range {self.sigma_range} holds no time of the schedule")
        return low, high

    @property
    def magnifies(self) -> bool:
        """Whether errors of the network count more in the velocity near an end of time."""
        return self.prediction in MAGNIFIED


def _alphas_cumprod(schedule: str, steps: int) -> tuple[float, ...]:
    """Return a published schedule's ᾱ.

    linear: Ho et al., 2006.11239, with the betas of other numbers of steps scaled as in ADM
    (2105.05233). scaled-linear: Rombach et al., 2112.10752. cosine: Nichol & Dhariwal, 2102.09672,
    equation 17, with betas of at most 0.999.
    """
    share = [index / (steps - 1) for index in range(steps)]
    if schedule == "linear":
        first, last = (beta * 1000 / steps for beta in (1e-4, 0.02))
        betas = [first + (last - first) * each for each in share]
    elif schedule == "scaled-linear":
        first, last = math.sqrt(0.00085), math.sqrt(0.012)
        betas = [(first + (last - first) * each) ** 2 for each in share]
    else:

        def f(index: int) -> float:
            return math.cos((index / steps + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - f(index + 1) / f(index), 0.999) for index in range(steps)]
    if max(betas) >= 1:
        raise ValueError(f"schedule {schedule!r} does not exist in {steps} steps: too few")
    found, product = [], 1.0
    for beta in betas:
        product *= 1 - beta
        found.append(product)
    return tuple(found)
