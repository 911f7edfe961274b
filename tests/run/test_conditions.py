"""Conditions of one's own, from the recipe to samples by name, and as a part of the teacher."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conditioned import Cloud, poses
from observers import Listens

from ffcore.cli import main
from ffcore.evaluate.evaluator import REFERENCE
from ffcore.export import SourceError, export, load_student
from ffcore.interfaces import Condition, NamedConditions
from ffcore.recipe import Recipe, RecipeError, load_recipe
from ffcore.recipe.components import BuildError, build_teacher
from ffcore.run.stages import run
from ffcore.sample import SampleError
from ffcore.sample.load import load_sampler, load_teacher_sampler
from ffcore.system.files import MissingFile
from ffcore.system.weights import UNKNOWN, WeightsError, read_weights
from ffcore.training.checkpoint import CheckpointError
from ffcore_conditions.file import write_named

BASE = """
[teacher]
type = "conditioned:Needy"
[student]
type = "mlp"
width = 16
[predictor]
type = "freeflow"
[training]
steps = 4
batch = 32
log_every = 2
checkpoint_every = 2
[evaluation]
samples = 100
solver = { steps = 8 }
euler = [1, 2]
previews = 2
rows = 3
"""
POSES = '[conditions]\ntype = "conditioned:Poses"\n'


def recipe(folder: Path, conditions: str = POSES, *overrides: str) -> Recipe:
    file = folder / "posed.toml"
    file.write_text(conditions + BASE)
    return load_recipe(file, overrides)


def from_file(folder: Path, shift: float = 0.0) -> str:
    write_named(folder / "poses.safetensors", poses(shift))
    return f'[conditions]\ntype = "named"\nfile = "{folder}/poses.safetensors"\n'


def ffd(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with conditions from its recipe."""
    folder = tmp_path_factory.mktemp("posed")
    run(recipe(folder), folder / "run")
    return folder / "run"


# From the recipe to samples


def test_a_run_with_conditions_is_sampled_and_exported_by_name(done, tmp_path):
    out = tmp_path / "s.npz"
    arguments = ("-n", 4, "--condition", "up", "--condition", "left", "-o", out)
    assert ffd("sample", done, *arguments).exit_code == 0
    record = json.loads((tmp_path / "s.npz.json").read_text())
    assert record["conditions"] == {
        "chosen": ["up", "left"],
        "fingerprint": poses().fingerprint(),
    }
    assert (record["labels"], record["label_of_each"]) == (None, None)
    assert record["condition_of_each"] == ["up", "left", "up", "left"]
    with np.load(out) as kept:
        samples = torch.from_numpy(kept["arr_0"])
    export(done, tmp_path / "ex")
    again = load_sampler(tmp_path / "ex")(4, conditions=["up", "left"])
    assert torch.equal(again, samples)
    assert not torch.equal(again, load_sampler(tmp_path / "ex")(4, conditions=["left", "up"]))
    teacher = load_teacher_sampler(done)(400, conditions=["up"])
    torch.testing.assert_close(teacher.mean(0), torch.tensor([0.0, 1.0]), rtol=0, atol=0.05)
    assert isinstance(load_student(tmp_path / "ex"), torch.nn.Module)


def test_names_are_gone_through_by_default_and_words_choose_too(done):
    sampler = load_sampler(done)
    by_default = sampler.request(5)
    assert by_default.conditions == "balanced"
    assert sampler.texts(by_default) == ["left", "right", "up", "left", "right"]
    assert sampler.request(5, labels="balanced") == by_default
    drawn = sampler.request(300, conditions="random", seed=3)
    texts = sampler.texts(drawn)
    assert texts is not None
    assert {*texts} == {"left", "right", "up"}
    assert texts[:100] == sampler.texts(sampler.request(100, labels="random", seed=3))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            {"conditions": ["up", "upp"]},
            r"names of conditions \('left', 'right', 'up'\), found 'upp",
        ),
        ({"conditions": []}, r"a list of names, found \[\]"),
        ({"conditions": "up"}, "'balanced', 'random' or a list of names, found 'up'"),
        ({"conditions": [3]}, r"a list of names, found \[3\]"),
        ({"labels": [1]}, "no classes to choose from; choose conditions by their names"),
        ({"labels": "random", "conditions": ["up"]}, "only one of them"),
    ],
)
def test_an_impossible_choice_is_refused(done, chosen, message):
    with pytest.raises(SampleError, match=message):
        load_sampler(done).request(2, **chosen)


