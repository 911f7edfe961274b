"""A recipe that names a teacher alone: what is chosen, what stays, what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ffcore.recipe import RecipeError, load_recipe, read_recipe, to_toml

MEANS = "means = [[1.0, 0.0, 0.0], [-1.0, 0.0, 2.0]]"
TEACHER = f'[teacher]\ntype = "mixture"\n{MEANS}\n'
LABELLED = TEACHER + "labels = [0, 1]\n"


def recipe(folder: Path, text: str) -> Path:
    path = folder / "x.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", [TEACHER, LABELLED], ids=["plain", "labels"])
def test_a_teacher_alone_is_enough(tmp_path: Path, text: str) -> None:
    loaded = read_recipe(recipe(tmp_path, text))
    made = loaded.recipe
    assert type(made.student).__name__ == "MlpStudent"
    assert type(made.predictor).__name__ == "FreeFlow"
    assert made.corrector is None
    assert made.training.steps is not None
    lines = list(loaded.choices.lines())
    assert 'student = "mlp": made for vectors, here of 3' in lines
    assert any(line.startswith("training.steps = ") for line in lines)
    assert "vectors of 3" in loaded.choices.facts


def test_what_is_chosen_is_frozen(tmp_path: Path) -> None:
    """The resolved recipe is complete: it reads back as itself, and nothing is chosen again."""
    made = load_recipe(recipe(tmp_path, TEACHER))
    again = read_recipe(recipe(tmp_path, to_toml(made)))
    assert again.recipe == made
    assert not again.choices.tree


def test_a_stated_key_is_never_replaced(tmp_path: Path) -> None:
    stated = (
        "[student]\ntype = 'mlp'\nwidth = 17\n[optimizer]\nlearning_rate = 0.25\n"
        "[training]\nbatch = 3\n"
    )
    loaded = read_recipe(recipe(tmp_path, TEACHER + stated), ["balancer.power=0.5"])
    made = loaded.recipe
    assert made.student.width == 17
    assert made.optimizer.learning_rate == 0.25
    assert made.training.batch == 3
    assert made.balancer.power == 0.5
    assert made.student.depth == loaded.choices.tree["student"]["depth"]
    names = {line.partition(" = ")[0] for line in loaded.choices.lines()}
    assert not names & {"student", "student.width", "optimizer.learning_rate", "training.batch"}


def test_minutes_stand_in_place_of_steps(tmp_path: Path) -> None:
    made = load_recipe(recipe(tmp_path, TEACHER), ["training.minutes=2"])
    assert (made.training.steps, made.training.minutes) == (None, 2.0)
    with pytest.raises(RecipeError, match="needs steps or minutes, found both"):
        load_recipe(recipe(tmp_path, TEACHER), ["training.minutes=2", "training.steps=3"])


def test_a_complete_recipe_gets_nothing_chosen(tmp_path: Path) -> None:
    rest = "[student]\ntype = 'mlp'\n[predictor]\ntype = 'freeflow'\n[training]\nsteps = 4\n"
    loaded = read_recipe(recipe(tmp_path, TEACHER + rest))
    assert not loaded.choices.tree
    assert loaded.recipe.student.width == 128


@pytest.mark.parametrize("bounds", ["'none'", "[1.0, 3.0]"])
def test_guidance_may_be_stated(tmp_path: Path, bounds: str) -> None:
    text = LABELLED + f"[guidance]\nscale = 2.0\nrange = {bounds}\n"
    if bounds == "'none'":
        assert load_recipe(recipe(tmp_path, text)).guidance.range is None
        return
    with pytest.raises(RecipeError, match="no installed student suits"):  # mlp does not read γ
        load_recipe(recipe(tmp_path, text))


def test_a_corrector_alone_stays_alone(tmp_path: Path) -> None:
    rest = "[corrector]\ntype = 'vsd'\nonline = { type = 'mlp' }\n"
    made = load_recipe(recipe(tmp_path, TEACHER + rest))
    assert made.predictor is None


def test_errors_elsewhere_come_first_and_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe(tmp_path, TEACHER + "[training]\nbatch = 0\n[optimzer]\nx = 1\n"))
    assert len(caught.value.diagnostics) == 2


def test_a_teacher_that_no_student_suits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_teacher.py").write_text(
        "import attrs\n"
        "@attrs.frozen(kw_only=True)\n"
        "class Odd:\n"
        "    def build(self, context):\n"
        "        from ffcore.interfaces import VelocityField\n"
        "        return VelocityField.of(lambda x, t, c: -x, (2, 3, 4, 5, 6))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(RecipeError, match=r"no installed student suits .*\(2, 3, 4, 5, 6\)"):
        load_recipe("odd_teacher:Odd")


def test_a_class_stands_for_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_teacher.py").write_text(
        "import attrs\n"
        "@attrs.frozen(kw_only=True)\n"
        "class Mine:\n"
        "    def build(self, context):\n"
        "        from ffcore.flow.exact import Gaussian\n"
        "        return Gaussian([1.0, 2.0], 0.5)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    made = load_recipe("my_teacher:Mine", ["training.steps=7"])
    assert made.training.steps == 7
    assert type(made.student).__name__ == "MlpStudent"


def test_an_earlier_run_keeps_what_it_chose(tmp_path: Path) -> None:
    path = recipe(tmp_path, TEACHER)
    stored = tmp_path / "recipe.toml"
    stored.write_text(to_toml(load_recipe(path, ["student.width=31", "training.steps=77"])))
    made = read_recipe(path, earlier=stored).recipe
    assert (made.student.width, made.training.steps) == (31, 77)
    fresh = read_recipe(path, earlier=tmp_path / "none.toml").recipe
    assert fresh.student.width != 31


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        ('type = "sit"\nweights = "ffcore_digits:teacher.safetensors"', "SiTStudent"),
        ('type = "repa"\nmodel = "S/2"\nweights = "none"', "RepaStudent"),
        ('type = "dit"\nmodel = "XL/2"\nweights = "none"', "DiTStudent"),
        (
            'type = "converted"\nnetwork = "ffcore_convert.example:network"\nprediction = "noise"\n'
            'path = "vp"\ntime = "index"\nschedule = "cosine"\nsample_shape = [2]',
            "CopyStudent",
        ),
    ],
    ids=["sit", "repa", "dit", "converted"],
)
def test_a_student_that_starts_from_the_teacher_comes_first(
    tmp_path: Path, teacher: str, student: str
) -> None:
    loaded = read_recipe(recipe(tmp_path, f"[teacher]\n{teacher}\n"))
    assert type(loaded.recipe.student).__name__ == student
    large = '"XL/2"' in teacher or '"S/2"' in teacher
    assert loaded.recipe.training.steps == (100_000 if large else 2000)
