"""Parity: what the official code makes of small networks, and what ours makes of their weights.

Each file of the folder FFCORE_GOLDEN (default: tests/golden) holds an official network's weights,
inputs and outputs, and its configuration in the metadata. Every output is one test, named by its
key; a key that no rule understands fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from ffcore.flow.convention import Convention
from ffcore.flow.guidance import Guided
from ffcore.flow.ode import integrate
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, Context, FrozenTeacher, Student, Teacher
from ffcore.nn.size import TransformerSize
from ffcore.nn.student import TransformerStudent
from ffcore_dit.tables import DiTStudent, DiTTeacher
from ffcore_dit.velocity import DIT, DiTPreconditioning
from ffcore_repa.tables import RepaStudent, RepaTeacher
from ffcore_sit.tables import SiTStudent, SiTTeacher

FOLDER = Path(os.environ.get("FFCORE_GOLDEN") or Path(__file__).parents[1] / "golden")
FILES = sorted(FOLDER.glob("*.safetensors"))
TOLERANCE = 1e-5
INPUTS = {"x", "t", "y", "z", "t_official", "timestep", "alphas_cumprod", "x_vp"}
FAMILIES: dict[str, tuple[Any, Any]] = {
    "SiT": (SiTTeacher, SiTStudent),
    "REPA SiT": (RepaTeacher, RepaStudent),
    "DiT": (DiTTeacher, DiTStudent),
}
SOLVERS = {"euler": "euler", "heun": "heun", "heun2": "heun", "midpoint": "midpoint"}
"""torchdiffeq's names, and REPA's, of what we have."""


@attrs.frozen(eq=False)
class Golden:
    """One file: the teacher that our code makes of its weights, and the tensors beside them."""

    model: str
    teacher: FrozenTeacher
    tensors: dict[str, Tensor]

    @property
    def t(self) -> Tensor:
        """Our times of the file's points; in float64, as rounding counts 157-fold for DiT."""
        if self.model == "DiT":
            return self.tensors["t"]
        official = self.tensors["t_official"]
        return 1 - official if self.model == "SiT" else official

    @property
    def x(self) -> Tensor:
        return self.tensors["x"].float()

    def condition(self, scale: float | None = None) -> Condition:
        label = self.tensors["y"]
        gamma = None if scale is None else torch.full((len(label),), scale)
        return Condition(size=len(label), label=label, guidance=gamma)

    def sample(self, teacher: Teacher, scale: str | float, solver: Solver) -> Tensor:
        return integrate(teacher, self.tensors["z"], self.condition(float(scale)), solver)

    def noise_prediction(self, teacher: Teacher, scale: float | None = None) -> Tensor:
        """DiT's ε, back from our velocity: ε = x_t − (1 − t) u."""
        t = self.t
        velocity = teacher(self.x, t, self.condition(scale)).double()
        return self.tensors["x"] - (1 - t)[:, None, None, None] * velocity


def read(path: Path) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return metadata["model"], json.loads(metadata["config"]), tensors


def size_of(config: dict[str, Any], weights: dict[str, Tensor]) -> TransformerSize:
    """The configuration; what the official default may hide is read off the weights."""
    hidden = len(weights["blocks.0.mlp.fc1.weight"])
    labels = len(weights["y_embedder.embedding_table.weight"])
    return TransformerSize(
        input_size=config["input_size"],
        patch_size=config["patch_size"],
        channels=config["in_channels"],
        width=config["hidden_size"],
        depth=config["depth"],
        heads=config["num_heads"],
        classes=config["num_classes"],
        null_label=labels > config["num_classes"],
        mlp_ratio=(hidden + 0.5) / config["hidden_size"],  # which rounds down to `hidden`
        qk_norm=config.get("qk_norm", False),
    )


