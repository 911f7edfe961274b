"""The exact teachers, against what is known of them by other means."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import GaussianCase, MixtureCase, Stream, seeds, shapes, velocity_of_score
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.flow.flow_map import push
from ffcore.flow.ode import integrate
from ffcore.flow.path import expand_like
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, Labels, Unconditional, VelocityField

FlowMap = Callable[[Gaussian, Tensor, Tensor, Tensor, Condition], Tensor]
Velocity = Callable[[GaussianMixture, Tensor, Tensor, Condition], Tensor]


def agree(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def times(seed: int, count: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """t ≥ r ≥ q of each sample, the whole way among them."""
    drawn = Stream(seed).uniform(0, 1, 3, count).sort(0, descending=True).values
    drawn[0, 0], drawn[2, 0] = 1, 0
    return drawn[0], drawn[1], drawn[2]


def is_a_flow(flow_map: FlowMap, case: GaussianCase, seed: int) -> None:
    """It is x + δ F; it stays where nothing passes, and two parts make a whole."""
    t, r, q = times(seed)

    def carry(x: Tensor, start: Tensor, stop: Tensor) -> Tensor:
        return flow_map(case.teacher, x, start, start - stop, case.condition)

    F = case.teacher.average_velocity(case.z, case.delta, case.condition)
    agree(carry(case.z, case.ones, 1 - case.delta), push(case.z, F, case.delta))
    F = case.teacher.average_velocity(case.z, t - r, case.condition, t)
    agree(carry(case.z, t, r), push(case.z, F, t - r), 1e-11)
    agree(carry(case.z, t, t), case.z)
    # Going on amplifies rounding by a_q / a_r ≤ 1 / 0.1 at the most.
    agree(carry(carry(case.z, t, r), r, q), carry(case.z, t, q), 1e-11)


@given(seed=seeds, shape=shapes, conditional=st.booleans())
def test_the_gaussian_flow_map_is_a_flow(
    seed: int, shape: tuple[int, ...], conditional: bool
) -> None:
    is_a_flow(Gaussian.flow_map, GaussianCase.of(seed, shape, conditional), seed)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda teacher, x, t, delta, condition: teacher.flow_map(x, t, t - delta, condition),
        lambda teacher, x, t, delta, condition: push(
            x, teacher.average_velocity(x, delta, condition), delta
        ),
        lambda teacher, x, t, delta, condition: push(x, teacher(x, t, condition), delta),
    ],
    ids=["stop for duration", "as if from the prior", "one Euler step"],
)
def test_what_is_no_flow_would_be_seen(wrong: FlowMap) -> None:
    with pytest.raises(AssertionError):
        is_a_flow(wrong, GaussianCase.of(0), 0)


@settings(max_examples=20)
@given(seed=seeds, shape=shapes, conditional=st.booleans(), start=st.sampled_from([1.0, 0.7]))
def test_the_gaussian_flow_map_is_what_its_velocity_leads_to(
    seed: int, shape: tuple[int, ...], conditional: bool, start: float
) -> None:
    case = GaussianCase.of(seed, shape, conditional)
    stop = float(Stream(seed).uniform(0.1, 0.6))
    x = integrate(case.teacher, case.z, case.condition, Solver("rk4", 200), start=start, stop=stop)
    exact = case.teacher.flow_map(
        case.z, start * case.ones, (start - stop) * case.ones, case.condition
    )
    agree(x, exact, 1e-7)  # rk4's error over 200 steps, where the velocity turns within 0.1


@given(seed=seeds, shape=shapes, conditional=st.booleans())
def test_one_step_of_a_gaussian_is_its_mean_and_scale(
    seed: int, shape: tuple[int, ...], conditional: bool
) -> None:
    case = GaussianCase.of(seed, shape, conditional)
    label = torch.zeros(12, dtype=torch.long) if not conditional else case.condition.label
    assert label is not None
    f = push(case.z, case.teacher.average_velocity(case.z, case.ones, case.condition), case.ones)
    agree(f, case.teacher.mean[label] + expand_like(case.teacher.scale[label], case.z) * case.z)


@given(seed=seeds, shape=shapes, conditional=st.booleans())
def test_without_duration_the_average_velocity_is_the_velocity(
    seed: int, shape: tuple[int, ...], conditional: bool
) -> None:
    case = GaussianCase.of(seed, shape, conditional)
    F = case.teacher.average_velocity(case.z, 0 * case.ones, case.condition)
    agree(F, case.teacher(case.z, case.ones, case.condition))


@given(seed=seeds, shape=shapes)
def test_a_gaussian_is_a_mixture_of_one(seed: int, shape: tuple[int, ...]) -> None:
    case = GaussianCase.of(seed, shape)
    mixture = GaussianMixture(case.teacher.mean, case.teacher.scale)
    agree(
        mixture(case.z, case.delta, case.condition),
        case.teacher(case.z, case.delta, case.condition),
        1e-11,
    )


@given(seed=seeds, shape=shapes)
def test_the_classes_of_a_gaussian_are_those_of_a_mixture(
    seed: int, shape: tuple[int, ...]
) -> None:
    case = GaussianCase.of(seed, shape, conditional=True)
    mixture = GaussianMixture(case.teacher.mean, case.teacher.scale, labels=range(4))
    agree(
        mixture(case.z, case.delta, case.condition),
        case.teacher(case.z, case.delta, case.condition),
        1e-11,
    )


def log_density(case: MixtureCase, x: Tensor) -> Tensor:
    """log p_t(x | c) by torch.distributions."""
    teacher, t = case.teacher, case.t[:, None]
    logits = teacher.log_weights.expand(len(x), -1)
    if teacher.labels is not None:
        label = case.condition.label[:, None]
        logits = logits.masked_fill((label != teacher.labels) & (label != 3), -torch.inf)
    means = (1 - t[..., None]) * teacher.means.flatten(1)
    scales = ((1 - t) ** 2 * teacher.scales**2 + t**2).sqrt()
    components = Independent(Normal(means, scales[..., None].expand_as(means)), 1)
    return MixtureSameFamily(Categorical(logits=logits), components).log_prob(x.flatten(1))


def has_the_score(velocity: Velocity, case: MixtureCase) -> None:
    """The velocity is that of the score, which autograd takes of the log-density."""
    x = case.x.clone().requires_grad_()
    (score,) = torch.autograd.grad(log_density(case, x).sum(), x)
    u = velocity(case.teacher, case.x, case.t, case.condition)
    agree(u, velocity_of_score(score, case.x, case.t), 1e-9)  # a division by 1 − t ≥ 0.05


@given(seed=seeds, shape=shapes, conditional=st.booleans())
def test_the_velocity_of_a_mixture_is_that_of_its_log_density(
    seed: int, shape: tuple[int, ...], conditional: bool
) -> None:
    has_the_score(GaussianMixture.__call__, MixtureCase.of(seed, shape, conditional))


def unweighted(teacher: GaussianMixture, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """The components' velocities under their weights, not under their responsibilities."""
    parts = [
        Gaussian(mean, scale)(x, t, condition)
        for mean, scale in zip(teacher.means, teacher.scales, strict=True)
    ]
    return torch.einsum("k,k...->...", teacher.log_weights.exp(), torch.stack(parts))


