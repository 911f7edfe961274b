"""A gap by duration: how large it is beside the velocity that it should match.

A short duration is easy, since F is then the velocity itself. A student that is too small, or
trains too slowly, shows at the long ones.
"""

from __future__ import annotations

from torch import Tensor

from ffcore.interfaces import Alarm, Ratio

BINS = (0.25, 0.5, 0.75, 1.0)
"""The upper ends of the bins of δ; the first one includes 0."""


def number_of(upper: float) -> str:
    """Return the name of the number for the bin of this upper end."""
    return f"gap_to_{upper:g}"


STOPS_FALLING = tuple(
    Alarm(
        number=number_of(upper),
        rule="stops falling",
        limit=0.1,
        title=f"the gap at δ from {upper - 0.25:g} to {upper:g}, relative to the velocity,",
        remedy="raise optimizer.learning_rate, or take a larger student",
    )
    for upper in BINS
)
"""Alarms of a student that stopped learning while its gap is above a tenth of the velocity."""


def relative_gaps(gap: Tensor, velocity: Tensor, delta: Tensor) -> dict[str, Ratio]:
    """Return the root mean square of a gap relative to that of its velocity, by bins of δ.

    Args:
        gap, velocity: Float[B, *S], without gradient.
        delta: durations, Float[B].
    """
    of_gap, of_velocity = (each.flatten(1).square().mean(1) for each in (gap, velocity))
    found, below = {}, -1.0
    for upper in BINS:
        inside = ((delta > below) & (delta <= upper)).to(of_gap.dtype)
        found[number_of(upper)] = Ratio(part=of_gap * inside, whole=of_velocity * inside, root=True)
        below = upper
    return found
