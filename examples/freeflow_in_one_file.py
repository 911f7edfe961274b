"""FreeFlow in one file: a teacher becomes a one-step student, and no data is used.

    python examples/freeflow_in_one_file.py    # a minute on one CPU core; --steps 300: seconds

The method is Tong, Ma, Xie & Jaakkola, "Flow Map Distillation Without Data" (arXiv 2511.19428). The
formulas are those of docs/method.md, the symbols those of docs/conventions.md:

    t           time: 1 is prior noise n, 0 is data x; x_t = (1 - t) x + t n
    u(x, t)     the teacher's velocity, from noise to data: E[x - n | x_t]
    F(z, delta) the student's output, the average velocity over the duration delta
    f(z, delta) the student's flow map, z + delta F(z, delta); f(z, 1) is a sample
    g(x, r)     the online network g_psi: the velocity of the student's own samples

A norm is divided by sqrt(d), where d is the number of dimensions of a sample.
"""

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Velocity = Callable[[Tensor, Tensor], Tensor]

# The teacher: four Gaussians in the plane, whose velocity is known exactly.
MEANS, SCALE = torch.tensor([[1.5, 1.5], [-1.5, 1.5], [-1.5, -1.5], [1.5, -1.5]]), 0.5


def teacher(x_t: Tensor, t: Tensor) -> Tensor:
    """u(x_t, t): the velocities of the Gaussians, weighted by how likely each is at x_t."""
    t, means = t[:, None, None], MEANS.to(x_t)
    variance = (1 - t) ** 2 * SCALE**2 + t**2
    offset = x_t[:, None] - (1 - t) * means  # [B, 4, 2]
    probability = (-offset.square().sum(2, keepdim=True) / (2 * variance)).softmax(1)
    velocity = means - (t - (1 - t) * SCALE**2) / variance * offset
    return (probability * velocity).sum(1)


class Network(nn.Module):
    """A small MLP of a point and a number in [0, 1]: F(z, delta), and g(x, r)."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        first, last = nn.Linear(2 + 9, width), nn.Linear(width, 2)
        hidden = [nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        self.layers = nn.Sequential(first, *hidden, last)

    def forward(self, x: Tensor, number: Tensor) -> Tensor:
        """Return a velocity for each point."""
        # Slow waves only: the predictor differentiates in delta, and fast ones make that noisy.
        angle = number[:, None] * torch.arange(1, 5).to(x)
        out: Tensor = self.layers(torch.cat([x, number[:, None], angle.sin(), angle.cos()], 1))
        return out


class Gap(NamedTuple):
    """An output F of the student, with gradient, and the gap by which it is off, without."""

    output: Tensor
    gap: Tensor


def norm(gap: Tensor) -> Tensor:
    """||gap|| / sqrt(d) of each sample."""
    return gap.square().mean(1).sqrt()


def interpolate(x: Tensor, n: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x + t n."""
    return (1 - t[:, None]) * x + t[:, None] * n


# Predictor: the student moves as the teacher does. f is the teacher's flow map if and only if
# df/d delta = u(f, 1 - delta) at every delta, since both start at z. To check that, z is enough.
def predictor(F: Velocity, u: Velocity, z: Tensor, delta: Tensor) -> Gap:
    """Delta_G = v_G - u(f, 1 - delta), with the generating velocity v_G = F + delta dF/d delta."""
    # z has no tangent: delta alone moves along a path.
    ones = torch.ones_like(delta)
    output, d_output = torch.func.jvp(lambda d: F(z, d), (delta,), (ones,))  # type: ignore[misc]
    with torch.no_grad():  # the target stands still: only F is moved
        f = z + delta[:, None] * output
        v_G = output + delta[:, None] * d_output
        return Gap(output, v_G - u(f, 1 - delta))


# Corrector: the student's samples are distributed as the teacher's. The predictor's errors add up
# along delta, and nothing in it brings a stray sample back. Two distributions are equal if their
# noised samples have equal velocities; the gradient of an integral of KL divergences is that gap.
def corrector(F: Velocity, g: Velocity, u: Velocity, z: Tensor, r: Tensor, n: Tensor) -> Gap:
    """Delta_N = v_N - u at the noised sample I_r = (1 - r) f(z, 1) + r n; g stands for v_N."""
    output = F(z, torch.ones_like(r))
    with torch.no_grad():
        I_r = interpolate(z + output, n, r)
        return Gap(output, g(I_r, r) - u(I_r, r))


def online_loss(g: Velocity, x: Tensor, r: Tensor, n: Tensor) -> Tensor:
    """Flow matching on the student's samples x: the best g is E[x - n | I_r], which is v_N."""
    return (g(interpolate(x, n, r), r) - (x - n)).square().mean()


