"""What a recipe costs: against counts by hand, and against a step that is really made."""

from collections import Counter

import attrs
import pytest
import torch
from networks import LinearStudent, LinearVelocity
from objectives import Correct, Towards, pull
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ffcore.cost import Cost, Memory
from ffcore.cost.row import FusedAttention, Row
from ffcore.cost.tally import SAMPLES, tally_steps
from ffcore.flow.guidance import remove_guidance
from ffcore.interfaces import Auxiliary, Condition, Context, Student, VelocityField
from ffcore.nn.size import TransformerSize
from ffcore.nn.transformer import Transformer
from ffcore.nn.velocity import Preconditioning, TransformerVelocity
from ffcore.recipe import Recipe, load_recipe
from ffcore.recipe.components import BuildError, parts
from ffcore.run.build import build
from ffcore.training.optimizer import Optimizer

GUIDED = ("guidance.scale=1.8", "guidance.interval=[0.0, 0.8]")


class Ours(Preconditioning):
    """A network in our own conventions."""

    c_out = 1.0

    def c_noise(self, t: Tensor) -> Tensor:
        return t

    def c_in(self, t: Tensor) -> None:
        del t


def transformer(size: TransformerSize) -> TransformerVelocity:
    with torch.device("meta"):
        return TransformerVelocity(Transformer(size), Ours())


def sizes(**given: int) -> TransformerSize:
    return TransformerSize(
        **{"input_size": 8, "channels": 1, "width": 32, "depth": 2, "heads": 2, **given}
    )


def row(network: nn.Module, *shape: int) -> Row:
    names = ("x_t", "t", "delta") if isinstance(network, Student) else ("x_t", "t")
    return Row.of(network, names, shape, Condition(size=1, label=torch.zeros(1, dtype=torch.long)))


