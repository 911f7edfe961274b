"""A network of any convention, named in a recipe."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ffcore.interfaces import Condition, Context, Labels, NamedConditions
from ffcore.plugins import BrokenPlugin, installed
from ffcore.recipe import RecipeError
from ffcore.recipe.components import BuildError, build_teacher
from ffcore.recipe.load import load_recipe
from ffcore.testing.check import check_tables
from ffcore_convert.tables import ConvertedTeacher

OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x, time, y):
        noise = self.weight * x + time[:, None] + y[:, None]
        return torch.cat([noise, x], 1)

def net():
    return Net()

def call(net, x, time, condition):
    return net(x, time, condition.label)[:, :2]

def late(t):
    return 999 * t

def nothing():
    return lambda x, time, condition: x
"""
RECIPE = """
[teacher]
type = "converted"
network = "own_net:net"
call = "own_net:call"
prediction = "noise"
path = "vp"
time = "index"
schedule = "linear"
sample_shape = [2]
classes = 4
null_label = 4

[student]
type = "mlp"

[predictor]
type = "freeflow"

[training]
steps = 4
batch = 8
"""

pytestmark = pytest.mark.skipif(
    not any(each.name == "convert" for each in installed().plugins),
    reason="ffcore was installed before it had this plugin: install it again",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_net.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def teacher_of(folder: Path, text: str) -> Any:
    path = folder / "recipe.toml"
    path.write_text(text)
    return build_teacher(load_recipe(path))


def test_the_table_keeps_every_law() -> None:
    results = check_tables("teacher/converted", "teacher", [*ConvertedTeacher.examples()])
    assert [each.found for each in results if each.fails] == []


def test_a_recipe_converts_a_network(folder: Path) -> None:
    teacher = teacher_of(folder, RECIPE)
    assert teacher.sample_shape == (2,)
    assert teacher.conditions == Labels(4, null_label=4)
    x, t = torch.randn(3, 2), torch.full((3,), 0.5)
    u = teacher(x, t, Condition(size=3, label=torch.zeros(3, dtype=torch.long)))
    relation = teacher.field.relation
    index = float(relation.time(torch.tensor([0.5]).double()))
    noise = 2 * x / 0.5**0.5 + index
    torch.testing.assert_close(u, (x - noise) / 0.5)
    assert teacher.trainable_copy() is not None


def test_a_time_may_be_a_function(folder: Path) -> None:
    lines = RECIPE.replace('"index"', '"own_net:late"')
    teacher = teacher_of(folder, lines)
    assert float(teacher.field.relation.time(torch.tensor([0.5]))) == 499.5


def test_conditions_may_be_a_table(folder: Path) -> None:
    names = NamedConditions(["a", "b"], Condition(size=2, label=torch.arange(2)))
    table = load_recipe_table(folder)
    teacher = table.build(Context(conditions=names))
    assert teacher.conditions is names


def load_recipe_table(folder: Path) -> ConvertedTeacher:
    path = folder / "recipe.toml"
    path.write_text(RECIPE.replace("classes = 4\nnull_label = 4\n", ""))
    table = load_recipe(path).teacher
    assert isinstance(table, ConvertedTeacher)
    return table


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"noise"', '"noises"', "did you mean 'noise'"),
        ('schedule = "linear"\n', "", "'index' needs its schedule"),
        ('"own_net:net"', '"own_net"', "module:function"),
        ('"index"', '"indx"', "did you mean 'index'"),
        ("null_label = 4", "null_label = 3", "be a label after the classes"),
        ("classes = 4\n", "", "be a label after the classes"),
        ("sample_shape = [2]", "sample_shape = []", "at least one number"),
        ('path = "vp"', 'path = "linear"', "'index' is for the path 'vp'"),
    ],
)
def test_a_recipe_is_refused_before_anything_is_built(
    folder: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        teacher_of(folder, RECIPE.replace(old, new))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "own_net:net2",
            BrokenPlugin,
            "network 'own_net:net2' .*no attribute 'net2'; did you mean",
        ),
        ("own_net:nothing", BuildError, "must return a torch module, found function"),
    ],
)
def test_a_function_that_returns_no_network_is_refused(
    folder: Path, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        teacher_of(folder, RECIPE.replace("own_net:net", name))
