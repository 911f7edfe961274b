"""The SiT transformer as teacher and student, and against vectors of the official code."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from inputs import Stream
from safetensors import safe_open
from torch import Tensor, nn

from ffcore.derivative import Derivative, self_check
from ffcore.draws import Draws
from ffcore.guidance import Guided
from ffcore.interfaces import Condition, Context, FrozenTeacher, Labels, Unconditional
from ffcore.nn.embedding import grid_sinusoids
from ffcore.nn.transformer import TransformerSize
from ffcore.solver import integrate
from ffcore.weights import WeightsError, write_weights
from ffcore_mlp.student import MlpAverageVelocity
from ffcore_sit.student import SiTAverageVelocity
from ffcore_sit.tables import SiTStudent, SiTTeacher, Sizes
from ffcore_sit.velocity import SiTVelocity

SIZES = Sizes(input_size=4, patch_size=2, channels=2, width=16, depth=2, heads=2, classes=3)


def filled(network: nn.Module) -> None:
    """Give every parameter that starts at zero another value, as training would."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.2)


@pytest.fixture(scope="module")
def teacher() -> FrozenTeacher:
    torch.manual_seed(0)
    built = SiTTeacher(sizes=SIZES).build(Context())
    assert isinstance(built, FrozenTeacher)
    filled(built)
    return built.double()


def inputs(size: int = 5) -> tuple[Tensor, Tensor, Condition]:
    stream = Stream(0)
    condition = Condition(size=size, label=stream.integers(3, size))
    return stream.normal(size, 2, 4, 4), stream.uniform(0, 1, size), condition


# The student before training.

Expected = Callable[[FrozenTeacher, Tensor, Tensor, Condition], Tensor]
EXPECTED: dict[str, Expected] = {
    "euler": lambda u, z, delta, c: u(z, torch.ones_like(delta), c),
    "teacher-time": lambda u, z, delta, c: u(z, 1 - delta, c),
}


def starts_at(
    teacher: FrozenTeacher, start: Any, expected: Expected, delta: Tensor | None = None
) -> None:
    student = SiTStudent(start=start).build(Context(teacher=teacher)).double()
    z, drawn, condition = inputs()
    delta = drawn if delta is None else delta
    F = student(z, torch.ones_like(delta), delta, condition)
    torch.testing.assert_close(F, expected(teacher, z, delta, condition), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("start", EXPECTED)
def test_a_new_student_is_what_its_start_says(teacher: FrozenTeacher, start: str) -> None:
    starts_at(teacher, start, EXPECTED[start])


@pytest.mark.parametrize("start", EXPECTED)
def test_without_duration_a_new_student_is_the_velocity_at_the_prior(
    teacher: FrozenTeacher, start: str
) -> None:
    starts_at(teacher, start, EXPECTED["euler"], torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("start", "wrong"),
    [
        ("euler", EXPECTED["teacher-time"]),
        ("teacher-time", EXPECTED["euler"]),
        ("teacher-time", lambda u, z, delta, c: u(z, delta, c)),
        ("euler", lambda u, z, delta, c: u(z, torch.zeros_like(delta), c)),
        ("euler", lambda u, z, delta, c: -EXPECTED["euler"](u, z, delta, c)),
    ],
    ids=["time that runs", "time that stands", "time reversed", "at the data", "sign"],
)
def test_another_start_would_be_seen(teacher: FrozenTeacher, start: str, wrong: Expected) -> None:
    with pytest.raises(AssertionError):
        starts_at(teacher, start, wrong)


@pytest.mark.parametrize("start", EXPECTED)
def test_a_student_trains_apart_from_its_teacher(teacher: FrozenTeacher, start: Any) -> None:
    student = SiTStudent(start=start).build(Context(teacher=teacher))
    z, delta, condition = inputs()
    before = teacher(z, delta, condition)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1)
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert torch.equal(teacher(z, delta, condition), before)


@pytest.mark.parametrize("start", EXPECTED)
def test_a_trained_student_depends_on_the_duration_smoothly(
    teacher: FrozenTeacher, start: Any
) -> None:
    student = SiTStudent(start=start).build(Context(teacher=teacher)).double()
    filled(student)
    z, delta, condition = inputs()
    ones = torch.ones_like(delta)
    moved = student(z, ones, delta, condition) - student(z, ones, delta / 2, condition)
    assert (moved.flatten(1).abs().amax(1) > 1e-4).all()
    for derivative in (Derivative(), Derivative(backend="finite-difference")):
        error = self_check(student, derivative, z, condition, Draws(0, 0, 0, 5))
        assert error is not None
        assert error < 0.01