class Perceptron(VelocityField):
    """One hidden layer of h units on d numbers."""

    def __init__(self, d: int, h: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(d, h), nn.Linear(h, d)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        del t, condition
        out: Tensor = self.leave(nn.functional.silu(self.enter(x_t)))
        return out


@attrs.frozen
class Gives:
    """A recipe's table that builds what it holds."""

    made: object

    def build(self, context: Context) -> object:
        del context
        return self.made


def with_method(predictor: object, corrector: object = None, *overrides: str) -> Recipe:
    """The Gaussian recipe with another method."""
    recipe = load_recipe("gaussian.toml", ["training.batch=40", *overrides])
    return attrs.evolve(
        recipe, predictor=Gives(predictor), corrector=corrector and Gives(corrector)
    )


def rows(cost: Cost) -> dict[tuple[str, str, str], float]:
    return {(each.part, each.network, each.kind): each.rows for each in cost.passes}


# Memory


def test_a_learning_network_holds_its_weights_five_times():
    memory = Memory.of(nn.Linear(3, 5), learns=True, has_ema=True)
    numbers = 5 * 3 + 5
    assert memory == Memory(
        weights=4 * numbers, gradients=4 * numbers, optimizer=8 * numbers, ema=4 * numbers
    )
    assert memory.total == 20 * numbers


def test_a_network_that_does_not_learn_holds_its_weights_alone():
    assert Memory.of(nn.Linear(3, 5)) == Memory(weights=80)
    assert Memory.of(nn.Linear(3, 5, dtype=torch.bfloat16)) == Memory(weights=40)


def test_frozen_parameters_have_neither_gradient_nor_moments():
    network = nn.Linear(3, 5)
    network.weight.requires_grad_(False)
    assert Memory.of(network, learns=True) == Memory(weights=80, gradients=20, optimizer=40)


def test_a_shard_is_the_padded_part_of_every_tensor():
    network = nn.Linear(3, 5)
    two_rows = 2 * 3 + 2  # ⌈5 / 4⌉ rows of the weight, and of the bias
    assert Memory.of(network, learns=True, has_ema=True, gpus=4) == Memory(
        weights=4 * two_rows, gradients=4 * two_rows, optimizer=8 * two_rows, ema=4 * two_rows
    )
    assert 4 * two_rows > Memory.of(network).weights / 4  # a division of the sum would not do
    assert Memory.of(network, gpus=5).weights == Memory.of(network).weights / 5


def test_buffers_and_scalars_are_not_divided():
    network = nn.Linear(8, 8, bias=False)
    network.register_buffer("position", torch.zeros(10))
    network.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    assert Memory.of(network, gpus=8).weights == 4 * (8 + 10 + 1)


def test_the_memory_of_a_recipe_is_the_sum_over_its_networks():
    cost = Cost.of(load_recipe("mixture.toml"), gpus=4)
    for sharded in (False, True):
        held = [each.sharded if sharded else each.whole for each in cost.networks]
        assert cost.memory(sharded=sharded).total == sum(each.total for each in held)
    assert cost.memory(sharded=True).total < cost.memory(sharded=False).total
    assert Cost.of(load_recipe("mixture.toml"), gpus=1).memory(sharded=True) == cost.memory(
        sharded=False
    )


# Networks


def test_networks_are_counted_with_what_learns_in_each():
    cost = Cost.of(load_recipe("mixture.toml"))

    def counted(inputs: int) -> int:
        made = nn.Sequential(nn.Linear(inputs, 128), *(nn.Linear(128, 128) for _ in range(2)))
        return sum(each.numel() for each in made.parameters()) + 128 * 2 + 2 + 3 * 128

    online_ = counted(2 + 1 + 16)  # a point, a time, its waves
    student = counted(2 + 1 + 16 + 64)  # the waves of its projections
    assert [(each.name, each.parameters, each.trainable) for each in cost.networks] == [
        ("teacher", 0, 0),
        ("student", student, student),
        ("online", online_, online_),
    ]
    teacher, student_, online = cost.networks
    assert teacher.whole.gradients == 0
    assert student_.whole.ema == student_.whole.weights
    assert online.whole.ema == 0
    assert online.whole.optimizer == 2 * online.whole.gradients == 8 * online_


def test_a_transformers_parameters_are_those_of_its_formula():
    recipe = load_recipe(
        "digits.toml",
        ["teacher.sizes={input_size=8, channels=1, width=32, depth=2, heads=2, classes=10}",
         "teacher.weights='not/there.safetensors'", "corrector='none'"],
    )  # fmt: skip
    D, P, C = 32, 2, 1
    block = (3 * D + D + 4 * D + 4 * D) * D + (3 * D + D + 4 * D + D) + 6 * (D * D + D)
    scalar = 256 * D + D + D * D + D
    ends = (P * P * C * D + D) + 2 * (D * D + D) + (D * P * P * C + P * P * C)
    teacher = 2 * block + scalar + 11 * D + ends
    cost = Cost.of(recipe)
    assert [each.parameters for each in cost.networks] == [teacher, teacher + scalar]


def test_low_rank_factors_alone_are_trained():
    recipe = load_recipe("digits.toml", ["corrector.online_rank=2"])
    whole, low_rank = (Cost.of(each).networks[2] for each in (load_recipe("digits.toml"), recipe))
    added = low_rank.parameters - whole.parameters
    assert 0 < low_rank.trainable <= added < whole.trainable
    assert low_rank.whole.gradients == 4 * low_rank.trainable


@pytest.mark.parametrize("family", ["sit", "dit"])
def test_low_rank_factors_of_shapes_are_those_of_weights(family, tmp_path):
    """What a copy adds starts from zero, and stays whole: γ's embedding, and the head of a DiT."""
    teacher = Transformer(sizes(classes=10))
    for parameter in teacher.parameters():
        nn.init.normal_(parameter)
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    recipe = load_recipe(
        "digits_guided.toml",
        [f"teacher.type='{family}'", f"teacher.weights='{tmp_path / 'teacher.safetensors'}'",
         "teacher.sizes={input_size=8, channels=1, width=32, depth=2, heads=2, classes=10}",
         f"student={{type='{family}'}}", "corrector.online_rank=2"],
    )  # fmt: skip
    online = build(recipe).distillation.auxiliaries["online"].network
    found = Cost.of(recipe).networks[2]
    assert found.parameters == sum(each.numel() for each in online.parameters())
    assert found.whole == Memory.of(online, learns=True)


def test_large_networks_stand_on_the_meta_device_and_need_no_weights():
    recipe = load_recipe(
        "digits.toml",
        ["teacher.model='XL/2'", "teacher.weights='not/there.pt'", "corrector.online_rank=4"],
    )
    found = parts(recipe, meta=True)
    assert found.corrector is not None
    online = found.corrector.auxiliaries(found.student, found.teacher)["online"].network
    for network in (found.teacher, found.student, online):
        tensors = [*network.parameters(), *network.buffers()]
        assert tensors
        assert all(each.is_meta for each in tensors)


# FLOPs of a row


def test_a_perceptrons_flops_are_those_of_its_matrices():
    d, h = 5, 7
    found = row(Perceptron(d, h), d)
    assert found.forward() == 2 * (d * h + h * d)
    assert found.backward() == 2 * (d * h + 2 * h * d)  # no gradient reaches the points


def test_a_frozen_network_is_passed_backward_to_its_points():
    d, h = 5, 7
    assert row(Perceptron(d, h).requires_grad_(False), d).backward() == 2 * (d * h + h * d)


def test_a_derivative_costs_where_its_tangent_goes():
    d = 6
    found = row(LinearStudent(d).double(), d)
    assert found.forward() == 2 * (2 * d * d)
    assert found.forward(("delta",)) == found.forward()  # δ multiplies what has no tangent
    assert 2 * found.forward() <= found.forward(("x_t",)) <= 3 * found.forward()


@pytest.mark.parametrize(
    ("model", "image_size", "published"),
    [("S/2", 256, 6.06), ("B/4", 256, 5.56), ("B/2", 256, 23.01), ("S/2", 512, 31.4)],
)
def test_transformers_have_the_published_number_of_multiplications(model, image_size, published):
    """Peebles & Xie, 2212.09748, table 4, which counts a multiplication and addition as one; the
    last from its formula: 6.06 with four times the tokens, and the attention four times more."""
    size = TransformerSize.published(model, image_size)
    found = row(transformer(size), *size.sample_shape).forward() / 2 / 1e9
    assert found == pytest.approx(published, rel=0.01)


# Activations


def test_a_perceptron_keeps_its_input_and_both_sides_of_its_nonlinearity():
    d, h = 5, 7
    assert row(Perceptron(d, h), d).saved_bytes() == 4 * (d + h + h)


def test_a_network_that_needs_no_backward_keeps_nothing():
    assert row(Perceptron(5, 7).requires_grad_(False), 5).saved_bytes() == 0


def kept_by_the_math_kernel(found: Row, monkeypatch: pytest.MonkeyPatch) -> int:
    def leave(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))

    with monkeypatch.context() as patch:
        patch.setattr(FusedAttention, "__torch_function__", leave)
        return found.saved_bytes()


