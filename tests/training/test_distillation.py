"""One step of training: whose gradient it is, and what it leaves alone."""

import copy
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from inputs import Stream
from networks import LinearStudent, LinearVelocity
from objectives import Correct, Even, Towards, pull, towards
from torch import Tensor, nn

from ffcore.draws import Draws
from ffcore.flow.exact import Gaussian
from ffcore.interfaces import (
    Auxiliary,
    Batch,
    Condition,
    DataSource,
    FrozenTeacher,
    Gap,
    Gaps,
    Labels,
    Networks,
    Teacher,
    Unconditional,
)
from ffcore.recipe import load_recipe
from ffcore.run.build import build
from ffcore.system.distributed import Processes
from ffcore.training.distillation import Distillation, WrongAnswer
from ffcore.training.loop import train
from ffcore.training.optimizer import Optimizer
from ffcore_freeflow.balancer import AdaptiveBalancer

Combine = Callable[[Gap, Gap], Tensor]
BATCH, DIMENSION = 40, 3
POWER, EPSILON, ALPHA, LAMBDA_EPSILON = 0.7, 1e-2, 1.3, 1e-4


def teacher_of(conditions: Any = None) -> Teacher:
    return FrozenTeacher(LinearVelocity(DIMENSION), (DIMENSION,), conditions or Unconditional())


def distillation(**arguments: Any) -> Distillation:
    """A small distillation; predictor alone unless a corrector is named."""
    given = {
        "teacher": teacher_of(),
        "student": LinearStudent(DIMENSION),
        "predictor": Towards(),
        "balancer": AdaptiveBalancer(
            power=POWER,
            weight_epsilon=EPSILON,
            alpha=ALPHA,
            scale_epsilon=LAMBDA_EPSILON,
        ),
        "optimizer": Optimizer(learning_rate=0.1),
        "steps": 10,
        "batch": BATCH,
        "clip": None,
    }
    return Distillation(**{**given, **arguments})


def values(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in network.parameters()])


def gradient_of_step(run: Distillation) -> tuple[Tensor, dict[str, Tensor]]:
    """The student's gradient in one step, before clipping, and the step's metrics."""
    found: dict[nn.Parameter, Tensor] = {}

    def keep(parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        assert parameter.grad is not None
        found[parameter] = parameter.grad.clone()

    parameters = list(run.student.parameters())
    handles = [p.register_post_accumulate_grad_hook(keep) for p in parameters]
    metrics = run.step()
    for handle in handles:
        handle.remove()
    return torch.cat([found[parameter].flatten() for parameter in parameters]), metrics


def weight_of(gap: Tensor) -> Tensor:
    return (gap.square().mean(1) + EPSILON) ** -POWER


def norm_of(gap: Tensor) -> Tensor:
    return gap.square().mean(1).sqrt()


def scale_of(prediction: Tensor, correction: Tensor) -> Tensor:
    magnitude = (weight_of(prediction) * norm_of(prediction)).mean()
    return ALPHA * magnitude / (norm_of(correction).mean() + LAMBDA_EPSILON)


def inner(gap: Gap, weight: Tensor | float = 1.0) -> Tensor:
    return (weight * (gap.output * gap.gap).mean(1)).sum()


def of_the_concatenated_batch(prediction: Gap, correction: Gap) -> Tensor:
    scale = scale_of(prediction.gap, correction.gap)
    weighted = inner(prediction, weight_of(prediction.gap))
    return (weighted + scale * inner(correction)) / BATCH


def is_the_gradient(combine: Combine) -> None:
    """The gradient of a joint step is that of the loss which `combine` makes of the gaps."""
    predictor, corrector = Towards(0.5), Correct(-2.0)
    run = distillation(predictor=predictor, corrector=corrector)
    student = copy.deepcopy(run.student)
    found, _ = gradient_of_step(run)
    loss = combine(
        towards(0.5, student, predictor.batches[0]), towards(-2.0, student, corrector.batches[0])
    )
    loss.backward()  # type: ignore[no-untyped-call]
    expected = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_is_that_of_both_objectives_as_one_batch() -> None:
    is_the_gradient(of_the_concatenated_batch)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p, c: inner(p, weight_of(p.gap)) / 30 + scale_of(p.gap, c.gap) * inner(c) / 10,
        lambda p, c: (inner(p, weight_of(p.gap)) + inner(c)) / BATCH,
        lambda p, c: (inner(p) + scale_of(p.gap, c.gap) * inner(c)) / BATCH,
        lambda p, c: (
            (
                inner(p, weight_of(p.gap))
                + ALPHA * norm_of(p.gap).mean() / norm_of(c.gap).mean() * inner(c)
            )
            / BATCH
        ),
        lambda p, c: inner(p, weight_of(p.gap)) / BATCH,
        lambda p, c: DIMENSION * of_the_concatenated_batch(p, c),
        lambda p, c: 2 * of_the_concatenated_batch(p, c),
    ],
    ids=[
        "mean of each share",
        "no λ",
        "no weight",
        "λ on raw gaps",
        "no correction",
        "sum over dimensions",
        "whole square",
    ],
)
def test_another_gradient_would_be_seen(wrong: Combine) -> None:
    with pytest.raises(AssertionError):
        is_the_gradient(wrong)


