"""The corrector: its gap compares distributions, and its online network learns the student's."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from inputs import GaussianCase, seeds, shapes, velocity_of_score
from networks import ExactStudent, FieldTeacher, FunctionStudent, LinearVelocity
from objectives import Even
from torch import Tensor, nn

from ffcore.draws import Draws
from ffcore.flow.convert import convert
from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.flow.guidance import Guided
from ffcore.flow.path import expand_like
from ffcore.flow.time_distribution import TimeDistribution
from ffcore.interfaces import (
    Batch,
    Condition,
    Context,
    CorrectorObjective,
    FrozenTeacher,
    Gap,
    Gaps,
    Networks,
    Student,
    Teacher,
    Unconditional,
    VelocityField,
)
from ffcore.recipe import RecipeError, load_recipe
from ffcore.run.build import build
from ffcore.training.checkpoint import Checkpoints
from ffcore.training.checkpoint.contents import tensors_of
from ffcore.training.distillation import Distillation
from ffcore.training.optimizer import Optimizer
from ffcore_mlp.student import MlpVelocity
from ffcore_mlp.tables import MlpNetwork
from ffcore_vsd.objective import ONLINE, VsdCorrector
from ffcore_vsd.tables import Vsd

MEAN, SCALE = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), 0.6
TEACHER = Gaussian(MEAN, SCALE)


def affine(mean: Tensor, scale: float) -> Student:
    """A student whose one step is mean + scale · z: its samples are N(mean, scale² I)."""
    return FunctionStudent(lambda z, delta: mean + (scale - 1) * z)


def answer(
    corrector: CorrectorObjective,
    student: Student,
    online: VelocityField,
    teacher: Teacher = TEACHER,
    size: int = 400,
) -> Gaps:
    draws = Draws(0, 0, 0, size)
    z = draws.normal("z", teacher.sample_shape).double()
    networks = Networks(student=student, teacher=teacher, auxiliaries={ONLINE: online})
    return corrector.gaps(networks, Batch(z=z, condition=Condition(size=size), draws=draws))


class ByScore(VelocityField):
    """The velocity of N(mean, scale² I), by autograd of the density of its noised samples."""

    def __init__(self, mean: Tensor, scale: float) -> None:
        super().__init__()
        self.mean, self.scale = mean, scale

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        del condition
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            scale = ((1 - t) ** 2 * self.scale**2 + t**2).sqrt()
            law = torch.distributions.Normal(
                expand_like(1 - t, x) * self.mean, expand_like(scale, x)
            )
            (score,) = torch.autograd.grad(law.log_prob(x).sum(), x)
        return velocity_of_score(score, x_t, t)


# The gap vanishes where the distributions are one.


def vanishes(student: Student, online: VelocityField) -> None:
    gap = answer(VsdCorrector(), student, online).gaps[0].gap
    # float32 r reaches within 1e-3 of 1, and the score's velocity divides by 1 − r.
    torch.testing.assert_close(gap, torch.zeros_like(gap), rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [SCALE, -SCALE])
def test_the_gap_vanishes_for_every_map_onto_the_teacher_s_distribution(scale: float) -> None:
    """Also for the map that turns the noise around, which no flow does: predictors see that."""
    vanishes(affine(MEAN, scale), ByScore(MEAN, scale))


def test_the_gap_of_the_exact_student_vanishes() -> None:
    vanishes(ExactStudent(TEACHER), ByScore(MEAN, SCALE))


@given(seed=seeds, shape=shapes)
def test_the_gap_of_any_exact_student_vanishes(seed: int, shape: tuple[int, ...]) -> None:
    exact = GaussianCase.of(seed, shape).teacher
    online = ByScore(exact.mean[0], float(exact.scale[0]))
    gap = answer(VsdCorrector(), ExactStudent(exact), online, exact, size=40).gaps[0].gap
    torch.testing.assert_close(gap, torch.zeros_like(gap), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("mean", "scale"), [(MEAN + 1e-3, SCALE), (MEAN, SCALE + 1e-3)], ids=["mean", "scale"]
)
def test_another_distribution_has_a_gap(mean: Tensor, scale: float) -> None:
    with pytest.raises(AssertionError):
        vanishes(affine(mean, scale), ByScore(mean, scale))


def test_an_online_network_that_is_off_has_a_gap() -> None:
    with pytest.raises(AssertionError):
        vanishes(affine(MEAN, SCALE), ByScore(MEAN + 1e-3, SCALE))


# Off it, the gap moves samples towards the teacher.

Spoil = Callable[[Gap], Gap]


def is_the_shift_of_the_mean(spoil: Spoil) -> None:
    """With the same scale and another mean m, v_N − u = (m − μ) r / a_r²."""
    shift = torch.tensor([0.3, -0.7, 0.0], dtype=torch.float64)
    online = FieldTeacher.around(Gaussian(MEAN + shift, SCALE))
    gap = spoil(answer(VsdCorrector(), affine(MEAN + shift, SCALE), online).gaps[0])
    ((_, r, _),) = online.calls
    spread = (1 - r) ** 2 * SCALE**2 + r**2
    torch.testing.assert_close(gap.gap, (r / spread)[:, None] * shift, rtol=1e-9, atol=1e-9)
    assert torch.equal(gap.gap * shift, (gap.gap * shift).abs())  # descending it, m nears μ


def test_the_gap_pulls_the_mean_towards_the_teacher_s() -> None:
    is_the_shift_of_the_mean(lambda gap: gap)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda gap: Gap(output=gap.output, gap=-gap.gap),
        lambda gap: Gap(output=gap.output, gap=gap.gap / gap.norm()[:, None]),
    ],
    ids=["u − v_N", "normalised"],
)
def test_a_gap_that_pulls_elsewhere_would_be_seen(wrong: Spoil) -> None:
    with pytest.raises(AssertionError):
        is_the_shift_of_the_mean(wrong)


@pytest.mark.parametrize("scale", [0.3, 1.2])
def test_the_gap_pulls_the_scale_towards_the_teacher_s(scale: float) -> None:
    """The gradient of F = m + (k − 1) z in k is ⟨z, gap⟩: positive where k is too large."""
    batch = Draws(0, 0, 0, 4000).normal("z", (3,)).double()
    student, online = affine(MEAN, scale), Gaussian(MEAN, scale)
    gap = answer(VsdCorrector(), student, online, size=4000).gaps[0]
    each = (batch * gap.gap).mean(1)
    error = float(each.std()) / math.sqrt(4000)
    assert float(each.mean()) * (1 if scale > SCALE else -1) > 5 * error


def test_samples_are_noised_along_the_path_at_the_law_s_levels() -> None:
    law = TimeDistribution(distribution="logit-normal", location=0.3, scale=2.0, low=0.2, high=0.8)
    online, teacher = FieldTeacher.around(TEACHER), FieldTeacher.around(TEACHER)
    gaps = answer(VsdCorrector(r=law), affine(MEAN, SCALE), online, teacher, size=4000)
    ((I_r, r, _),), ((asked, t, _),) = online.calls, teacher.calls
    assert torch.equal(I_r, asked)
    assert torch.equal(r, t)
    assert 0.2 <= float(r.min()) < 0.3
    assert 0.7 < float(r.max()) <= 0.8
    assert gaps.samples is not None
    noise = (I_r - (1 - r)[:, None] * gaps.samples) / r[:, None]
    assert abs(float(noise.mean())) < 5 / 12_000**0.5
    assert abs(float(noise.var()) - 1) < 5 * (2 / 12_000) ** 0.5
    assert abs(float((noise * gaps.samples).mean() - noise.mean() * gaps.samples.mean())) < 5 * (
        float(gaps.samples.std()) / 12_000**0.5
    )


def test_the_gap_is_of_the_one_step_output_and_carries_no_gradient() -> None:
    seen: list[Tensor] = []

    def function(z: Tensor, delta: Tensor) -> Tensor:
        seen.append(delta)
        return z * delta[:, None]

    found = answer(VsdCorrector(), FunctionStudent(function), LinearVelocity(3))
    (gap,) = found.gaps
    assert [bool((delta == 1).all()) for delta in seen] == [True]
    assert gap.output.requires_grad
    assert not gap.gap.requires_grad
    assert found.samples is not None
    assert not found.samples.requires_grad
    z = Draws(0, 0, 0, 400).normal("z", (3,)).double()
    torch.testing.assert_close(found.samples, 2 * z)  # z + 1 · z
    assert found.condition is not None
    assert found.condition.size == 400


# The online network.

Loss = Callable[[VelocityField, Tensor, Condition, Draws], Tensor]
SAMPLES = 20_000


def drawn_from(teacher: Gaussian) -> Tensor:
    noise = Draws(5, 0, 0, SAMPLES).normal("x", (3,)).double()
    return teacher.mean[0] + teacher.scale[0] * noise


FLOW_MATCHING = VsdCorrector().flow_matching_loss


def is_least_at(field: Gaussian, loss: Loss = FLOW_MATCHING) -> None:
    """Along any direction h, the loss of u + s h is flat at s = 0, within 5 σ.

    It is quadratic in s, so that its derivative there is the central difference, exactly.
    """
    x, condition = drawn_from(TEACHER), Condition(size=SAMPLES)
    draws = Draws(0, 0, 0, SAMPLES)
    directions: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda x, t: torch.ones_like(x),
        lambda x, t: x,
        lambda x, t: t[:, None] * x,
        lambda x, t: t[:, None].cos().expand_as(x),
    ]
    for h in directions:

        def losses(s: float, h: Callable[[Tensor, Tensor], Tensor] = h) -> Tensor:
            moved = FieldTeacher(lambda x, t, c: field(x, t, c) + s * h(x, t), (3,))
            return loss(moved, x, condition, draws)

        rise = (losses(1.0) - losses(-1.0)) / 2
        assert abs(float(rise.mean())) < 5 * float(rise.std()) / math.sqrt(SAMPLES)
        assert float(losses(1.0).mean() + losses(-1.0).mean()) > 2 * float(losses(0.0).mean())


def test_flow_matching_is_least_at_the_velocity_of_the_samples() -> None:
    is_least_at(TEACHER)


@pytest.mark.parametrize(
    "other", [Gaussian(MEAN + 0.1, SCALE), Gaussian(MEAN, SCALE + 0.1)], ids=["mean", "scale"]
)
def test_it_is_not_least_at_another_velocity(other: Gaussian) -> None:
    with pytest.raises(AssertionError):
        is_least_at(other)


def towards_noise(network: VelocityField, x: Tensor, condition: Condition, draws: Draws) -> Tensor:
    noise, r = draws.normal("n", (3,)).double(), draws.uniform("r").double()
    x_r = (1 - r)[:, None] * x + r[:, None] * noise
    velocity: Tensor = network(x_r, r, condition)
    return (velocity - (noise - x)).square().mean(1)


def test_flow_matching_towards_another_target_would_be_seen() -> None:
    with pytest.raises(AssertionError):
        is_least_at(TEACHER, towards_noise)


def test_the_loss_is_one_per_sample_and_per_dimension() -> None:
    field = FieldTeacher(lambda x, t, condition: x * t[:, None], (3,))
    x, draws = drawn_from(TEACHER)[:50], Draws(0, 0, 0, 50)
    corrector = VsdCorrector(online_r=TimeDistribution(low=0.2, high=0.7))
    found = corrector.flow_matching_loss(field, x, Condition(size=50), draws)
    ((x_r, r, _),) = field.calls
    assert r.min() >= 0.2
    assert r.max() <= 0.7
    noise = (x_r - (1 - r)[:, None] * x) / r[:, None]
    expected = (x_r * r[:, None] - (x - noise)).square().sum(1) / 3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_online_network_sees_noise_of_its_own() -> None:
    """Independent of the gap's and of another update's."""
    draws, x = Draws(0, 0, 0, 50), torch.zeros(50, 3, dtype=torch.float64)
    field = FieldTeacher(lambda x, t, condition: x, (3,))
    for name in ("0", "1"):
        VsdCorrector().flow_matching_loss(
            field, x, Condition(size=50), draws.named("correction", "online", name)
        )
    (first, r, _), (second, s, _) = field.calls
    assert not (first / r[:, None] == second / s[:, None]).any()


def test_without_a_network_the_teacher_s_copy_learns() -> None:
    teacher = FrozenTeacher(LinearVelocity(3), (3,), Unconditional())
    table = Optimizer(learning_rate=0.5)
    corrector = VsdCorrector(online_updates=3, online_optimizer=table)
    auxiliary = corrector.auxiliaries(affine(MEAN, 1.0), teacher)[ONLINE]
    assert isinstance(auxiliary.network, LinearVelocity)
    assert auxiliary.network is not teacher.field
    assert all(parameter.requires_grad for parameter in auxiliary.network.parameters())
    assert (auxiliary.updates, auxiliary.optimizer) == (3, table)


def test_the_loss_of_a_copy_that_predicts_noise_is_less_magnified() -> None:
    def network(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return 0.7 * x

    teacher = converted_linear(network)
    auxiliary = VsdCorrector().auxiliaries(affine(MEAN, 1.0), teacher)[ONLINE]
    assert auxiliary.loss is not None
    x, draws = torch.randn(50, 3, dtype=torch.float64), Draws(0, 0, 0, 50)
    found = auxiliary.loss(auxiliary.network, x, Condition(size=50), draws)
    r = TimeDistribution().draw(draws, "r").to(x)
    noise = draws.normal("noise", (3,)).to(x)
    r_ = r[:, None]
    point = ((1 - r_) * x + r_ * noise) / ((1 - r_) ** 2 + r_**2).sqrt()  # on the vp path
    wanted = (0.7 * point - noise).square().mean(1)
    inside = (r > 0.01) & (r < 0.99)
    torch.testing.assert_close(found[inside], (wanted / (1 - r))[inside], rtol=1e-5, atol=1e-6)
    plain = VsdCorrector().flow_matching_loss(auxiliary.network, x, Condition(size=50), draws)
    torch.testing.assert_close(plain[inside], (found / (1 - r))[inside])


def converted_linear(network: Callable[[Tensor, Tensor, Condition], Tensor]) -> Teacher:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
            return network(x, time, condition) + 0 * self.weight

    return convert(
        Module(),
        prediction="noise",
        path="vp",
        time="log-snr",
        sigma_range=(1e-4, 1e4),
        sample_shape=(3,),
    )


def test_a_network_that_is_given_is_taken() -> None:
    network = MlpVelocity(3, 0, width=4, depth=1)
    auxiliaries = VsdCorrector(online=network).auxiliaries(affine(MEAN, 1.0), TEACHER)
    assert auxiliaries[ONLINE].network is network


def test_a_copy_takes_guidance_where_the_run_has_a_range_of_it() -> None:
    asked: list[bool] = []

    def copied(takes_guidance: bool) -> VelocityField:
        asked.append(takes_guidance)
        return LinearVelocity(3)

    teacher = FrozenTeacher(LinearVelocity(3), (3,), Unconditional(), copied)
    for corrector in (VsdCorrector(), VsdCorrector(takes_guidance=True)):
        corrector.auxiliaries(affine(MEAN, 1.0), teacher)
    assert asked == [False, True]
    with pytest.raises(ValueError, match="LinearVelocity has no input for γ"):
        VsdCorrector(takes_guidance=True).auxiliaries(
            affine(MEAN, 1.0), FrozenTeacher(LinearVelocity(3), (3,), Unconditional())
        )


def test_a_black_box_needs_a_network() -> None:
    with pytest.raises(ValueError, match="give the corrector an `online` network"):
        VsdCorrector().auxiliaries(affine(MEAN, 1.0), TEACHER)


# The online network by low-rank factors.


class Bumps(VelocityField):
    """u(x, t) = W φ(x, t) with bumps along t in φ, fitted to a Gaussian's velocity.

    Between Gaussians of one scale velocities differ by (m − μ) r / a_r²: by an update of W of
    rank 1.
    """

    def __init__(self, teacher: Gaussian, count: int = 8) -> None:
        super().__init__()
        self.centres = torch.linspace(0, 1, count)
        self.leave = nn.Linear(4 * count, 3, bias=False)
        draws = Draws(0, 0, 0, 4000)
        x, t = 2 * draws.normal("x", (3,)), draws.uniform("t")
        exact = teacher(x.double(), t.double(), Condition(size=4000))
        fit = torch.linalg.lstsq(self.features(x, t).double(), exact).solution
        self.leave.weight.data = fit.T.float()

    def features(self, x_t: Tensor, t: Tensor) -> Tensor:
        bumps = (-((t[:, None] - self.centres) ** 2) * len(self.centres) ** 2 / 2).exp()
        ones = torch.ones(len(t), 1)
        return (bumps[:, :, None] * torch.cat([x_t, ones], 1)[:, None]).flatten(1)  # [B, 4 count]

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        del condition
        out: Tensor = self.leave(self.features(x_t, t))
        return out


class Moved(Student):
    """A student whose one step is mean + scale · z, with a mean that learns, in float32."""

    starts_at = "prior"

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean.float())

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        del t, delta, condition
        return self.mean + (SCALE - 1) * x_t


SHIFT = torch.tensor([0.8, -0.5, 0.6])


def by_low_rank(learning_rate: float = 3e-2) -> VsdCorrector:
    table = Optimizer(learning_rate=learning_rate)
    return VsdCorrector(online_rank=1, online_updates=2, online_optimizer=table)


def corrected(corrector: VsdCorrector, steps: int, learning_rate: float) -> Distillation:
    """Train a student that is off by SHIFT, with the corrector alone."""
    torch.manual_seed(0)
    run = Distillation(
        teacher=FrozenTeacher(Bumps(TEACHER), (3,), Unconditional()),
        student=Moved(MEAN + SHIFT),
        corrector=corrector,
        balancer=Even(),
        optimizer=Optimizer(learning_rate=learning_rate, schedule="cosine"),
        steps=max(steps, 1),
        batch=128,
        clip=None,
    )
    for _ in range(steps):
        run.step()
    return run


def gap_error(run: Distillation) -> float:
    """How far the gap is from the exact one, as a fraction of it."""
    draws = Draws(1, 0, 0, 1000)
    batch = Batch(z=draws.normal("z", (3,)), condition=Condition(size=1000), draws=draws)
    gap = run.objectives["correction"].gaps(run.networks(), batch).gaps[0].gap
    r = VsdCorrector().r.draw(draws, "r")
    exact = (r / ((1 - r) ** 2 * SCALE**2 + r**2))[:, None] * SHIFT
    return float((gap - exact).norm() / exact.norm())


def loss(run: Distillation) -> float:
    """The flow-matching loss of g_ψ on the student's first samples."""
    draws = Draws(2, 0, 0, 4000)
    samples = (MEAN + SHIFT).float() + SCALE * draws.normal("x", (3,))
    network = run.auxiliaries[ONLINE].network
    with torch.no_grad():
        found = VsdCorrector().flow_matching_loss(network, samples, Condition(size=4000), draws)
    return float(found.mean())