def test_attention_keeps_no_matrix_of_tokens_by_tokens(monkeypatch):
    few, many = (
        row(transformer(sizes(input_size=side, classes=10)), 1, side, side) for side in (16, 32)
    )
    assert many.saved_bytes() / few.saved_bytes() < 4.01
    matrices = 2 * 2 * 256**2 * 4  # of two blocks, two heads
    assert kept_by_the_math_kernel(many, monkeypatch) - many.saved_bytes() >= matrices


def test_activations_are_of_the_rows_of_one_gpu_and_one_backward():
    recipe = load_recipe("mixture.toml", ["training.batch=100", "corrector.online_updates=3"])
    student, online = Cost.of(recipe, gpus=8).activations
    assert (student.network, student.rows) == ("student", 13)  # of 75 + 25 samples
    assert (online.network, online.rows) == ("online", 4)  # of 25, thrice one after another
    assert student.float32 == 13 * student.row == 2 * student.bfloat16


# A step


def test_finite_differences_take_one_more_forward_of_the_student():
    cost = Cost.of(load_recipe("digits.toml"))
    assert rows(cost) == {
        ("prediction", "student", "forward and backward"): 48,
        ("prediction", "student", "forward"): 48,
        ("prediction", "teacher", "forward"): 48,
        ("correction", "student", "forward and backward"): 16,
        ("correction", "teacher", "forward"): 16,
        ("correction", "online", "forward"): 16,
        ("online training", "online", "forward and backward"): 16,
    }
    F, teacher = cost.student_row, cost.teacher_row
    formula = 48 * (3 * F + F + teacher) + 16 * (3 * F + teacher + teacher + 3 * teacher)
    assert cost.flops == pytest.approx(formula, rel=0.01)
    assert cost.flops == sum(each.rows * each.row for each in cost.passes)


def test_forward_mode_is_told_apart():
    recipe = load_recipe("mixture.toml", ["training.steps=1", "predictor.derivative='jvp'"])
    found = rows(Cost.of(recipe))
    assert found["prediction", "student", "derivative in delta"] == 192
    assert ("prediction", "student", "forward") not in found


def test_dual_numbers_cost_a_forward_beside_the_one_that_carries_the_gradient():
    cost = Cost.of(load_recipe("digits.toml", ["predictor.derivative='auto'"]))
    (dual,) = (each for each in cost.passes if "dual" in each.kind)
    assert (dual.network, dual.rows) == ("student", 48)
    assert dual.kind == "dual forward in delta and backward"
    assert dual.row == pytest.approx(4 * cost.student_row, rel=0.05)