def test_a_sample_does_not_depend_on_the_rest_of_the_batch(teacher: FrozenTeacher) -> None:
    student = SiTStudent().build(Context(teacher=teacher)).double()
    filled(student)
    z, delta, condition = inputs()
    parts = [slice(i, i + 1) for i in range(5)]
    for network in (
        lambda i: teacher(z[i], delta[i], condition[i]),
        lambda i: student(z[i], torch.ones_like(delta[i]), delta[i], condition[i]),
    ):
        alone = torch.cat([network(i) for i in parts])
        torch.testing.assert_close(network(slice(None)), alone, rtol=1e-11, atol=1e-11)


def test_labels_count_in_both(teacher: FrozenTeacher) -> None:
    student = SiTStudent().build(Context(teacher=teacher)).double()
    z, delta, condition = inputs()
    assert condition.label is not None
    other = attrs.evolve(condition, label=(condition.label + 1) % 4)
    ones = torch.ones_like(delta)
    for moved in (
        teacher(z, delta, other) - teacher(z, delta, condition),
        student(z, ones, delta, other) - student(z, ones, delta, condition),
    ):
        assert (moved.flatten(1).abs().amax(1) > 1e-4).all()


def test_a_network_without_classes_needs_no_labels() -> None:
    sizes = attrs.evolve(SIZES, classes=None)
    built = SiTTeacher(sizes=sizes).build(Context())
    assert isinstance(built.conditions, Unconditional)
    z, delta, _ = inputs()
    assert built(z.float(), delta.float(), Condition(size=5)).shape == z.shape
    student = SiTStudent().build(Context(teacher=built))
    ones = torch.ones(5)
    assert student(z.float(), ones, delta.float(), Condition(size=5)).shape == z.shape


def test_only_a_sit_teacher_starts_a_sit_student() -> None:
    class Other(FrozenTeacher):
        def trainable_copy(self) -> Any:
            return MlpAverageVelocity(2, 0, width=4, depth=1)

    other = Other(SiTVelocity(size_of(SIZES)), (2, 4, 4), Unconditional())
    with pytest.raises(ValueError, match="starts from a sit teacher"):
        SiTStudent().build(Context(teacher=other))


# The teacher from its file.


def size_of(sizes: Sizes) -> TransformerSize:
    return TransformerSize(out_channels=sizes.channels, **attrs.asdict(sizes))


def written(path: Path, config: dict[str, Any]) -> SiTVelocity:
    torch.manual_seed(1)
    velocity = SiTVelocity(size_of(SIZES))
    filled(velocity)
    write_weights(path, velocity.transformer.state_dict(), config)
    return velocity


def test_a_file_says_the_sizes_of_its_network(tmp_path: Path) -> None:
    path = tmp_path / "sit.safetensors"
    velocity = written(path, {"sit": attrs.asdict(SIZES)})
    built = SiTTeacher(weights=str(path)).build(Context())
    z, t, condition = inputs()
    assert torch.equal(
        built(z.float(), t.float(), condition), velocity(z.float(), t.float(), condition)
    )
    assert built.sample_shape == (2, 4, 4)
    assert built.conditions == Labels(3, null_label=3)
    assert not any(parameter.requires_grad for parameter in built.parameters())


def test_sizes_may_stand_in_the_recipe_instead(tmp_path: Path) -> None:
    path = tmp_path / "sit.safetensors"
    written(path, {})
    SiTTeacher(weights=str(path), sizes=SIZES).build(Context())
    with pytest.raises(WeightsError, match="does not say its sizes"):
        SiTTeacher(weights=str(path)).build(Context())


@pytest.mark.parametrize(
    ("stored", "message"),
    [({"sit": attrs.asdict(SIZES)}, "the recipe says"), ({}, "does not fit the network")],
)
def test_sizes_that_contradict_the_file_are_refused(
    stored: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "sit.safetensors"
    written(path, stored)
    with pytest.raises(WeightsError, match=message):
        SiTTeacher(weights=str(path), sizes=attrs.evolve(SIZES, depth=3)).build(Context())


def test_a_teacher_has_weights_or_sizes() -> None:
    with pytest.raises(ValueError, match=r"\(weights\) or .* \(sizes\)"):
        SiTTeacher()


@pytest.mark.parametrize(("field", "value"), [("patch_size", 3), ("heads", 3)])
def test_sizes_that_do_not_go_together_are_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match="is not a multiple"):
        attrs.evolve(SIZES, **{field: value})


# Golden vectors: what the official code makes of small networks with random weights.


@attrs.frozen(eq=False)
class Golden:
    """A file of them: the network, and the tensors beside its weights."""

    teacher: FrozenTeacher
    tensors: dict[str, Tensor]

    @property
    def condition(self) -> Condition:
        return Condition(size=len(self.tensors["y"]), label=self.tensors["y"])

    def guided(self, scale: float) -> Condition:
        return attrs.evolve(self.condition, guidance=torch.full((self.condition.size,), scale))


