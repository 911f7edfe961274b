"""The noising velocity of samples, from a fit, against the teacher's.

v_N = E[x − n | x_r] depends only on the distribution of samples x. If the student's distribution is
that of the teacher's data, v_N is the teacher's velocity u; FreeFlow's corrector trains on v_N − u.
v_N is known only through a fit g, so two numbers are reported: ‖g − u‖, which includes the error of
the fit, and a lower bound on ‖v_N − u‖ for any g. Since E⟨g − u, (x − n) − u⟩ = E⟨g − u, v_N − u⟩,
Cauchy-Schwarz gives

    ‖v_N − u‖ ≥ E⟨g − u, (x − n) − u⟩ / ‖g − u‖

on samples that g was not fitted on, with equality for g = v_N.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from ffcore.draws import Draws, epochs
from ffcore.flow.path import interpolate
from ffcore.interfaces import Condition, Teacher, VelocityField
from ffcore.sample import NotFinite
from ffcore.training.learner import Learner
from ffcore.training.optimizer import Optimizer
from ffcore.verify.errors import Errors, norm

CLIP = 1.0
"""The largest norm of a gradient of the fit."""
TELL_EVERY = 10


@attrs.frozen(kw_only=True)
class Fit:
    """Settings of a fit: flow matching on a pool of samples, with fresh noise at each step."""

    steps: int
    batch: int
    samples: int
    """Number of samples in the pool, used repeatedly."""
    optimizer: Optimizer
    """Its warm-up and schedule count the steps of the fit."""
    seed: int = 0


@attrs.frozen(kw_only=True)
class NoisingGap:
    """‖v_N − u‖ at one noise level."""

    errors: Errors
    """Of ‖g − u‖, relative to ‖u‖."""
    at_least: float
    """The lower bound on the root mean square of ‖v_N − u‖ / √d; uninformative near 0."""
    at_least_error: float
    """Its standard error."""
    loss: float
    """E‖g − (x − n)‖² / d, the flow-matching loss of g on held-out samples."""
    loss_of_teacher: float
    """The same of u. It exceeds that of v_N by E‖v_N − u‖² / d."""


def fit_velocity(
    network: VelocityField,
    samples: Tensor,
    condition: Condition,
    fit: Fit,
    chunk: int,
    progress: Callable[[int, float], None],
) -> None:
    """Fit `network` to the noising velocity of samples, in place.

    Args:
        network: with gradients on.
        samples: the pool, Float[N, *S].
        condition: theirs, without γ.
        fit: the settings.
        chunk: number of samples per network call; changes only the rounding.
        progress: gets the number of steps and the loss now and then.

    Raises NotFinite if the fit diverges.
    """
    learner = Learner.of(network, fit.optimizer)
    device = samples.device
    finite = torch.ones((), dtype=torch.bool, device=device)
    for step in range(fit.steps):
        start = step * fit.batch
        chosen = epochs(fit.seed, start, start + fit.batch, len(samples)).to(device)
        draws = Draws(fit.seed, step, 0, fit.batch, str(device)).named("verify", "fit")
        noise = draws.normal("noise", tuple(samples.shape[1:]))
        r = draws.uniform("r")
        total = torch.zeros((), device=device)
        for first in range(0, fit.batch, chunk):
            part = slice(first, first + chunk)
            x, n = samples[chosen[part]], noise[part]
            with torch.enable_grad():
                found = network(interpolate(x, n, r[part]), r[part], condition[chosen[part]])
                loss = (found - (x - n)).square().flatten(1).mean(1).sum() / fit.batch
                loss.backward()
            total += loss.detach()
        learner.clip(CLIP)
        learner.step(fit.optimizer.factor(step, fit.steps), finite)
        if step % TELL_EVERY == 0 or step == fit.steps - 1:
            progress(step + 1, float(total))
            if not total.isfinite():
                raise NotFinite(
                    f"the fit of the noising velocity diverged in {step + 1} steps, with the "
                    "recipe's [optimizer]; use --fit-steps 0 to skip it"
                )


@torch.no_grad()
def noising_gap(
    g: VelocityField,
    teacher: Teacher,
    samples: Tensor,
    condition: Condition,
    r: float,
    *,
    seed: int,
    chunk: int,
) -> NoisingGap:
    """Return the gap between the noising velocity g of samples and the teacher's.

    Args:
        g: fitted on other samples of the same distribution.
        teacher: guided by the scale in the condition.
        samples: Float[N, *S].
        condition: theirs.
        r: noise level in (0, 1].
        seed: of the noise, which is the same at every level and for every g.
        chunk: number of samples per network call.
    """
    plain = attrs.evolve(condition, guidance=None)
    gaps, sizes, inner, losses, teachers = [], [], [], [], []
    for start in range(0, len(samples), chunk):
        part = slice(start, min(len(samples), start + chunk))
        x = samples[part]
        draws = Draws(seed, 0, part.start, part.stop, str(x.device)).named("verify", "levels")
        n = draws.normal("noise", tuple(x.shape[1:])).to(x)
        level = torch.full((len(x),), r, dtype=x.dtype, device=x.device)
        x_r = interpolate(x, n, level)
        u = teacher(x_r, level, condition[part])
        found = g(x_r, level, plain[part])
        gaps.append(norm(found - u))
        sizes.append(norm(u))
        inner.append(_mean_product(found - u, (x - n) - u))
        losses.append(norm(found - (x - n)))
        teachers.append(norm(u - (x - n)))
    gap, product = torch.cat(gaps), torch.cat(inner)
    length = max(float(gap.square().mean().sqrt()), torch.finfo(torch.float64).tiny)
    return NoisingGap(
        errors=Errors.of(gap, torch.cat(sizes)),
        at_least=float(product.mean()) / length,
        at_least_error=float(product.std()) / length / math.sqrt(len(product)),
        loss=float(torch.cat(losses).square().mean()),
        loss_of_teacher=float(torch.cat(teachers).square().mean()),
    )


def _mean_product(a: Tensor, b: Tensor) -> Tensor:
    """Return ⟨a, b⟩ / d of each sample, in float64 on the CPU: Float[B]."""
    return (a.cpu().double() * b.cpu().double()).flatten(1).mean(1)