@pytest.mark.parametrize(
    "wrong",
    [
        unweighted,
        lambda teacher, x, t, condition: -teacher(x, t, condition),
        lambda teacher, x, t, condition: teacher(x, 1 - t, condition),
        lambda teacher, x, t, condition: teacher(x, t, Condition(size=condition.size)),
    ],
    ids=["no responsibilities", "sign", "time reversed", "label ignored"],
)
def test_the_velocity_of_another_density_would_be_seen(wrong: Velocity) -> None:
    with pytest.raises(AssertionError):
        has_the_score(wrong, MixtureCase.of(0, conditional=True))


@given(seed=seeds, shape=shapes)
def test_a_class_is_the_mixture_of_its_components(seed: int, shape: tuple[int, ...]) -> None:
    case = MixtureCase.of(seed, shape, conditional=True)
    teacher, first = case.teacher, case.teacher.labels == 0
    alone = GaussianMixture(
        teacher.means[first], teacher.scales[first], teacher.log_weights[first].exp()
    )
    label = torch.zeros(8, dtype=torch.long)
    agree(
        teacher(case.x, case.t, Condition(size=8, label=label)),
        alone(case.x, case.t, Condition(size=8)),
    )


@given(seed=seeds, shape=shapes)
def test_the_null_label_is_the_whole_mixture(seed: int, shape: tuple[int, ...]) -> None:
    case = MixtureCase.of(seed, shape, conditional=True)
    null = case.teacher.conditions.null(case.condition)
    assert case.teacher.conditions == Labels(3, null_label=3)
    assert torch.equal(
        case.teacher(case.x, case.t, null), case.teacher(case.x, case.t, Condition(size=8))
    )


@settings(max_examples=10)
@given(seed=seeds, conditional=st.booleans())
def test_the_flow_map_of_a_mixture_is_what_its_velocity_leads_to(
    seed: int, conditional: bool
) -> None:
    case = MixtureCase.of(seed, conditional=conditional)
    start, stop = 1 - float(Stream(seed).uniform(0, 0.1)), float(Stream(seed).uniform(0.1, 0.8))
    ones = torch.ones_like(case.t)
    found = case.teacher.flow_map(case.x, start * ones, (start - stop) * ones, case.condition)
    steps = integrate(
        case.teacher, case.x, case.condition, Solver("rk4", 150), start=start, stop=stop
    )
    agree(found, steps, 1e-6)
    assert found.dtype == torch.float64