def distance(run: Distillation) -> float:
    """How far the student's mean is from the teacher's."""
    assert isinstance(run.student, Moved)
    return float((run.student.mean.detach() - MEAN).norm())


def learns_the_shift(corrector: VsdCorrector) -> None:
    """While the student stands still, g_ψ comes to know its samples; at first it knows the
    teacher's, so that there is no gap."""
    first, last = (corrected(corrector, steps, 1e-9) for steps in (0, 80))
    assert loss(last) < 0.9 * loss(first)
    assert gap_error(first) == pytest.approx(1)
    assert gap_error(last) < 0.2


def test_low_rank_factors_learn_the_student_s_samples() -> None:
    learns_the_shift(by_low_rank())


def test_factors_that_do_not_learn_would_be_seen() -> None:
    with pytest.raises(AssertionError):
        learns_the_shift(by_low_rank(1e-9))


def test_with_low_rank_factors_the_corrector_brings_the_mean_to_the_teacher_s() -> None:
    assert distance(corrected(by_low_rank(), 300, 1e-2)) < 0.1 * float(SHIFT.norm())


def test_without_learning_factors_it_would_not() -> None:
    assert distance(corrected(by_low_rank(1e-9), 30, 1e-2)) > 0.99 * float(SHIFT.norm())


def test_low_rank_factors_are_of_the_copy_and_leave_the_teacher_alone() -> None:
    teacher = FrozenTeacher(MlpVelocity(3, 0, width=8, depth=2), (3,), Unconditional())
    before = {name: each.clone() for name, each in teacher.state_dict().items()}
    auxiliary = VsdCorrector(online_rank=2).auxiliaries(affine(MEAN, 1.0), teacher)[ONLINE]
    learning = {name for name, each in auxiliary.network.named_parameters() if each.requires_grad}
    layers = ("body.enter", "body.hidden.0", "body.leave")
    assert learning == {f"{name}.{factor}" for name in layers for factor in "AB"}
    assert teacher.state_dict().keys() == before.keys()
    assert all(torch.equal(teacher.state_dict()[name], each) for name, each in before.items())
    assert not any(each.requires_grad for each in teacher.parameters())