def test_conditions_without_names_are_drawn(tmp_path):
    run(recipe(tmp_path, '[conditions]\ntype = "conditioned:Clouds"\n'), tmp_path / "run")
    sampler = load_sampler(tmp_path / "run")
    asked = sampler.request(3)
    assert asked.conditions == "random"
    assert all(float(each) == pytest.approx(float(each)) for each in sampler.texts(asked) or ())
    for chosen, message in (("balanced", "no list of names"), (["up"], "Cloud has no names")):
        with pytest.raises(SampleError, match=message):
            sampler.request(3, conditions=chosen)
    export(tmp_path / "run", tmp_path / "ex")
    assert "drawn by default" in (tmp_path / "ex" / "README.md").read_text()


def test_the_card_names_the_conditions(done, tmp_path):
    export(done, tmp_path / "ex")
    (line,) = [
        each
        for each in (tmp_path / "ex" / "README.md").read_text().splitlines()
        if each.startswith("- conditions: `")
    ]
    assert "by name: `left`, `right`, `up`" in line
    assert "classes: none" not in (tmp_path / "ex" / "README.md").read_text()


def test_the_other_commands_work_with_conditions(done, tmp_path):
    assert ffd("evaluate", done).exit_code == 0
    found = ffd(
        "evaluate", done, "-r", done.parent / "posed.toml", "-f", "raw", "-n", 40,
        "--condition", "up", "--json",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    conditions = json.loads(found.stdout)["conditions"]
    for which in ("samples", "reference"):
        assert conditions[which]["conditions"]["chosen"] == ["up"]
    assert ffd("verify", done, "-n", 32, "--fit-steps", 0).exit_code == 0
    assert ffd("report", done, "-o", tmp_path / "report.html").exit_code == 0
    assert ffd("run", done.parent / "posed.toml", "--dry-run").exit_code == 0


def test_pictures_of_images_name_their_conditions(tmp_path):
    images = recipe(
        tmp_path, POSES, "teacher.shape=[1, 1, 2]", 'student={type="conditioned:Small"}'
    )
    run(images, tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "previews" / "conditions.json").read_text())
    assert kept == ["left", "right", "up"]
    assert ffd("report", tmp_path / "run").exit_code == 0
    assert "left · right · up" in (tmp_path / "run" / "report.html").read_text()


# What a teacher is, its conditions are too


def test_an_export_without_the_files_of_its_conditions_says_what_it_can_do(tmp_path):
    named, folder = from_file(tmp_path), tmp_path / "run"
    run(recipe(tmp_path, named), folder)
    from_file(tmp_path, 0.5)
    asked = ffd("export", folder, "-o", tmp_path / "out")
    assert asked.exit_code != 0
    assert "`ffd export` has no --set: it keeps" in " ".join(asked.output.split())
    (file,) = tmp_path.glob("*.safetensors")
    file.unlink()
    asked = ffd("export", folder, "-o", tmp_path / "out")
    assert asked.exit_code != 0
    assert "Put it back where the run found it" in " ".join(asked.output.split())


def test_changed_conditions_are_another_teacher(tmp_path):
    named, folder = from_file(tmp_path), tmp_path / "run"
    before = recipe(tmp_path, named)
    run(before, folder)
    first = read_weights(str(folder / REFERENCE)).config["identity"]["conditions"]
    assert first == poses().fingerprint()

    assert from_file(tmp_path, 0.5) == named
    with pytest.raises(CheckpointError, match="was made with other conditions"):
        run(before, folder)
    with pytest.raises(WeightsError, match=r"conditions of .* have changed since its training"):
        load_sampler(folder)
    asked = ffd("evaluate", folder)
    assert asked.exit_code != 0
    assert "have changed since its training" in asked.output
    with pytest.raises(BuildError, match=f"conditions: the reference has {first}, this run"):
        run(recipe(tmp_path, named, f"evaluation.reference={folder / REFERENCE}"), tmp_path / "b")
    run(before, folder, restart=True)
    again = read_weights(str(folder / REFERENCE)).config["identity"]["conditions"]
    assert again == poses(0.5).fingerprint()


