"""A student that training would lose: it must be the same when its files build it again."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ffcore.export import is_run, load_student
from ffcore.recipe import Recipe, load_recipe
from ffcore.recipe.components import BuildError
from ffcore.run.stages import run
from ffcore.sample.load import load_sampler

STUDENTS = """
import attrs, torch
from torch import nn
from ffcore import Student

class Plain(Student):
    starts_at = "prior"
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 2)
        self.make()
    def make(self): pass
    def middle(self, h): return h
    def forward(self, x_t, t, delta, condition):
        h = torch.tanh(self.first(torch.cat([x_t, delta[:, None]], 1)))
        return self.last(self.middle(h))

class Buffer(Plain):
    def make(self): self.register_buffer("f", torch.randn(16))
    def middle(self, h): return h * self.f

class Unstored(Plain):
    def make(self): self.register_buffer("f", torch.randn(16), persistent=False)
    def middle(self, h): return h * self.f

class Attribute(Plain):
    def make(self): self.f = torch.randn(16)
    def middle(self, h): return h * self.f

class ListOfLayers(Plain):
    def make(self): self.layers = [nn.Linear(16, 16)]
    def middle(self, h): return self.layers[0](h)

class MadeLate(Plain):
    def make(self): self.late = None
    def middle(self, h):
        if self.late is None:
            self.late = nn.Linear(16, 16)
        return self.late(h)

class Answers(Plain):
    def forward(self, *inputs): return super().forward(*inputs), None

@attrs.frozen
class Table:
    kind: str = "Plain"
    def build(self, context): return globals()[self.kind]()
"""
RECIPE = """
[teacher]
type = "gaussian"
mean = [1.0, -2.0]
scale = 0.5
[student]
type = "unstored_students:Table"
kind = "{}"
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


@pytest.fixture(autouse=True)
def shapes() -> None:
    """Students here have wrong shapes; the run itself must say so."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "unstored_students.py").write_text(STUDENTS)
    yield tmp_path
    sys.modules.pop("unstored_students", None)


def recipe(kind: str) -> Recipe:
    Path("recipe.toml").write_text(RECIPE.format(kind))
    return load_recipe("recipe.toml")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("Unstored", "with the same tensors, the student answers differently, by .*persistent"),
        ("Attribute", "with the same tensors, the student answers differently, by .*persistent"),
        ("ListOfLayers", "the student answers differently, by .*keep layers in an nn.ModuleList"),
        ("MadeLate", "has other tensors: late.bias, late.weight. A layer that its forward makes"),
        ("Answers", "the student .* answers with tuple"),
    ],
)
def test_a_student_that_its_files_would_not_give_back_is_refused(
    folder: Path, kind: str, message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        run(recipe(kind), Path("run"))
    assert not Path("run").exists()


@pytest.mark.parametrize("kind", ["Plain", "Buffer"])
def test_a_student_that_its_files_give_back_trains(folder: Path, kind: str) -> None:
    run(recipe(kind), Path("run"))
    inputs = torch.ones(3, 2), torch.ones(3), torch.ones(3)
    one, other = load_student("run"), load_student("run")
    assert torch.equal(one(*inputs, None), other(*inputs, None))


def test_a_recipe_called_recipe_does_not_make_its_folder_a_run(folder: Path) -> None:
    run(recipe("Plain"), Path("run"))
    assert is_run(Path("run"))
    assert not is_run(Path())
    from click.testing import CliRunner

    from ffcore.cli import main

    found = CliRunner().invoke(main, ["sample", "run", "-n", "2", "-o", "x.npz"])
    assert found.exit_code == 0, found.output
    found = CliRunner().invoke(main, ["export", "run", "-o", "pack"])
    assert found.exit_code == 0, found.output
    assert load_sampler("pack")(2).shape == (2, 2)