# Balancer: one loss of both. The weight w keeps a few large gaps from ruling the prediction;
# lambda brings the correction to the size of the prediction, weights included.
def balancer(
    prediction: Gap, correction: Gap, alpha: float = 1.0, k: float = 1.0, epsilon: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Return the loss, 1/2B [sum w ||Delta_G||^2 + lambda sum ||Delta_N||^2], and lambda.

    w = (||Delta_G||^2 + epsilon)^-k and lambda = alpha E||w Delta_G|| / E||Delta_N||. The paper
    takes k = 1, and finds alpha from 0.3 to 3 alike. epsilon is unpublished; 0.1 works here.
    """
    norm_G, norm_N = norm(prediction.gap), norm(correction.gap)
    w = (norm_G**2 + epsilon) ** -k
    factor = alpha * (w * norm_G).mean() / (norm_N.mean() + 1e-6)
    terms = torch.cat([w * half_square(prediction), factor * half_square(correction)])
    return terms.mean(), factor


def half_square(of: Gap) -> Tensor:
    """1/2 ||F - sg(F - gap)||^2 / d: the value is 1/2 ||gap||^2 / d, the gradient J^T gap / d."""
    return (of.output - (of.output - of.gap).detach()).square().mean(1) / 2


# Training: 75 % of a batch is prediction, 25 % correction. After each step of F, g makes one on the
# same samples with fresh noise, because it must follow them while they move.
def train(steps: int, batch: int = 256, rate: float = 2e-3) -> tuple[nn.Module, nn.Module]:
    """Return the student before training, and its EMA after so many steps."""
    F, g, split = Network(), Network(), 3 * batch // 4  # g would start as a copy of a network u
    start, ema = AveragedModel(F), AveragedModel(F, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimizers = [torch.optim.AdamW(each.parameters(), rate, (0.9, 0.95)) for each in (F, g)]
    schedules = [CosineAnnealingLR(each, steps) for each in optimizers]
    for step in range(1, steps + 1):
        z, n, delta = torch.randn(batch, 2), torch.randn(batch - split, 2), torch.rand(split)
        r = (0.8 + torch.randn(batch - split)).sigmoid()  # logit-normal: leans to high noise
        prediction = predictor(F, teacher, z[:split], delta)
        correction = corrector(F, g, teacher, z[split:], r, n)
        loss, factor = balancer(prediction, correction)
        update(F, optimizers[0], loss)
        ema.update_parameters(F)
        x = (z[split:] + correction.output).detach()  # f(z, 1)
        update(g, optimizers[1], online_loss(g, x, torch.rand(len(x)), torch.randn_like(x)))
        for schedule in schedules:
            schedule.step()
        if step % max(1, steps // 10) == 0:
            gaps = " ".join(f"{norm(each.gap).mean():7.3f}" for each in (prediction, correction))
            print(f"step {step:5}   gaps of prediction and correction {gaps}   lambda {factor:.2f}")
    return start, ema


def update(network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Make one step, with the gradient clipped at norm 1."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


def euler(u: Velocity, z: Tensor, steps: int) -> Tensor:
    """Integrate dx/d delta = u(x, 1 - delta) from 0 to 1 in equal steps."""
    for step in range(steps):
        z = z + u(z, torch.full((len(z),), 1 - step / steps)) / steps
    return z


def wasserstein(a: Tensor, b: Tensor, directions: int = 64) -> float:
    """Return the sliced 2-Wasserstein distance between two sets of as many points."""
    angle = torch.arange(directions) * math.pi / directions
    axes = torch.stack([angle.cos(), angle.sin()])
    return float(((a @ axes).sort(0)[0] - (b @ axes).sort(0)[0]).square().mean().sqrt())


def main(steps: int = 3000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Train; print and return the distances to the teacher's converged samples."""
    torch.manual_seed(seed)
    students = dict(zip(("student, untrained", "student, 1 step"), train(steps), strict=True))
    z, distances = torch.randn(5000, 2), {}
    with torch.no_grad():
        found = {name: z + F(z, torch.ones(len(z))) for name, F in students.items()}
    found |= {f"teacher, {n} Euler step(s)": euler(teacher, z, n) for n in (1, 2, 4)}
    converged = euler(teacher, z, 500)
    print("\ndistance to the teacher     sample by sample   as distributions")
    for name, x in found.items():
        distances[name] = float((x - converged).square().mean().sqrt()), wasserstein(x, converged)
        print("{:24}{:20.3f}{:19.3f}".format(name, *distances[name]))
    return distances


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="FreeFlow on a toy teacher.")
    parser.add_argument("--steps", type=int, default=3000, help="Number of training steps.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of all random numbers.")
    torch.set_num_threads(1)  # small networks are fastest with one
    main(**vars(parser.parse_args()))