def golden(model: str) -> list[Golden]:
    """Every file of `model` in the folder FFCORE_GOLDEN."""
    folder = os.environ.get("FFCORE_GOLDEN")
    if folder is None:
        pytest.skip("FFCORE_GOLDEN names no folder of golden vectors")
    found = []
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            if file.metadata()["model"] == model:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                found.append(golden_sit(json.loads(file.metadata()["config"]), tensors))
    assert found, f"{folder} holds no file of {model}"
    return found


def golden_sit(config: dict[str, Any], tensors: dict[str, Tensor]) -> Golden:
    prefix = "weights."
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    sizes = Sizes(
        input_size=config["input_size"],
        patch_size=config["patch_size"],
        channels=config["in_channels"],
        width=config["hidden_size"],
        depth=config["depth"],
        heads=config["num_heads"],
        classes=config["num_classes"],
    )
    position = state.pop("pos_embed")
    fixed = grid_sinusoids(sizes.input_size // sizes.patch_size, sizes.width)
    assert torch.equal(position[0], fixed)
    if config["learn_sigma"]:  # 2C channels, of which the velocity is the first C
        for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
            patches = state[name].unflatten(0, (-1, 2, sizes.channels))
            state[name] = patches[:, 0].flatten(0, 1)
    velocity = SiTVelocity(size_of(sizes))
    velocity.transformer.load_state_dict(state)
    assert sizes.classes is not None
    shape = (sizes.channels, sizes.input_size, sizes.input_size)
    teacher = FrozenTeacher(velocity, shape, Labels(sizes.classes, sizes.classes))
    return Golden(teacher, tensors)


def matches(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert float((found - expected).detach().norm() / expected.norm()) <= tolerance


def keys(file: Golden, pattern: str) -> list[tuple[str, re.Match[str]]]:
    found = [(name, re.fullmatch(pattern, name)) for name in file.tensors]
    return [(name, match) for name, match in found if match]


def test_the_velocity_is_the_official_one() -> None:
    for file in golden("SiT"):
        x, t = file.tensors["x"], 1 - file.tensors["t_official"]
        matches(file.teacher(x, t, file.condition), file.tensors["forward"])


def test_the_guided_velocity_is_the_official_one() -> None:
    for file in golden("SiT"):
        x, t = file.tensors["x"], 1 - file.tensors["t_official"]
        guided = Guided(file.teacher, channels=3)
        for name, match in keys(file, r"forward_cfg_([\d.]+)_three_channels"):
            matches(guided(x, t, file.guided(float(match[1]))), file.tensors[name])


def test_euler_samples_are_the_official_ones() -> None:
    for file in golden("SiT"):
        guided = Guided(file.teacher, channels=3)
        for name, match in keys(file, r"ode_euler_(\d+)_steps_cfg_([\d.]+)"):
            condition = file.guided(float(match[2]))
            found = integrate(
                guided, file.tensors["z"], condition, steps=int(match[1]), method="euler"
            )
            matches(found, file.tensors[name])


def test_converged_samples_are_the_official_adaptive_ones() -> None:
    for file in golden("SiT"):
        guided = Guided(file.teacher, channels=3)
        for name, match in keys(file, r"ode_dopri5_cfg_([\d.]+)"):
            condition = file.guided(float(match[1]))
            found = integrate(guided, file.tensors["z"], condition, steps=32, method="rk4")
            matches(found, file.tensors[name])  # the official tolerances are 1e-6


def test_another_convention_would_be_seen() -> None:
    for file in golden("SiT"):
        x, t, y = file.tensors["x"], file.tensors["t_official"], file.condition
        z, forward = file.tensors["z"], file.tensors["forward"]
        with pytest.raises(AssertionError):  # time reversed
            matches(file.teacher(x, t, y), forward)
        with pytest.raises(AssertionError):  # velocity towards noise
            matches(-file.teacher(x, 1 - t, y), forward)
        for name, match in keys(file, r"forward_cfg_([\d.]+)_three_channels"):
            with pytest.raises(AssertionError):  # all channels guided
                matches(
                    Guided(file.teacher)(x, 1 - t, file.guided(float(match[1]))),
                    file.tensors[name],
                )
        for name, match in keys(file, r"ode_euler_(\d+)_steps_cfg_([\d.]+)"):
            condition, steps = file.guided(float(match[2])), int(match[1]) - 1
            guided = Guided(file.teacher, channels=3)
            fewer = integrate(guided, z, condition, steps=steps, method="euler")
            with pytest.raises(AssertionError):  # n points are n − 1 steps
                matches(fewer, file.tensors[name])


def test_the_student_of_a_golden_teacher_starts_from_it() -> None:
    for file in golden("SiT"):
        student = SiTStudent(start="teacher-time").build(Context(teacher=file.teacher))
        assert isinstance(student, SiTAverageVelocity)
        x, t = file.tensors["x"], file.tensors["t_official"]
        matches(student(x, torch.ones_like(t), t, file.condition), file.tensors["forward"])