def load(path: Path, folder: Path) -> Golden:
    """Load a file the way a user would: from a training checkpoint in official format."""
    model, config, tensors = read(path)
    weights = {
        k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")
    }
    checkpoint = folder / "last.pt"
    untrained = {name: torch.zeros_like(each) for name, each in weights.items()}
    official = {"model": untrained, "ema": weights, "opt": {}, "args": argparse.Namespace(**config)}
    torch.save(official, checkpoint)
    table = FAMILIES[model][0](weights=str(checkpoint), sizes=size_of(config, weights))
    return Golden(model, table.build(Context()), tensors)


CASES = [
    pytest.param(path, key, id=f"{path.stem}-{key}")
    for path in FILES
    for key in sorted(read(path)[2])
    if not key.startswith("weights.") and key not in INPUTS
]


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Golden]:
    known: dict[Path, Golden] = {}

    def find(path: Path) -> Golden:
        if path not in known:
            known[path] = load(path, tmp_path_factory.mktemp(path.stem))
        return known[path]

    return find


def ours(file: Golden, key: str) -> Tensor:
    """What our code gives for an official output, by the grammar of its key."""
    # SiT and DiT guide three channels; REPA's samplers guide all.
    three = min(3, file.teacher.sample_shape[0])
    guided = Guided(file.teacher, channels="all" if file.model == "REPA SiT" else three)
    number = r"([\d.]+)"
    rules: dict[str, Callable[..., Tensor]] = {
        "forward": lambda: official_sign(file) * file.teacher(file.x, file.t, file.condition()),
        "velocity": lambda: file.teacher(file.x, file.t, file.condition()),
        "eps": lambda: file.noise_prediction(file.teacher),
        rf"eps_cfg_{number}_three_channels": lambda scale: file.noise_prediction(
            guided, float(scale)
        ),
        rf"forward_cfg_{number}_three_channels": lambda scale: guided(
            file.x, file.t, file.condition(float(scale))
        ),
        rf"ode_dopri5_cfg_{number}": lambda scale: file.sample(
            guided, scale, Solver("dopri5", tolerance=1e-6)
        ),
        rf"ode_(\w+?)_(\d+)_steps_cfg_{number}": lambda method, steps, scale: file.sample(
            guided, scale, Solver(SOLVERS[method], int(steps))
        ),
        rf"(euler|heun)_(\d+)_steps_cfg_{number}(?:_interval_{number}_{number})?": (
            lambda method, steps, scale, low, high: file.sample(
                guided.within((float(low or 0), float(high or 1))),
                max(1.0, float(scale)),
                repa_solver(method, int(steps)),
            )
        ),
    }
    for pattern, rule in rules.items():
        if match := re.fullmatch(pattern, key):
            return rule(*match.groups())
    raise AssertionError(f"no rule for the key {key!r}")


def official_sign(file: Golden) -> float:
    return -1.0 if file.model == "REPA SiT" else 1.0


def repa_solver(method: Any, steps: int) -> Solver:
    return Solver(method, steps, gate="step", last_step="euler")


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def test_there_are_golden_files() -> None:
    assert FILES, f"{FOLDER} holds no golden file"


@pytest.mark.parametrize(("path", "key"), CASES)
def test_the_official_output_is_reproduced(
    path: Path, key: str, golden: Callable[[Path], Golden]
) -> None:
    file = golden(path)
    assert error(ours(file, key), file.tensors[key]) <= TOLERANCE


def of_model(model: str, *keys: str) -> list[Path]:
    """The files of a model that hold these keys."""
    return [path for path in FILES if read(path)[0] == model and {*keys} <= read(path)[2].keys()]


# Another convention would be seen: each wrong variant is far from the official output.