def test_guidance_everywhere_takes_two_forwards_of_the_teacher():
    found = rows(Cost.of(load_recipe("digits.toml", ["guidance.scale=2.0"])))
    for part, samples in (("prediction", 48), ("correction", 16)):
        assert found[part, "teacher", "forward"] == samples
        assert found[part, "teacher", "forward, unconditional"] == samples


def test_guidance_in_an_interval_takes_the_share_of_times_within_it():
    cost = Cost.of(load_recipe("digits.toml", [*GUIDED, "corrector.guidance_interval=[0.0, 0.0]"]))
    found = rows(cost)
    assert found["prediction", "teacher", "forward, unconditional"] == pytest.approx(
        0.8 * 48, rel=0.05
    )
    assert ("correction", "teacher", "forward, unconditional") not in found


def test_steps_are_taken_from_all_over_the_run():
    later = "balancer.correction_from=500"
    cost = Cost.of(load_recipe("digits.toml", [later, "training.steps=1000"]))
    found = rows(cost)
    assert found["prediction", "student", "forward and backward"] == (64 + 48) / 2
    assert found["correction", "student", "forward and backward"] == 16 / 2
    assert [each.rows for each in cost.activations] == [8, 2]  # of the step that keeps most


def test_a_method_that_nobody_knows_is_counted_too():
    learner = Auxiliary(network=LinearVelocity(2), optimizer=Optimizer(), loss=pull, updates=3)
    average = Auxiliary(network=LinearStudent(2), ema_decay=0.9)
    corrector = Correct(auxiliaries={"field": learner, "slow": average})
    cost = Cost.of(with_method(Towards(), corrector, "balancer.correction=0.5"))
    assert rows(cost) == {
        ("prediction", "student", "forward and backward"): 20,
        ("correction", "student", "forward and backward"): 20,
        ("field training", "field", "forward and backward"): 60,
    }
    held = {each.name: each for each in cost.networks}
    assert held["field"].trainable == 6
    assert held["slow"].trainable == 0
    assert held["slow"].whole == Memory(weights=8 * 9)
    assert [each.network for each in cost.activations] == ["student", "field"]


@pytest.mark.parametrize("correction", [0.0, 0.001, 0.25, 1.0])
def test_each_share_of_a_large_batch_is_told_from_its_first_samples(correction):
    learner = Auxiliary(network=LinearVelocity(2), optimizer=Optimizer(), loss=pull, updates=3)
    predictor, corrector = Towards(), Correct(auxiliaries={"field": learner})
    share = round(20_010 * correction)
    batch = ("training.batch=20010", "training.steps=4", f"balancer.correction={correction}")
    assert rows(Cost.of(with_method(predictor, corrector, *batch))) == {
        use: number
        for use, number in {
            ("prediction", "student", "forward and backward"): 20_010 - share,
            ("correction", "student", "forward and backward"): share,
            ("field training", "field", "forward and backward"): 3 * share,
        }.items()
        if number
    }
    found = {len(each.z) for each in (*predictor.batches, *corrector.batches)}
    assert found == {min(each, SAMPLES) for each in (20_010 - share, share) if each}


def test_a_large_batch_of_one_objective_is_told_from_its_first_samples():
    predictor = Towards()
    (found,) = Cost.of(with_method(predictor, None, "training.batch=1000000000")).passes
    assert found.rows == 1_000_000_000
    assert {len(each.z) for each in predictor.batches} == {SAMPLES}


def test_costs_are_proportional_to_a_large_batch():
    drawn = "teacher", "forward, unconditional"  # how many are guided depends on their times
    small, large = (
        Cost.of(load_recipe("digits.toml", [*GUIDED, f"training.batch={batch}"]))
        for batch in (1_000, 1_000_000)
    )
    for use, expected in rows(small).items():
        tolerance = 0.02 if use[1:] == drawn else 0
        assert rows(large)[use] == pytest.approx(1000 * expected, rel=tolerance, abs=0)
    assert [
        (each.rows, more.rows)
        for each, more in zip(small.activations, large.activations, strict=True)
    ] == [(125, 125_000), (32, 31_250)]  # of 8 GPUs, rounded up


def test_an_auxiliary_network_of_an_unknown_kind_is_refused():
    judge = Auxiliary(network=nn.Linear(2, 1), optimizer=Optimizer(), loss=pull)
    with pytest.raises(BuildError, match="auxiliary network 'judge' is a Linear"):
        Cost.of(with_method(Towards(), Correct(auxiliaries={"judge": judge})))


