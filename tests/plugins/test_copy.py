"""A student that copies the network of any teacher."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ffcore.draws import Draws
from ffcore.export import export, open_student
from ffcore.flow.convert import convert
from ffcore.flow.derivative import Derivative
from ffcore.flow.derivative_check import self_check
from ffcore.interfaces import Condition, Context, FrozenTeacher, FunctionTeacher, Labels, Teacher
from ffcore.plugins import Registry
from ffcore.recipe import RecipeError, load_recipe
from ffcore.recipe.components import BuildError
from ffcore.run.stages import run
from ffcore.sample.load import load_sampler
from ffcore.testing.check import SETTINGS, _settings, check_tables
from ffcore.testing.small import gaussian_teacher, small_teacher
from ffcore_convert.student import LIMIT, UNITS, CopiedStudent, learnable_times
from ffcore_convert.tables import ConvertedTeacher, CopyStudent

NETWORK = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.label = nn.Embedding(4, 8)
        self.layers = nn.Sequential(nn.Linear(11, 16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, x, time, y):
        return self.layers(torch.cat([x, time[:, None] / 1000, self.label(y)], 1))

def call(network, x, time, condition):
    return network(x, time, condition.label)

def whole(network, x, time, condition):
    return network(x, 50 * time.round(), condition.label)
"""
RECIPE = """
[teacher]
type = "converted"
network = "copied_net:Network"
weights = "net.pt"
call = "copied_net:call"
prediction = "noise"
path = "vp"
time = "index"
schedule = "linear"
sample_shape = [2]
classes = 3
null_label = 3
[student]
type = "copy"
[predictor]
type = "freeflow"
[training]
steps = 2
batch = 8
ema_decay = 0.5
[evaluation]
enabled = false
previews = 0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a network and a checkpoint of it; the process is in it."""
    (tmp_path / "copied_net.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import copied_net  # type: ignore[import-not-found]

    torch.manual_seed(0)
    model, ema = copied_net.Network().state_dict(), copied_net.Network().state_dict()
    torch.save({"model": model, "ema": ema, "step": 3}, "net.pt")
    (tmp_path / "own.toml").write_text(RECIPE)
    yield tmp_path
    sys.modules.pop("copied_net", None)


def converted(prediction: str) -> Teacher:
    path = {"velocity-to-data": "linear", "v": "vp"}.get(prediction, "vp")
    time = "noise-at-0" if path == "linear" else "log-snr"
    table = ConvertedTeacher(
        network="ffcore_convert.example:network",
        prediction=prediction,  # type: ignore[arg-type]
        path=path,  # type: ignore[arg-type]
        time=time,
        sigma_range=None if path == "linear" else (0.01, 100.0),
        sample_shape=(2,),
        classes=3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return table.build(Context())


def inputs(size: int = 6) -> tuple[Tensor, Tensor, Tensor, Condition]:
    draws = Draws(0, 0, 0, size)
    label = draws.integers("label", 3)
    ones = torch.ones(size)
    return draws.normal("z", (2,)), ones, draws.uniform("delta"), Condition(size=size, label=label)


def test_the_table_keeps_every_law() -> None:
    registry = Registry.load()
    own = [
        setting
        for table in ConvertedTeacher.examples()
        for setting in _settings("converted", table, registry)
    ]
    results = check_tables("student/copy", "student", [CopyStudent()], [*SETTINGS, *own])
    assert [f"{each.law}: {each.found}" for each in results if each.fails] == []
    rebuilt = {each.law: each.status for each in results}["can-be-rebuilt-without-its-teacher"]
    assert rebuilt == "holds"


def test_a_copied_velocity_runs_through_the_teachers_times() -> None:
    teacher = converted("velocity-to-data")
    student = CopyStudent().build(Context(teacher=teacher))
    z, ones, delta, condition = inputs()
    with torch.no_grad():
        found = student(z, ones, delta, condition)
        torch.testing.assert_close(found, teacher(z, 1 - delta, condition))


@pytest.mark.parametrize("prediction", ["noise", "data", "score", "v", "velocity-to-data"])
def test_a_copy_runs_only_where_little_is_magnified(prediction: str) -> None:
    field = converted(prediction).trainable_copy()
    assert field is not None
    early, late = learnable_times(field)
    t = torch.linspace(early, late, 50, dtype=torch.float64)
    assert float(field.magnification(t).max()) <= LIMIT
    wanted = {"noise": (0.0, 0.5), "score": (0.0, 0.5), "data": (0.5, 1.0)}
    assert (early, late) == pytest.approx(wanted.get(prediction, (0.0, 1.0)))


@pytest.mark.parametrize("prediction", ["noise", "data", "v", "velocity-to-data"])
def test_the_magnification_is_the_derivative_by_the_prediction(prediction: str) -> None:
    field: Any = converted(prediction).trainable_copy()
    x, _, _, condition = inputs()
    t = torch.linspace(0.05, 0.95, 6)
    answers = []
    for shift in (0.0, 1e-2):
        field.call = lambda network, points, time, c, shift=shift: points * 0 + shift
        answers.append(field(x, t, condition))
    slope = (answers[1] - answers[0]).abs().amax(1) / 1e-2
    torch.testing.assert_close(slope, field.magnification(t), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("time", ["index", "log-snr"])
def test_the_index_of_a_network_changes_little(time: str) -> None:
    network = torch.nn.Linear(2, 2)
    ends = {"schedule": "linear"} if time == "index" else {"sigma_range": (0.01, 150.0)}
    teacher: Any = convert(network, prediction="v", path="vp", time=time, sample_shape=(2,), **ends)
    early, late = learnable_times(teacher.field)
    assert late == 1
    if time == "log-snr":
        assert early == 0
    else:
        own = teacher.field.relation.time(torch.tensor([early, late]).double().clamp(max=0.9937))
        assert 22 < float(own[1] - own[0]) <= UNITS


def test_its_times_may_be_set() -> None:
    student = CopyStudent(times=(0.2, 0.3)).build(Context(teacher=converted("noise")))
    assert isinstance(student, CopiedStudent)
    assert student.times == (0.2, 0.3)
    with pytest.raises(ValueError, match="early below late"):
        CopyStudent(times=(0.3, 0.2))


@pytest.mark.parametrize("backend", ["dual", "jvp"])
def test_its_derivative_passes_through_the_conversion(backend: Any) -> None:
    student = CopyStudent().build(Context(teacher=converted("noise")))
    z, _, _, condition = inputs()
    found = self_check(student, Derivative(backend=backend), z, condition, Draws(0, 0, 0, 6))
    assert found.error < 0.01


def test_a_range_of_guidance_needs_a_network_that_can_read_it() -> None:
    reads = small_teacher((4, 8, 8), 3)
    student = CopyStudent().build(Context(teacher=reads, guidance_range=(1.0, 3.0)))
    names = dict(student.named_parameters())
    assert any("guidance" in name for name in names)
    with pytest.raises(ValueError, match="no input for γ"):
        CopyStudent().build(Context(teacher=converted("noise"), guidance_range=(1.0, 3.0)))


def test_a_function_cannot_be_copied() -> None:
    teacher = gaussian_teacher()
    box = FunctionTeacher(teacher, teacher.sample_shape)
    with pytest.raises(ValueError, match="needs a teacher that can be copied"):
        CopyStudent().build(Context(teacher=box))


def test_a_checkpoint_becomes_a_student_that_needs_no_teacher(folder: Path) -> None:
    run(load_recipe("own.toml"), Path("out"))
    export(Path("out"), Path("exported"))
    Path("net.pt").unlink()
    for source in ("out", "exported"):
        images = load_sampler(source)(4, seed=0)
        assert images.isfinite().all()
    described = open_student("exported", trust=True).file.config["student"]
    assert described["type"] == "copy"
    assert described["teacher"]["weights"] == "none"


def test_the_teacher_has_the_average_or_the_named_part(folder: Path) -> None:
    file = torch.load("net.pt", weights_only=True)
    for part in ("ema", "model"):
        changes = [] if part == "ema" else ['teacher.part="model"']
        teacher = load_recipe("own.toml", changes).teacher.build(Context())
        assert isinstance(teacher, FrozenTeacher)
        assert isinstance(teacher.conditions, Labels)
        found = dict(teacher.field.named_parameters())["network.layers.0.weight"]
        assert torch.equal(found, file[part]["layers.0.weight"])


def test_a_time_that_the_network_rounds_is_refused(folder: Path) -> None:
    recipe = load_recipe("own.toml", ['teacher.call="copied_net:whole"'])
    with pytest.raises(BuildError, match="derivative"):
        run(recipe, Path("out"))


def test_a_student_of_another_family_names_the_copy(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"Use student\.type = 'copy' or student\.type = 'mlp'"):
        load_recipe("own.toml", ['student.type="sit"'])
