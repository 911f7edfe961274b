"""Teachers with an exact velocity, to test everything else against.

For data N(μ, s² I), with m_t = (1 − t) μ and a_t² = (1 − t)² s² + t², the flow moves x from t to r
as m_r + (a_r / a_t)(x − m_t). From the prior, f*(z, δ) = δ μ + a_{1−δ} z. A mixture's velocity is
the mean of its components' velocities under their responsibilities for x.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ffcore.flow.path import expand_like
from ffcore.interfaces import Condition, ConditionSource, Labels, Teacher, Unconditional


def _floats(values: Tensor | Sequence[Any]) -> Tensor:
    tensor = torch.as_tensor(values)
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())


def _positive(name: str, values: Tensor | Sequence[float] | float, rows: Tensor) -> Tensor:
    """Return a positive number for each row; `values` has one for all rows or one for each."""
    found = torch.as_tensor(values, dtype=rows.dtype)
    each = found.repeat(len(rows)) if found.ndim == 0 else found.clone()
    if each.shape != (len(rows),) or not (each > 0).all():
        possible = f"positive, one for all or {len(rows)}"
        raise ValueError(f"{name} must be {possible}, found {found.tolist()}")
    return each


def spread_at(t: Tensor, scale: Tensor) -> Tensor:
    """Return a_t, the standard deviation at times t of data with this one."""
    return ((1 - t) ** 2 * scale**2 + t**2).sqrt()


class ExactTeacher(Teacher):
    """A teacher with a known flow map, to compare a student's with."""

    @abstractmethod
    def flow_map(self, x: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        """Return the point to which the unguided flow moves x from t to t − δ.

        Args:
            x: Float[B, *S].
            t: starting times in (0, 1], Float[B].
            delta: durations in [0, t], Float[B].
            condition: of size B.

        Returns:
            Float[B, *S] in x's dtype; in float64 the error is at most 1e-7.
        """


class Gaussian(ExactTeacher):
    """Data N(μ, s² I); with several means and scales, one Gaussian for each class.

    Args:
        mean: Float[*S], or Float[classes, *S] with `conditional`.
        scale: s > 0; with `conditional`, one for all classes or one for each, Float[classes].
        conditional: whether the condition's label selects the row.

    Raises ValueError if a scale is not positive.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        mean: Tensor | Sequence[float] | Sequence[Sequence[float]],
        scale: Tensor | Sequence[float] | float = 1.0,
        *,
        conditional: bool = False,
    ) -> None:
        super().__init__()
        mean = _floats(mean)
        rows = mean if conditional else mean[None]
        scales = _positive("scale", scale, rows)
        self.register_buffer("mean", rows.clone())
        self.register_buffer("scale", scales)
        self.sample_shape = tuple(rows.shape[1:])
        self.conditions: ConditionSource = Labels(len(rows)) if conditional else Unconditional()

    def _law(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return μ [B, *S] and s [B]."""
        if isinstance(self.conditions, Unconditional):
            rows = torch.zeros(condition.size, dtype=torch.long, device=self.mean.device)
        elif condition.label is None:
            raise ValueError("this Gaussian is conditioned on labels, but the condition has none")
        else:
            rows = condition.label
        return self.mean[rows], self.scale[rows]

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return u = μ − ((t − (1 − t) s²) / a_t²)(x − m_t); see VelocityField."""
        mean, scale = (part.to(x_t.dtype) for part in self._law(condition))
        variance = (1 - t) ** 2 * scale**2 + t**2  # a_t²
        slope = expand_like((t - (1 - t) * scale**2) / variance, x_t)
        return mean - slope * (x_t - expand_like(1 - t, x_t) * mean)

    def flow_map(self, x: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        """Return m_r + (a_r / a_t)(x − m_t) with r = t − δ; see ExactTeacher."""
        mean, scale = (part.to(x.dtype) for part in self._law(condition))
        r = t - delta
        ratio = expand_like(spread_at(r, scale) / spread_at(t, scale), x)
        return expand_like(1 - r, x) * mean + ratio * (x - expand_like(1 - t, x) * mean)

    def average_velocity(
        self, x: Tensor, delta: Tensor, condition: Condition, t: Tensor | None = None
    ) -> Tensor:
        """Return F*(x, t, δ) = (f*(x, t, δ) − x) / δ, without cancellation at δ = 0.

        a_r² − a_t² = δ b with b = (s² + 1) δ + 2 (1 − t) s² − 2 t, so
        F* = μ + b / (a_t (a_t + a_r)) · (x − m_t). If `t` is None, x is at the prior.
        """
        t = torch.ones_like(delta) if t is None else t
        mean, scale = (part.to(x.dtype) for part in self._law(condition))
        b = (scale**2 + 1) * delta + 2 * (1 - t) * scale**2 - 2 * t
        a_t, a_r = spread_at(t, scale), spread_at(t - delta, scale)
        away = x - expand_like(1 - t, x) * mean
        return mean + expand_like(b / (a_t * (a_t + a_r)), x) * away

    def trainable_copy(self, *, takes_guidance: bool = False) -> None:
        """Return None: there is nothing to train. Name an online network in the recipe."""
        del takes_guidance
        return None


class GaussianMixture(ExactTeacher):
    """Data Σ_k w_k N(μ_k, s_k² I); a class is a set of components.

    Args:
        means: Float[K, *S].
        scales: s_k > 0, one for all or Float[K].
        weights: w_k > 0, Float[K], normalised to sum 1; default equal.
        labels: class of each component, from 0, Int[K]; None: unconditional. The null label, one
            above the highest class, means the whole mixture, so that the teacher can be guided.

    Raises ValueError for scales or weights that are not positive, and for classes without a
    component.
    """

    means: Tensor
    scales: Tensor
    log_weights: Tensor
    labels: Tensor | None

    def __init__(
        self,
        means: Tensor | Sequence[Sequence[float]],
        scales: Tensor | Sequence[float] | float = 1.0,
        weights: Tensor | Sequence[float] | None = None,
        labels: Tensor | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        means = _floats(means)
        count = len(means)
        scale = _positive("scales", scales, means)
        weight = _positive("weights", 1.0 if weights is None else weights, means)
        self.register_buffer("means", means.clone())
        self.register_buffer("scales", scale)
        self.register_buffer("log_weights", weight.log().log_softmax(0))
        classes = None if labels is None else torch.as_tensor(labels, dtype=torch.long)
        if classes is not None and sorted(set(classes.tolist())) != list(range(max(classes) + 1)):
            raise ValueError(f"labels must be 0, 1, … without gaps, found {classes.tolist()}")
        if classes is not None and len(classes) != count:
            raise ValueError(f"{len(classes)} labels for {count} means")
        self.register_buffer("labels", classes)
        self.sample_shape = tuple(means.shape[1:])
        self.conditions: ConditionSource = Unconditional()
        self.null_label: int | None = None
        if classes is not None:
            self.null_label = int(classes.max()) + 1
            self.conditions = Labels(self.null_label, null_label=self.null_label)

    def _log_joint(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return log w_k + log N(x_t; m_t, a_t² I) of each allowed component: Float[B, K]."""
        away = x_t[:, None] - expand_like(1 - t, x_t)[:, None] * self.means.to(x_t.dtype)
        scales = self.scales.to(x_t.dtype)
        variance = (1 - t[:, None]) ** 2 * scales**2 + t[:, None] ** 2  # [B, K]
        square = away.flatten(2).square().sum(2)
        dimensions = x_t[0].numel()
        log_joint = self.log_weights.to(x_t.dtype) - square / (2 * variance)
        log_joint = log_joint - dimensions / 2 * variance.log()
        if self.labels is None or condition.label is None:
            return log_joint
        label = condition.label[:, None]
        allowed = (label == self.labels) | (label == self.null_label)
        return log_joint.masked_fill(~allowed, -torch.inf)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the mean of the components' velocities under p(k | x_t); see VelocityField."""
        posterior = self._log_joint(x_t, t, condition).softmax(1)  # [B, K]
        means, scales = self.means.to(x_t.dtype), self.scales.to(x_t.dtype)
        variance = (1 - t[:, None]) ** 2 * scales**2 + t[:, None] ** 2  # [B, K]
        slope = (t[:, None] - (1 - t[:, None]) * scales**2) / variance
        # Σ_k p_k (μ_k − slope_k (x − (1 − t) μ_k)), as one product with the means.
        along_mean = posterior * (1 + slope * (1 - t[:, None]))
        along_x = (posterior * slope).sum(1)
        velocity: Tensor = torch.tensordot(along_mean, means, 1)
        return velocity - expand_like(along_x, x_t) * x_t

    def flow_map(self, x: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        """Return the flow map from an adaptive solver in float64 (rtol 1e-9); see ExactTeacher."""
        from torchdiffeq import odeint

        field = copy.deepcopy(self).double()
        start, length = t.double(), delta.double()

        def derivative(share: Tensor, state: Tensor) -> Tensor:  # share of each sample's duration
            velocity: Tensor = field(state, start - share * length, condition)
            return expand_like(length, state) * velocity

        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=x.device)
        with torch.no_grad():
            path: Tensor = odeint(derivative, x.double(), ends, rtol=1e-9, atol=1e-10)
        return path[-1].to(x.dtype)

    def trainable_copy(self, *, takes_guidance: bool = False) -> None:
        """Return None: there is nothing to train. Name an online network in the recipe."""
        del takes_guidance
        return None
