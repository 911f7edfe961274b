"""Any pretrained network as a teacher in our convention.

Its input α x + σ n is s x_t with s = α + σ, at the t where σ/α = t / (1 − t). If it predicts the
conditional mean P of p x + q n, then with x_t = (1 − t) x + t n

    u = E[x − n | x_t] = (P − (p + q) x_t) / (p t − q (1 − t)).

Beyond the last trained time c the network gets x_t c/t, of the same noise, at c, and its estimate x̂
of the data is kept: u = (x̂ − x_t) / t. Before the first one it gets x_t (1 − c)/(1 − t), and its
estimate n̂ of the noise is kept: u = (x_t − n̂) / (1 − t). Both join the trained range continuously.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from ffcore.flow.convention import Convention, Path, Prediction, Schedule
from ffcore.flow.path import expand_like
from ffcore.interfaces import (
    Condition,
    ConditionSource,
    FrozenTeacher,
    FunctionTeacher,
    Teacher,
    Unconditional,
    VelocityField,
    digest_of,
)

Network = Callable[[Tensor, Tensor, Condition], Tensor]
Call = Callable[[Any, Tensor, Tensor, Condition], Tensor]


def convert(
    network: nn.Module | Network,
    *,
    prediction: Prediction,
    path: Path,
    time: str | Callable[[Tensor], Tensor],
    sample_shape: Sequence[int],
    conditions: ConditionSource | None = None,
    call: Call | None = None,
    schedule: Schedule | None = None,
    steps: int = 1000,
    alphas_cumprod: Iterable[float] | None = None,
    sigma_data: float | None = None,
    sigma_range: tuple[float, float] | None = None,
) -> Teacher:
    """Return a pretrained network as a teacher.

    Freezes a module in place, in eval mode, with weights of at least float32. The corrector can
    train a copy of it; a plain function cannot be copied.

    Args:
        network: the network. Called with the points on its path, Float[B, *S], its times, Float[B],
            and the condition, it returns its prediction, Float[B, *S].
        prediction: "velocity-to-data" (x − n), "velocity-to-noise" (n − x), "noise" (ε), "data"
            (x₀), "v" (α ε − σ x), "score" (∇ log p of its input) or "edm-output" (EDM's F).
        path: "linear" ((1 − t) x + t n), "vp" (α² + σ² = 1), "ve" (x + σ n, EDM's D), "edm"
            (c_in · (x + σ n), EDM's F) or "trig" (cos θ x / sigma_data + sin θ n, TrigFlow).
        time: its time: by its value at the noise ("noise-at-1", "noise-at-0", "noise-at-1000"; 0 or
            1 at the data), the "index" of a schedule (0 to N − 1, interpolated), "sigma" (σ/α),
            "log-snr" (ln α²/σ²), "c-noise" (ln σ / 4), "angle" (θ in radians), or a function of our
            t, Float[B] in float64, 1 = noise.
        sample_shape: *S.
        conditions: source of the conditions, such as Labels(10); by default there are none.
        call: (network, points, times, condition) -> prediction, for a network that takes other
            arguments or returns more: `lambda net, x, time, c: net(x, time, c.label)[:, :3]`.
        schedule: published schedule of a "vp" path: "linear", "scaled-linear" or "cosine".
        steps: its number of steps.
        alphas_cumprod: ᾱ = α² at index 0, 1, …, instead of a published schedule.
        sigma_data: standard deviation of the data, for "edm" and "trig".
        sigma_range: lowest and highest σ/α of the training. Default: the schedule's, or all.

    Raises ValueError for words that do not go together.
    """
    numbers = None if alphas_cumprod is None else tuple(map(float, alphas_cumprod))
    convention = Convention(
        prediction=prediction,
        path=path,
        time=time,
        schedule=schedule,
        steps=steps,
        alphas_cumprod=numbers,
        sigma_data=sigma_data,
        sigma_range=sigma_range,
    )
    return converted(network, convention, sample_shape, conditions or Unconditional(), call=call)


def converted(
    network: nn.Module | Network,
    convention: Convention,
    sample_shape: Sequence[int],
    conditions: ConditionSource,
    *,
    call: Call | None = None,
) -> Teacher:
    """Return a network of a convention as a teacher; see `convert`."""
    field = ConvertedVelocity(network, convention, call)
    shape = tuple(sample_shape)
    if isinstance(network, nn.Module):
        return FrozenTeacher(field, shape, conditions)
    return FunctionTeacher(field, shape, conditions)


class ConvertedVelocity(VelocityField):
    """The velocity of a network in another convention.

    Computes at least in float32, and outside autocast if the convention magnifies errors.
    """

    def __init__(
        self, network: nn.Module | Network, convention: Convention, call: Call | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.convention = convention
        self.call = call
        self.relation = Relation.of(convention)
        if isinstance(network, nn.Module):
            _widen(network)
            words = [str(each) for each in attrs.astuple(convention) if not callable(each)]
            digest = bytes.fromhex(digest_of(" ".join(words)))
            # The same weights in another convention are another teacher.
            self.register_buffer("digest", torch.tensor([*digest], dtype=torch.uint8))

    def magnification(self, t: Tensor) -> Tensor:
        """Return |∂u/∂P|; a score counts as the noise that it stands for. See VelocityField."""
        low, high = self.relation.trained
        return self.relation.magnification(t.double().clamp(low, high)).to(t.dtype)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the velocity; see VelocityField."""
        device = x_t.device.type
        known = torch.amp.is_autocast_available(device)  # not on the meta device
        if self.convention.magnifies and known and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self._velocity(x_t, t, condition)
        return self._velocity(x_t, t, condition)

    def _velocity(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        relation, low, high = self.relation, *self.relation.trained
        wide = torch.promote_types(x_t.dtype, torch.float32)
        x, t = x_t.to(wide), t.double()
        c = t.clamp(low, high)

        def like(values: Tensor) -> Tensor:
            return expand_like(values, x).to(wide)

        # c/t beyond the range, (1 − c)/(1 − t) before it, 1 within; no division by 0 anywhere.
        factor = high / t.clamp(min=high) * ((1 - low) / (1 - t.clamp(max=low)))
        x_c = like(factor) * x
        P = self._ask(like(relation.scale(c)) * x_c, relation.time(c).to(wide), condition).to(wide)
        p, q = relation.target(c)
        u = (P - like(p + q) * x_c) / like(p * c - q * (1 - c))
        if high < 1:
            beyond = (like(factor - 1) * x + like(c) * u) / like(t.clamp(min=high))
            u = torch.where(like(t) > high, beyond, u)
        if low > 0:
            before = (like(1 - factor) * x + like(1 - c) * u) / like(1 - t.clamp(max=low))
            u = torch.where(like(t) < low, before, u)
        return u.to(x_t.dtype)

    def _ask(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        if self.call is not None:
            return self.call(self.network, x, time, condition)
        found: Tensor = self.network(x, time, condition)
        return found


@attrs.frozen(eq=False)
class Relation:
    """A convention in numbers, at our times t within the trained range: float64 [B]."""

    convention: Convention
    trained: tuple[float, float]
    numbers: tuple[float, ...] | None
    """The schedule's t at each index."""

    @classmethod
    def of(cls, convention: Convention) -> Relation:
        """Return the relation of a convention."""
        return cls(convention, convention.trained, convention.numbers)

    def scale(self, t: Tensor) -> Tensor:
        """Return s = α + σ, the network's input divided by x_t."""
        if self.convention.path == "linear":
            return torch.ones_like(t)
        if self.convention.path == "ve":
            return 1 / (1 - t)
        return 1 / self._length(t)

    def target(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (p, q) of the prediction E[p x + q n | x_t]."""
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        d, length = self._sigma_data, self._length(t)
        v = -t / (d * length), d * (1 - t) / length  # (−sin θ / d, cos θ)
        targets = {
            "velocity-to-data": (one, -one),
            "velocity-to-noise": (-one, one),
            "noise": (zero, one),
            "data": (one, zero),
            "v": v,
            "edm-output": (-v[0], -v[1]),
        }
        if self.convention.prediction == "score":
            return zero, -1 / (self.scale(t) * t)
        return targets[self.convention.prediction]

    def magnification(self, t: Tensor) -> Tensor:
        """Return 1 / |p t − q (1 − t)|: by how much an error of the prediction counts in u.

        A score's own scale is that of the noise divided by σ, so it counts as the noise does.
        """
        if self.convention.prediction == "score":
            return 1 / (1 - t)
        p, q = self.target(t)
        return 1 / (p * t - q * (1 - t)).abs()

    def time(self, t: Tensor) -> Tensor:
        """Return the network's time."""
        name = self.convention.time
        if not isinstance(name, str):
            found: Tensor = name(t)
            return found
        if name == "index":
            return self._index(t)
        if name in ("sigma", "log-snr", "c-noise"):
            ratio = t / (1 - t)
            if name == "sigma":
                return ratio
            return -2 * ratio.log() if name == "log-snr" else ratio.log() / 4
        angle = torch.atan2(t, self._sigma_data * (1 - t))
        if name == "angle":
            return angle
        share = t if self.convention.path == "linear" else angle / (math.pi / 2)
        return {"noise-at-1": share, "noise-at-0": 1 - share, "noise-at-1000": 1000 * share}[name]

    @property
    def _sigma_data(self) -> float:
        return self.convention.sigma_data or 1.0

    def _length(self, t: Tensor) -> Tensor:
        return (t**2 + (self._sigma_data * (1 - t)) ** 2).sqrt()

    def _index(self, t: Tensor) -> Tensor:
        """Return the index in [0, N − 1], linear in t between two of the schedule."""
        assert self.numbers is not None
        times = _tensor(self.numbers, t.device)
        above = torch.searchsorted(times, t).clamp(1, len(times) - 1)
        return above - 1 + (t - times[above - 1]) / (times[above] - times[above - 1])


@functools.cache
def _tensor(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, device=device)


def _widen(network: nn.Module) -> None:
    """Turn weights of less than float32 into float32, in place."""
    for each in (*network.parameters(), *network.buffers()):
        if each.is_floating_point() and torch.finfo(each.dtype).bits < 32:
            each.data = each.data.float()