def test_a_copy_without_layers_to_adapt_is_refused() -> None:
    teacher = FrozenTeacher(LinearVelocity(3), (3,), Unconditional())
    with pytest.raises(ValueError, match=r"online_rank of the corrector: rank .* LinearVelocity"):
        VsdCorrector(online_rank=1).auxiliaries(affine(MEAN, 1.0), teacher)


def test_a_network_from_scratch_is_not_trained_by_low_rank_factors() -> None:
    with pytest.raises(ValueError, match=r"`online_rank` adapts a copy .* `online`"):
        VsdCorrector(online=MlpVelocity(3, 0, width=4, depth=1), online_rank=1)
    with pytest.raises(ValueError, match=r"online_rank adapts a copy .* online names"):
        Vsd(online=MlpNetwork(), online_rank=1)


DIGITS = (
    "corrector.online_rank=4",
    "training.steps=4",
    "training.batch=16",
    "evaluation.enabled=false",
)


def digits(*overrides: str) -> Distillation:
    return build(load_recipe("digits.toml", [*DIGITS, *overrides])).distillation


def test_a_recipe_may_train_the_online_network_by_low_rank_factors() -> None:
    low_rank, whole = digits(), digits("corrector.online_rank=none")
    networks = [run.auxiliaries[ONLINE].network for run in (low_rank, whole)]
    counts = [
        sum(each.numel() for each in network.parameters() if each.requires_grad)
        for network in networks
    ]
    assert counts[0] < 0.2 * counts[1]
    before = {name: each.clone() for name, each in networks[0].named_parameters()}
    for _ in range(2):
        low_rank.step()
    for name, each in networks[0].named_parameters():
        assert torch.equal(each, before[name]) != each.requires_grad, name