@pytest.mark.parametrize("path", of_model("SiT", "forward"))
def test_sit_in_another_convention_would_be_seen(
    path: Path, golden: Callable[[Path], Golden]
) -> None:
    file = golden(path)
    forward = file.tensors["forward"]
    assert error(file.teacher(file.x, 1 - file.t, file.condition()), forward) > 0.01
    assert error(-file.teacher(file.x, file.t, file.condition()), forward) > 1
    for key in file.tensors if file.x.shape[1] > 3 else ():
        if match := re.fullmatch(r"forward_cfg_([\d.]+)_three_channels", key):
            everywhere = Guided(file.teacher)
            found = everywhere(file.x, file.t, file.condition(float(match[1])))
            assert error(found, file.tensors[key]) > 0.001


@pytest.mark.parametrize("path", of_model("REPA SiT"))
def test_repas_sampler_in_another_convention_would_be_seen(
    path: Path, golden: Callable[[Path], Golden]
) -> None:
    file = golden(path)
    for key in file.tensors:
        match = re.fullmatch(r"heun_(\d+)_steps_cfg_([\d.]+)_interval_([\d.]+)_([\d.]+)", key)
        if match is None:
            continue
        steps, condition = int(match[1]), file.condition(float(match[2]))
        guided = Guided(file.teacher, (float(match[3]), float(match[4])))
        z, expected = file.tensors["z"], file.tensors[key]
        official = repa_solver("heun", steps)
        for wrong in (
            attrs.evolve(official, last_step="full"),
            attrs.evolve(official, gate="evaluation"),
            attrs.evolve(official, steps=steps - 1),
            attrs.evolve(official, method="midpoint"),
        ):
            assert error(integrate(guided, z, condition, wrong), expected) > TOLERANCE
        three = Guided(file.teacher, guided.interval, channels=3)
        assert error(integrate(three, z, condition, official), expected) > TOLERANCE


@pytest.mark.parametrize("path", of_model("DiT", "alphas_cumprod", "timestep", "x_vp", "eps"))
def test_dits_schedule_is_the_official_one(path: Path, golden: Callable[[Path], Golden]) -> None:
    file = golden(path)
    alpha_bar = file.tensors["alphas_cumprod"]
    a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    ours = torch.tensor(DIT.numbers, dtype=torch.float64)
    torch.testing.assert_close(ours, s / (a + s), rtol=1e-12, atol=0)
    preconditioning = DiTPreconditioning()
    timestep = preconditioning.c_noise(file.t)
    torch.testing.assert_close(timestep, file.tensors["timestep"].float(), rtol=1e-6, atol=1e-4)
    c_in = preconditioning.c_in(file.t)
    scaled = c_in[:, None, None, None] * file.tensors["x"]
    torch.testing.assert_close(scaled.float(), file.tensors["x_vp"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", of_model("DiT", "velocity"))
def test_bfloat16_does_not_reach_dits_noise_prediction(
    path: Path, golden: Callable[[Path], Golden], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = golden(path).teacher
    x, condition = golden(path).x, golden(path).condition()
    t = torch.full((len(x),), 0.99)
    wanted = teacher(x, t, condition)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teacher(x, t, condition), wanted)
        monkeypatch.setattr(Convention, "magnifies", False)
        assert error(teacher(x, t, condition), wanted) > 1e-3


# A student of each starts from its teacher.


@pytest.mark.parametrize("start", ["euler", "teacher-time"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_student_starts_from_the_official_network(
    path: Path, start: Any, golden: Callable[[Path], Golden]
) -> None:
    file = golden(path)
    table = FAMILIES[file.model][1](start=start)
    student = table.build(Context(teacher=file.teacher, guidance_range=(1.0, 3.0)))
    assert isinstance(student, TransformerStudent)
    assert isinstance(student, Student)
    ones, delta = torch.ones(len(file.x)), file.t.float()
    found = student(file.x, ones, delta, file.condition(2.0))
    if file.model == "DiT":  # the body of the teacher, and a new head
        assert not found.any()
        return
    time = ones if start == "euler" else 1 - delta
    torch.testing.assert_close(found, file.teacher(file.x, time, file.condition()))