def test_each_sample_of_a_mixture_goes_its_own_way_from_its_own_time() -> None:
    case = MixtureCase.of(3)
    delta = case.t * Stream(1).uniform(0, 1, len(case.t))
    together = case.teacher.flow_map(case.x, case.t, delta, case.condition)
    for each in range(len(case.t)):
        row = slice(each, each + 1)
        alone = case.teacher.flow_map(case.x[row], case.t[row], delta[row], case.condition[row])
        agree(together[row], alone, 1e-7)


def test_the_flow_map_of_a_mixture_begins_at_the_identity() -> None:
    case = MixtureCase.of(0)
    nothing = torch.zeros_like(case.t)
    agree(case.teacher.flow_map(case.x, case.t, nothing, case.condition), case.x)


def test_the_flow_map_of_a_mixture_of_one_is_the_gaussian_s() -> None:
    case = GaussianCase.of(0)
    mixture = GaussianMixture(case.teacher.mean, case.teacher.scale)
    found = mixture.flow_map(case.z, case.ones, case.ones, case.condition)
    exact = case.teacher.flow_map(case.z, case.ones, case.ones, case.condition)
    agree(found, exact, 1e-7)  # the solver's relative tolerance, 1e-9, accumulated


@pytest.mark.parametrize("teacher", [Gaussian, GaussianMixture])
def test_a_teacher_of_numbers_answers_in_the_dtype_of_the_samples(
    teacher: Callable[..., VelocityField],
) -> None:
    field = teacher([1, -2] if teacher is Gaussian else [[1, -2], [0, 1]], 0.5)
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(3, 2, dtype=dtype)
        u = field(x, torch.full((3,), 0.5, dtype=dtype), Condition(size=3))
        assert u.dtype == dtype


def test_whole_numbers_are_a_mean_like_any_other() -> None:
    x, t, condition = torch.ones(3, 2), torch.full((3,), 0.5), Condition(size=3)
    assert torch.equal(
        Gaussian([1, 2], 0.5)(x, t, condition), Gaussian([1.0, 2.0], 0.5)(x, t, condition)
    )


def test_weights_count_in_full_precision() -> None:
    mixture = GaussianMixture(torch.zeros(2, 1, dtype=torch.float64), weights=[0.1, 0.9])
    agree(mixture.log_weights.exp(), torch.tensor([0.1, 0.9], dtype=torch.float64), 1e-15)


def test_exact_teachers_say_their_shape_and_conditions() -> None:
    mean = torch.zeros(4, 2, 3)
    assert Gaussian(mean).sample_shape == (4, 2, 3)
    assert isinstance(Gaussian(mean).conditions, Unconditional)
    assert Gaussian(mean, conditional=True).sample_shape == (2, 3)
    assert Gaussian(mean, conditional=True).conditions == Labels(4)
    assert GaussianMixture(mean).sample_shape == (2, 3)
    assert isinstance(GaussianMixture(mean).conditions, Unconditional)


def test_a_gaussian_of_classes_asks_for_the_class() -> None:
    teacher = Gaussian([[0.0], [1.0]], conditional=True)
    with pytest.raises(ValueError, match="the condition has none"):
        teacher(torch.zeros(2, 1), torch.ones(2), Condition(size=2))


def test_a_gaussian_without_classes_is_blind_to_labels() -> None:
    case = GaussianCase.of(0)
    labelled = Condition(size=12, label=torch.arange(12))
    assert torch.equal(
        case.teacher(case.z, case.delta, labelled),
        case.teacher(case.z, case.delta, case.condition),
    )


def test_exact_teachers_have_nothing_to_train() -> None:
    teachers = [Gaussian([0.0]), GaussianMixture([[0.0]])]
    assert [teacher.trainable_copy() for teacher in teachers] == [None, None]
    assert all(list(teacher.parameters()) == [] for teacher in teachers)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_must_be_positive(scale: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Gaussian([0.0, 1.0], scale)
    with pytest.raises(ValueError, match="positive"):
        GaussianMixture([[0.0], [1.0]], scale)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": [1.0, 0.0]}, "weights must be positive"),
        ({"weights": [1.0]}, "one for all or 2"),
        ({"scales": [1.0, 1.0, 1.0]}, "one for all or 2"),
        ({"labels": [0]}, "1 labels for 2 means"),
        ({"labels": [0, 2]}, "without gaps"),
        ({"labels": [1, 2]}, "without gaps"),
    ],
)
def test_what_does_not_fit_the_components_is_refused(
    arguments: dict[str, list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixture([[0.0], [1.0]], **arguments)