def test_a_step_reports_its_loss_gaps_and_scale() -> None:
    predictor, corrector = Towards(0.5), Correct(-2.0)
    run = distillation(predictor=predictor, corrector=corrector)
    student = copy.deepcopy(run.student)
    gradient, metrics = gradient_of_step(run)
    p = towards(0.5, student, predictor.batches[0]).gap
    c = towards(-2.0, student, corrector.batches[0]).gap
    scale = scale_of(p, c)
    squares = (weight_of(p) * norm_of(p) ** 2).sum() + scale * (norm_of(c) ** 2).sum()
    expected = {
        "loss": squares / (2 * BATCH),
        "gap_prediction": norm_of(p).mean(),
        "gap_correction": norm_of(c).mean(),
        "lambda": scale,
        "gradient_norm": gradient.norm(),
    }
    assert metrics.keys() == expected.keys()
    for name, each in expected.items():
        torch.testing.assert_close(metrics[name], each.detach(), rtol=1e-6, atol=0)
        assert not metrics[name].requires_grad


@pytest.mark.parametrize("alone", ["prediction", "correction"])
def test_an_objective_alone_gets_the_whole_batch_and_no_scale(alone: str) -> None:
    objective = Towards(0.5) if alone == "prediction" else Correct(0.5)
    role = {"prediction": "predictor", "correction": "corrector"}[alone]
    run = distillation(**{"predictor": None, role: objective})
    student = copy.deepcopy(run.student)
    found, metrics = gradient_of_step(run)
    assert objective.batches[0].condition.size == len(objective.batches[0].z) == BATCH
    assert metrics.keys() == {"loss", f"gap_{alone}", "gradient_norm"}
    gap = towards(0.5, student, objective.batches[0])
    loss = inner(gap, weight_of(gap.gap) if alone == "prediction" else 1.0) / BATCH
    expected = torch.autograd.grad(loss, list(student.parameters()))
    torch.testing.assert_close(
        found, torch.cat([each.flatten() for each in expected]), rtol=1e-12, atol=1e-12
    )


def test_prediction_is_alone_until_correction_sets_in() -> None:
    predictor, corrector = Towards(), Correct()
    run = distillation(
        predictor=predictor,
        corrector=corrector,
        balancer=AdaptiveBalancer(correction=0.25, correction_from=2),
    )
    reported = ["lambda" in run.step() for _ in range(4)]
    assert reported == [False, False, True, True]
    assert [len(batch.z) for batch in predictor.batches] == [40, 40, 30, 30]
    assert [len(batch.z) for batch in corrector.batches] == [10, 10]


def test_each_step_and_each_objective_has_its_own_noise() -> None:
    predictor, corrector = Towards(), Correct()
    run = distillation(predictor=predictor, corrector=corrector, balancer=Even())
    for _ in range(2):
        run.step()
    batches = [batch.z for batch in [*predictor.batches, *corrector.batches]]
    assert len(torch.cat(batches).unique(dim=0)) == 4 * BATCH // 2


def test_the_same_seed_makes_the_same_run_and_another_seed_another() -> None:
    runs = [distillation(seed=seed) for seed in (3, 3, 4)]
    for _ in range(3):
        for run in runs:
            run.step()
    first, again, other = (values(run.student) for run in runs)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, rtol=0, atol=1e-3)