def test_a_student_takes_other_conditions_if_they_are_named(tmp_path):
    folder = tmp_path / "run"
    run(recipe(tmp_path, from_file(tmp_path)), folder)
    rows = Condition(size=1, pooled=torch.tensor([[0.3, 0.3, 0.3]]))
    write_named(tmp_path / "other.safetensors", NamedConditions(["between"], rows))
    other = f"conditions.file={tmp_path}/other.safetensors"
    sampler = load_sampler(folder, overrides=[other])
    assert sampler.texts(sampler.request(2)) == ["between", "between"]
    export(folder, tmp_path / "ex")
    (tmp_path / "poses.safetensors").unlink()
    with pytest.raises(MissingFile, match=r"conditions\.file"):
        load_sampler(tmp_path / "ex")
    assert load_sampler(tmp_path / "ex", overrides=[other])(2).shape == (2, 2)


def test_a_file_of_conditions_that_has_moved_is_named(tmp_path):
    folder = tmp_path / "run"
    run(recipe(tmp_path, from_file(tmp_path)), folder)
    (tmp_path / "poses.safetensors").rename(tmp_path / "moved.safetensors")
    assert "conditions.file" in ffd("evaluate", folder).output
    moved = f"conditions.file={tmp_path}/moved.safetensors"
    assert ffd("evaluate", folder, "--set", moved).exit_code == 0
    assert ffd("verify", folder, "-n", 8, "--fit-steps", 0, "--set", moved).exit_code == 0
    write_named(tmp_path / "moved.safetensors", poses(0.5))
    refused = ffd("evaluate", folder, "--set", moved)
    assert "was distilled with other conditions" in refused.output


def test_old_statistics_do_not_stand_beside_a_new_student(tmp_path):
    folder = tmp_path / "run"
    named = from_file(tmp_path)
    run(recipe(tmp_path, named), folder)
    old = (folder / REFERENCE).read_bytes()
    from_file(tmp_path, 0.5)
    run(recipe(tmp_path, named), folder, allow_changes=True)
    assert (folder / REFERENCE).read_bytes() != old


def test_conditions_without_a_fingerprint_are_checked_by_nobody_and_that_is_said(tmp_path):
    cloudy = recipe(tmp_path, '[conditions]\ntype = "conditioned:Clouds"\n')
    assert Cloud().fingerprint() == UNKNOWN
    run(cloudy, tmp_path / "run")
    heard = Listens()
    run(cloudy, tmp_path / "run", observer=heard)
    said = "this teacher's conditions have no fingerprint"
    assert any(said in each for each in heard.said)
    reference = f"evaluation.reference={tmp_path / 'run' / REFERENCE}"
    with pytest.raises(BuildError, match=said):
        run(
            recipe(tmp_path, '[conditions]\ntype = "conditioned:Clouds"\n', reference),
            tmp_path / "b",
        )


def test_a_teacher_with_conditions_of_its_own_is_sampled_beside_its_recipe_only(tmp_path):
    owner = recipe(tmp_path, "", 'teacher={type="conditioned:Owner"}')
    heard = Listens()
    run(owner, tmp_path / "run", observer=heard)
    assert any("only the teacher knows its conditions (NamedConditions)" in e for e in heard.said)
    assert load_sampler(tmp_path / "run")(3, conditions=["up"]).shape == (3, 2)
    with pytest.raises(SourceError, match=r"Build them in a table \[conditions\]"):
        export(tmp_path / "run", tmp_path / "ex")
    alone = tmp_path / "alone.safetensors"
    (tmp_path / "run" / "student.safetensors").rename(alone)
    (tmp_path / "posed.toml").unlink()
    with pytest.raises(WeightsError, match="whose conditions can be rebuilt only with its teacher"):
        load_sampler(alone)


# What does not fit


@pytest.mark.parametrize(
    ("conditions", "overrides", "message"),
    [
        (
            "",
            (),
            "teacher 'conditioned:Needy' needs 'conditions', but the recipe has no conditions. "
            "Add a [conditions] table of type 'named'",
        ),
        (
            POSES,
            ('teacher={type="gaussian", mean=[0.0]}',),
            "teacher 'gaussian' brings its own conditions, since it needs none: leave out "
            "conditions 'conditioned:Poses', or let the teacher's table need 'conditions'",
        ),
    ],
)
def test_a_table_and_a_teacher_that_do_not_fit_are_refused(
    tmp_path, conditions, overrides, message
):
    with pytest.raises(RecipeError) as caught:
        recipe(tmp_path, conditions, *overrides)
    assert message in str(caught.value)


def test_a_teacher_that_does_not_use_the_conditions_is_refused(tmp_path):
    boastful = recipe(tmp_path, POSES, 'teacher={type="conditioned:Boaster"}')
    with pytest.raises(
        BuildError, match="brings its own conditions, NamedConditions, and does not"
    ):
        build_teacher(boastful)