def test_a_recipe_with_both_keys_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"online_rank adapts a copy .* online names"):
        digits("corrector.online={type='mlp'}")


def test_a_run_with_low_rank_factors_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, first, second = digits(), digits(), digits()
    for _ in range(4):
        whole.step()
    for _ in range(2):
        first.step()
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(first)
    manifest = checkpoints.newest()
    assert manifest is not None
    checkpoints.restore(manifest, second)
    for _ in range(2):
        second.step()
    expected, found = tensors_of(whole), tensors_of(second)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    factors = [name for name in found if name.startswith("auxiliary/") and name.endswith(".B")]
    assert factors
    assert all(found[name].any() for name in factors)


# Guidance.


def guided_answer(corrector: VsdCorrector, teacher: Teacher) -> Tensor:
    draws = Draws(0, 0, 0, 200)
    batch = Batch(
        z=draws.normal("z", (2,)).double(),
        condition=Condition(
            size=200,
            label=draws.integers("label", 2),
            guidance=torch.full((200,), 2.0),
        ),
        draws=draws,
    )
    zero = FieldTeacher(lambda x, t, condition: torch.zeros_like(x), (2,))
    student = FunctionStudent(lambda z, delta: z)
    networks = Networks(student=student, teacher=teacher, auxiliaries={ONLINE: zero})
    gap = corrector.gaps(networks, batch).gaps[0].gap
    ((_, _, condition),) = zero.calls
    assert condition.guidance is not None  # γ reaches g_ψ alike
    return gap