def test_a_step_leaves_the_process_alone() -> None:
    run = distillation(
        corrector=Correct(auxiliaries={"online": online()}),
    )
    torch.manual_seed(0)
    state, mode = torch.get_rng_state(), torch.is_grad_enabled()
    dtype = torch.get_default_dtype()
    run.self_check()
    run.step()
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == (dtype, mode)


def test_the_teacher_neither_changes_nor_gets_a_gradient() -> None:
    class Asking(Towards):
        """A predictor that forgets to shut the gradient off."""

        def gaps(self, networks: Networks, batch: Any) -> Any:
            answer = super().gaps(networks, batch)
            (gap,) = answer.gaps
            t = torch.ones(len(batch.z))
            u = networks.teacher(gap.output.float(), t, batch.condition)
            assert u.requires_grad  # through the student's output only
            return answer

    run = distillation(predictor=Asking())
    before = values(run.teacher)
    for _ in range(2):
        run.step()
    assert torch.equal(values(run.teacher), before)
    assert all(p.grad is None and not p.requires_grad for p in run.teacher.parameters())
    assert not any(module.training for module in run.teacher.field.modules())


def test_the_student_moves_by_the_scheduled_learning_rate() -> None:
    table = Optimizer(learning_rate=0.1, warmup=3)
    run = distillation(optimizer=table, steps=10)
    before = values(run.student)
    run.step()
    moved = (values(run.student) - before).abs()
    # Adam's first step is the learning rate: a quarter of the peak.
    torch.testing.assert_close(moved, torch.full_like(moved, 0.025), rtol=1e-5, atol=0)
    run.step()
    assert run.learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_gradients_are_clipped_to_their_greatest_norm(clip: float | None) -> None:
    run = distillation(clip=clip)
    clipped: list[Tensor] = []

    def keep(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        (group,) = optimizer.param_groups
        clipped.append(torch.cat([p.grad.flatten() for p in group["params"]]))

    run.learner.optimizer.register_step_pre_hook(keep)
    gradient, metrics = gradient_of_step(run)
    torch.testing.assert_close(metrics["gradient_norm"], gradient.norm())
    factor = 1.0 if clip is None else clip / float(gradient.norm())
    torch.testing.assert_close(clipped[0], factor * gradient, rtol=1e-5, atol=0)  # torch adds 1e-6


def test_the_average_follows_its_formula() -> None:
    run = distillation(ema_decays=[0.3])
    expected = values(run.student)
    for step in range(6):
        run.step()
        d = min(0.3, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * values(run.student)
        torch.testing.assert_close(values(run.ema), expected, rtol=1e-12, atol=1e-12)


def test_no_gradient_is_left_behind() -> None:
    run = distillation(corrector=Correct(auxiliaries={"online": online()}))
    run.step()
    networks = [run.student, run.ema, run.auxiliaries["online"].network]
    assert all(p.grad is None for network in networks for p in network.parameters())


# Auxiliary networks.


def online(updates: int = 1, **arguments: Any) -> Auxiliary:
    table = Optimizer(learning_rate=0.01)
    loss = arguments.get("loss", pull)
    return Auxiliary(network=LinearVelocity(DIMENSION), optimizer=table, loss=loss, updates=updates)


def test_an_auxiliary_descends_its_own_loss_on_the_samples() -> None:
    auxiliary = online()
    corrector = Correct(auxiliaries={"online": auxiliary})
    run = distillation(corrector=corrector)
    before = copy.deepcopy(auxiliary.network)
    metrics = run.step()
    batch = corrector.batches[0]
    losses = pull(before, batch.z, batch.condition, None)
    torch.testing.assert_close(metrics["loss_online"], losses.mean().detach())
    # Adam's first step is the learning rate, against the gradient.
    gradient = torch.autograd.grad(losses.mean(), list(before.parameters()))
    for was, now, each in zip(
        before.parameters(), auxiliary.network.parameters(), gradient, strict=True
    ):
        torch.testing.assert_close(now.detach(), (was - 0.01 * each.sign()).detach())


@pytest.mark.parametrize("updates", [1, 3])
def test_an_auxiliary_is_updated_as_often_as_asked_with_new_draws(updates: int) -> None:
    seen: list[Draws] = []

    def loss(network: nn.Module, samples: Tensor, condition: Condition, draws: Draws) -> Tensor:
        seen.append(draws)
        return pull(network, samples, condition, draws)

    run = distillation(corrector=Correct(auxiliaries={"online": online(updates, loss=loss)}))
    for _ in range(2):
        run.step()
    assert len(seen) == 2 * updates
    assert all(len(draws) == BATCH // 4 for draws in seen)
    assert len(torch.stack([draws.normal("z") for draws in seen]).unique(dim=0)) == 2 * updates
    optimizer = run.auxiliary_learners["online"].optimizer
    assert {float(state["step"]) for state in optimizer.state.values()} == {2.0 * updates}


def test_an_auxiliary_trains_on_the_samples_of_its_own_objective_only() -> None:
    class Generous(Correct, Towards):  # type: ignore[misc]
        """A predictor that hands out samples too."""

    seen: list[int] = []

    def loss(network: nn.Module, samples: Tensor, condition: Condition, draws: Draws) -> Tensor:
        seen.append(len(samples))
        return pull(network, samples, condition, draws)

    run = distillation(
        predictor=Generous(), corrector=Correct(auxiliaries={"online": online(loss=loss)})
    )
    run.step()
    assert seen == [BATCH // 4]


@pytest.mark.parametrize("joint", [False, True])
def test_an_auxiliary_may_be_an_average_of_the_student(joint: bool) -> None:
    network = LinearStudent(DIMENSION)
    corrector = Correct(auxiliaries={"slow": Auxiliary(network=network, ema_decay=0.05)})
    run = distillation(predictor=Towards() if joint else None, corrector=corrector)
    expected = values(network)
    for _ in range(3):
        run.step()
        expected = 0.05 * expected + 0.95 * values(run.student)
        torch.testing.assert_close(values(network), expected, rtol=1e-12, atol=1e-12)
    assert run.networks().auxiliaries["slow"] is network


# Data.


class Numbered(DataSource):
    """Data that is its own number, as labels are; keeps the indices that were read."""

    def __init__(self, count: int, dimension: int = DIMENSION) -> None:
        self.count, self.sample_shape = count, (dimension,)
        self.indices: list[Tensor] = []

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        self.indices.append(indices)
        assert (indices.device.type, draws.device, len(draws)) == ("cpu", "cpu", len(indices))
        data = indices[:, None].expand(-1, *self.sample_shape).float()
        return data, Condition(size=len(indices), label=indices % 4)


def reading(source: DataSource | None, **arguments: Any) -> tuple[Distillation, Towards]:
    predictor = Towards(needs=frozenset({"data"}))
    teacher = teacher_of(Labels(4, null_label=4))
    given = {"predictor": predictor, "data": source, "teacher": teacher, **arguments}
    return distillation(**given), predictor


def test_who_needs_data_gets_it_with_its_conditions_and_who_does_not_gets_none() -> None:
    source, corrector = Numbered(100), Correct()
    run, predictor = reading(source, corrector=corrector, guidance=1.5, device="cpu:0")
    run.step()
    (batch,), (free,) = predictor.batches, corrector.batches
    assert len(source.indices) == 1
    assert batch.data is not None
    assert torch.equal(batch.data[:, 0], source.indices[0].float())
    assert torch.equal(batch.condition.label, source.indices[0] % 4)
    assert torch.equal(batch.condition.guidance, torch.full((len(batch.z),), 1.5))
    assert free.data is None
    assert free.condition.label is not None


def epochs_of(seed: int) -> list[list[int]]:
    """What two epochs of 100 samples read, in five steps of 40."""
    source = Numbered(100)
    run, _ = reading(source, seed=seed)
    for _ in range(5):
        run.step()
    read = torch.cat(source.indices).tolist()
    return [read[:100], read[100:]]


def test_every_epoch_reads_every_sample_once_in_an_order_of_its_own() -> None:
    orders = [*epochs_of(0), *epochs_of(1)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len(set(map(tuple, [*orders, range(100)]))) == 5
    assert epochs_of(0) == orders[:2]


@pytest.mark.parametrize("share", [40, 24])
def test_slices_of_a_batch_read_what_the_whole_batch_does(share: int) -> None:
    run, _ = reading(Numbered(30))
    for run.step_index in (0, 1, 7):
        draws = run.draws("prediction")[:share]
        whole, conditions = run._read(draws, share)
        parts = [run._read(draws[a:b], share) for a, b in ((0, 7), (7, 20), (20, share))]
        assert torch.equal(torch.cat([data for data, _ in parts]), whole)
        assert torch.equal(Condition.cat([each for _, each in parts]).label, conditions.label)


@pytest.mark.parametrize(
    ("source", "needs", "message"),
    [
        (None, {"data"}, "the objective of prediction needs data, but there is none"),
        (Numbered(0), {"data"}, "data has no samples"),
        (Numbered(9, 2), {"data"}, r"data is \(2,\), but the teacher's samples are \(3,\)"),
        (Numbered(9), set(), "there is data, but no objective needs it"),
    ],
)
def test_data_that_does_not_fit_is_refused(source: Any, needs: set[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reading(source, predictor=Towards(needs=frozenset(needs)))


# What is asked of the teacher, and what is refused.


def test_the_scale_of_guidance_reaches_every_network() -> None:
    predictor = Towards()
    run = distillation(
        teacher=teacher_of(Labels(4, null_label=4)), predictor=predictor, guidance=1.5
    )
    run.step()
    (batch,) = predictor.batches
    assert batch.condition.guidance is not None
    assert torch.equal(batch.condition.guidance, torch.full((BATCH,), 1.5))
    assert batch.condition.label is not None
    assert set(batch.condition.label.tolist()) == {0, 1, 2, 3}


def test_an_unguided_run_carries_no_scale() -> None:
    predictor = Towards()
    distillation(teacher=teacher_of(Labels(4)), predictor=predictor).step()
    assert predictor.batches[0].condition.guidance is None


def test_a_teacher_that_cannot_be_guided_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match="no null label"):
        distillation(teacher=teacher_of(Labels(4)), guidance=1.5)


def test_a_distillation_has_an_objective() -> None:
    with pytest.raises(ValueError, match="a predictor, a corrector or both"):
        distillation(predictor=None)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda found: found.gaps, "returned tuple, not Gaps"),
        (lambda found: found.gaps[0].gap, "returned Tensor, not Gaps"),
        (lambda found: None, "returned NoneType, not Gaps"),
        (
            lambda found: Gaps(
                gaps=tuple(Gap(output=g.output.detach(), gap=g.gap) for g in found.gaps)
            ),
            "returned an output without gradient",
        ),
    ],
    ids=["a tuple", "a tensor", "nothing", "detached"],
)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_answer_that_trains_nothing_is_refused_by_the_name_of_its_objective(
    answer: Callable[[Gaps], Any], message: str, accumulation: int
) -> None:
    class Wrong(Towards):
        def gaps(self, networks: Networks, batch: Any) -> Any:
            return answer(super().gaps(networks, batch))

    where = rf"the objective of prediction \({__name__}:.*Wrong\) "
    with pytest.raises(WrongAnswer, match=where + message):
        distillation(predictor=Wrong(), accumulation=accumulation).step()


def test_two_objectives_do_not_name_one_auxiliary() -> None:
    class Helped(Towards):
        def auxiliaries(self, student: Any, teacher: Any) -> Any:
            return {"online": online()}

    with pytest.raises(ValueError, match="both objectives name an auxiliary network 'online'"):
        distillation(predictor=Helped(), corrector=Correct(auxiliaries={"online": online()}))


def test_every_objective_checks_itself_on_a_few_samples() -> None:
    class Checking(Towards):
        def self_check(self, networks: Networks, batch: Any) -> str:
            assert networks.student is run.student
            return f"found {len(batch.z)}"

    run = distillation(predictor=Checking(), corrector=Correct())
    assert run.self_check(samples=5)[-1] == "found 5"
    assert run.self_check(samples=100)[-1] == "found 40"


class Prepared(Towards):
    """Keeps what it prepares from, and what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.noise: list[Tensor] = []
        self.steps: list[Tensor] = []

    def prepare(self, teacher: Teacher, draw: Callable[[int, int], Batch]) -> dict[str, float]:
        self.noise.append(draw(0, 100).z)
        assert torch.equal(draw(30, 70).z, self.noise[-1][30:70])
        assert draw(0, 3).data is None
        return {"found": 100.0}

    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        assert self.noise
        self.steps.append(batch.z)
        return super().gaps(networks, batch)


def test_objectives_prepare_once_before_the_first_step_with_noise_of_no_step() -> None:
    one, other = Prepared(), Prepared()
    run = distillation(predictor=one, corrector=Correct())
    for report in train(run, log_every=3):
        assert report.metrics["predictor/found"] == 100
        assert "corrector/found" not in report.metrics
    assert len(one.noise) == 1
    assert all((each[:, None] != one.noise[0]).any(2).all() for each in one.steps)

    parts = distillation(predictor=other, corrector=Correct(), accumulation=2)
    parts.step_index = 4  # after a resume
    parts.step()
    assert torch.equal(other.noise[0], one.noise[0])
    assert parts.preparation == {"predictor/found": 100.0}


def test_a_finished_run_prepares_nothing() -> None:
    idle = Prepared()
    run = distillation(predictor=idle)
    run.step_index = run.steps
    assert list(train(run)) == []
    assert run.preparation is None
    assert not idle.noise


def test_an_exact_teacher_serves_a_run_of_its_own_dimension() -> None:
    mean = Stream(0).normal(DIMENSION)
    predictor = Towards()
    run = distillation(teacher=Gaussian(mean), predictor=predictor)
    run.step()
    assert run.step_index == 1
    assert predictor.batches[0].z.shape == (BATCH, DIMENSION)


def in_precision(precision: str, predictor: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradient of a step on digits, of a student that is away from its start."""
    recipe = load_recipe("digits.toml", ["training.batch=32"])
    changed = attrs.evolve(recipe.predictor, **predictor)
    training = attrs.evolve(recipe.training, precision=precision)
    run = build(attrs.evolve(recipe, predictor=changed, training=training)).distillation
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in run.student.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    found, metrics = gradient_of_step(run)
    networks = (run.student, run.ema, *run.networks().auxiliaries.values())
    assert {each.dtype for network in networks for each in network.parameters()} == {torch.float32}
    return found, metrics


@pytest.mark.parametrize(
    "predictor",
    [
        {"derivative": "jvp"},
        {"derivative": "finite-difference", "derivative_scheme": "one-sided"},
        {"derivative": "finite-difference", "derivative_scheme": "central"},
    ],
    ids=str,
)
def test_a_step_in_bfloat16_has_nearly_the_gradient_of_float32(predictor: dict[str, Any]) -> None:
    exact, wanted = in_precision("float32", predictor)
    found, metrics = in_precision("bfloat16", predictor)
    assert not torch.equal(found, exact)
    assert (found - exact).norm() < 0.03 * exact.norm()
    for name, value in metrics.items():
        torch.testing.assert_close(value, wanted[name], rtol=0.02, atol=0.0)


class Coupled(Correct):
    """Says that its gaps couple the samples of a batch."""

    needs = frozenset({"whole batch"})


def test_a_step_that_would_cut_a_coupled_batch_is_refused() -> None:
    distillation(corrector=Coupled())
    with pytest.raises(ValueError, match=r"correction couples .* 1 processes × 2 micro-batches"):
        distillation(corrector=Coupled(), accumulation=2)
    with pytest.raises(ValueError, match=r"correction couples .* 2 processes × 1 micro-batches"):
        distillation(corrector=Coupled()).parallelize(Processes(0, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": -1}, "steps: must be a whole number, at least 1, found -1"),
        ({"steps": 3.0}, "steps: must be a whole number, at least 1, found 3.0"),
        ({"batch": 0}, "batch: must be a whole number, at least 1, found 0"),
        ({"seed": -1}, "seed: must be a whole number, at least 0, found -1"),
        ({"ema_decays": 0.9}, "ema_decays: must be a list of numbers"),
        ({"ema_decays": [1.5]}, "at least 0 and below 1"),
    ],
)
def test_impossible_numbers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distillation(**arguments)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="found 'cos'; did you mean"):
        Optimizer(schedule="cos")  # type: ignore[arg-type]


def test_a_loop_that_never_reports_is_refused() -> None:
    with pytest.raises(ValueError, match="log_every: must be at least 1, found 0"):
        next(train(distillation(), log_every=0))