class Opaque(torch.autograd.Function):
    """The identity, without a forward mode."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class OpaqueStudent(Student):
    starts_at = "prior"

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        del t, condition
        found: Tensor = Opaque.apply(self.scale * x_t * delta[:, None])
        return found


def test_a_student_without_the_derivative_that_the_recipe_asks_for_is_told():
    recipe = load_recipe("gaussian.toml", ["predictor.derivative='jvp'"])
    recipe = attrs.evolve(recipe, student=Gives(OpaqueStudent()))
    with pytest.raises(BuildError, match="derivative of the student along delta"):
        Cost.of(recipe)


# Against what really happens


CASES = {
    "gaussian": ("gaussian.toml",),
    "mixture": ("mixture.toml",),
    "mixture, guided": ("mixture.toml", *GUIDED),
    "mixture, guided within less": (
        "mixture.toml", *GUIDED, "corrector.guidance_interval=[0.2, 0.5]",
    ),
    "mixture, central differences": (
        "mixture.toml", "predictor.derivative='finite-difference'",
        "predictor.derivative_scheme='central'",
    ),
    "digits": ("digits.toml", *GUIDED),
    "digits, low rank": ("digits.toml", "corrector.online_rank=2"),
    "digits at every scale, low rank": ("digits_guided.toml", "corrector.online_rank=2"),
}  # fmt: skip


def one_step(name: str) -> Recipe:
    recipe, *overrides = CASES[name]
    return load_recipe(recipe, [*overrides, "training.steps=1", "training.batch=48"])


@pytest.mark.parametrize("name", CASES)
def test_the_flops_are_those_of_a_real_step(name):
    recipe = one_step(name)
    distillation = build(recipe).distillation
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        distillation.step()
    assert Cost.of(recipe).flops == counted.get_total_flops()


@pytest.mark.parametrize("name", CASES)
def test_the_rows_are_those_of_a_real_step(name):
    recipe = one_step(name)
    distillation = build(recipe).distillation
    forward, backward = Counter(), Counter()

    def watch(name: str, network: nn.Module) -> None:
        def saw(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            forward[name] += len(output)
            if output.requires_grad:
                backward[name] += len(output)

        network.register_forward_hook(saw)

    watch("teacher", remove_guidance(distillation.teacher))
    watch("student", distillation.student)
    for online, each in distillation.auxiliaries.items():
        watch(online, each.network)
    distillation.step()

    found = parts(recipe, meta=True)
    objectives = {"prediction": found.predictor, "correction": found.corrector}
    auxiliaries = {
        objective: each.auxiliaries(found.student, found.teacher)
        for objective, each in objectives.items()
        if each is not None
    }
    _, (step,) = tally_steps(recipe, recipe.training.steps or 1, found, auxiliaries)
    tallied, went_back = Counter(), Counter()
    for use, count in step.items():
        tallied[use.network] += count
        went_back[use.network] += count * use.backward
    assert tallied == forward
    assert +went_back == backward


def test_a_fully_guided_step_would_be_told_from_a_partly_guided_one():
    partly, fully = (
        Cost.of(load_recipe("mixture.toml", [*each, "training.steps=1"])).flops
        for each in (GUIDED, GUIDED[:1])
    )
    assert partly < fully


def test_counting_leaves_global_random_state_alone():
    before = torch.random.get_rng_state()
    Cost.of(load_recipe("mixture.toml"))
    assert torch.equal(torch.random.get_rng_state(), before)


# The reference sampler


def test_the_teachers_evaluations_are_the_solvers():
    published = 'evaluation.solver={method="heun", steps=128, gate="step"}'
    assert Cost.of(load_recipe("mixture.toml", [published])).teacher_nfe == 256
    assert Cost.of(load_recipe("mixture.toml", [published, *GUIDED])).teacher_nfe == 460
    adaptive = 'evaluation.solver={method="dopri5"}'
    assert Cost.of(load_recipe("mixture.toml", [adaptive])).teacher_nfe is None


def test_a_range_of_scales_does_not_guide_the_sampler_at_scale_1():
    ranged = ["guidance.range=[1.0, 3.0]", "evaluation.solver.steps=8", "corrector='none'"]
    assert Cost.of(load_recipe("digits.toml", ranged)).teacher_nfe == 16
    assert Cost.of(load_recipe("digits.toml", [*ranged, "guidance.scale=2.0"])).teacher_nfe == 32