def test_the_corrector_may_guide_within_a_tighter_interval() -> None:
    mixture = GaussianMixture([[1.0, 0.0], [-1.0, 0.0]], 0.5, labels=[0, 1])
    wide, tight = Guided(mixture, (0.0, 0.9)), Guided(mixture, (0.0, 0.6))
    found = guided_answer(VsdCorrector(guidance_interval=(0.0, 0.6)), wide)
    assert torch.equal(found, guided_answer(VsdCorrector(), tight))
    assert not torch.equal(found, guided_answer(VsdCorrector(), wide))


def test_an_interval_means_nothing_to_an_unguided_teacher() -> None:
    mixture = GaussianMixture([[1.0, 0.0], [-1.0, 0.0]], 0.5, labels=[0, 1])
    found = guided_answer(VsdCorrector(guidance_interval=(0.0, 0.6)), mixture)
    assert torch.equal(found, guided_answer(VsdCorrector(), mixture))


# The recipe's table.


def test_the_table_builds_what_it_says() -> None:
    table = Vsd(
        r=TimeDistribution(high=0.9),
        guidance_interval=(0.1, 0.6),
        online=MlpNetwork(width=4, depth=1),
        online_r=TimeDistribution(low=0.1),
        online_updates=2,
        online_optimizer=Optimizer(learning_rate=0.5),
    )
    corrector: Any = table.build(Context(teacher=TEACHER))
    assert isinstance(corrector, VsdCorrector)
    assert isinstance(corrector.online, MlpVelocity)
    assert (corrector.r, corrector.online_r) == (
        TimeDistribution(high=0.9),
        TimeDistribution(low=0.1),
    )
    assert corrector.guidance_interval == (0.1, 0.6)
    assert (corrector.online_updates, corrector.online_optimizer) == (
        2,
        Optimizer(learning_rate=0.5),
    )


def test_the_table_hands_on_the_rank_and_whether_there_is_a_range_of_guidance() -> None:
    built: list[Any] = [
        Vsd(online_rank=3).build(Context(teacher=TEACHER, guidance_range=scales))
        for scales in (None, (1.0, 4.0))
    ]
    assert [each.online_rank for each in built] == [3, 3]
    assert [each.takes_guidance for each in built] == [False, True]


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="online_rank: must be at least 1, found 0"):
        Vsd(online_rank=0)


def test_the_defaults_of_table_and_object_agree() -> None:
    assert vars(Vsd().build(Context())) == vars(VsdCorrector())


def test_only_a_corrector_without_network_needs_a_teacher_to_copy() -> None:
    assert Vsd().needs == {"trainable copy"}
    assert Vsd(online=MlpNetwork()).needs == frozenset()
