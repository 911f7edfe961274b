"""Students that stand by themselves: their files, samplers of them, exports."""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from networks import ExactStudent
from safetensors.torch import load_file
from torch import Tensor

from ffcore.draws import Draws
from ffcore.evaluate.evaluator import Evaluation
from ffcore.evaluate.reference import Distances
from ffcore.evaluate.verdict import Estimate
from ffcore.export import (
    EXPORT_FILES,
    SourceError,
    describe,
    export,
    load_student,
    read_student,
    write_student,
)
from ffcore.export import model_card as card
from ffcore.export.directory import without_places
from ffcore.flow.exact import Gaussian
from ffcore.flow.guidance import remove_guidance
from ffcore.interfaces import (
    Condition,
    ConditionSource,
    Context,
    Decoder,
    Labels,
    Student,
    Unconditional,
)
from ffcore.keys import key
from ffcore.plugins import installed
from ffcore.recipe import Recipe, RecipeError, component, digest, load_recipe, to_toml
from ffcore.run.build import build
from ffcore.run.stages import run
from ffcore.sample import SampleError
from ffcore.sample.load import load_sampler, load_teacher_sampler
from ffcore.system.files import File, MissingFile
from ffcore.system.weights import WeightsError, fingerprint, read_weights, write_weights

TINY = (
    "training.steps=2",
    "training.batch=8",
    "training.ema_decay=0.5",
    "evaluation.samples=8",
    "evaluation.solver.steps=2",
    "evaluation.euler=[1, 2]",
    "evaluation.rows=2",
    "evaluation.reference=none",
    "evaluation.features=[{type='raw'}]",
)
LICENSED = ("teacher.origin='a place'", "teacher.licence='MIT'")

UNMEASURED = Evaluation(
    verdict={},
    measures={},
    distances={},
    trajectory_error={1.0: Estimate(value=0.5, low=0.4, high=0.6)},
    trajectories=200,
    identity={},
)
"""An evaluation in no features."""


def tiny(name: str = "digits.toml", *overrides: str) -> Recipe:
    return load_recipe(name, [*TINY, *overrides])


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose teacher's file is gone."""
    folder = tmp_path_factory.mktemp("digits")
    teacher = Path(__file__).parents[2] / "plugins" / "ffcore_digits" / "teacher.safetensors"
    copy = shutil.copyfile(teacher, folder / "teacher.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ffcore.evaluate.trajectory.DELTAS", (1.0,))  # for a quick trajectory error
        run(tiny("digits.toml", f"teacher.weights='{copy}'", *LICENSED), folder / "run")
    copy.unlink()
    return folder / "run"


@pytest.fixture(scope="module")
def exported(digits: Path) -> Path:
    export(digits, digits.parent / "exported")
    return digits.parent / "exported"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# A student's file


def written(recipe: Recipe, path: Path) -> Student:
    """A student of a recipe, untrained and shaken, written to a file."""
    distillation = build(recipe).distillation
    student = distillation.ema
    generator = torch.Generator().manual_seed(3)
    for parameter in student.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    config = describe(recipe, remove_guidance(distillation.teacher), student, step=7)
    write_student(path, student.state_dict(), config)
    return student


CASES = {
    "sit": tiny(),
    "sit at its own time": tiny("digits.toml", "student.start='teacher-time'"),
    "sit of a range": tiny("digits.toml", "guidance.range=[1.0, 3.0]", "guidance.scale=2.0"),
    "sit of a size": tiny(
        "digits.toml",
        "student.sizes={input_size=8, patch_size=4, channels=1, width=8, depth=1, heads=2, "
        "classes=10}",
    ),
    "sit from anywhere": tiny("digits.toml", "student.starts_at='anywhere'"),
    "mlp": tiny("gaussian.toml"),
    "mlp from anywhere": tiny("gaussian.toml", "student.starts_at='anywhere'"),
    "mlp with labels": tiny("mixture.toml", "corrector.online_updates=1"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_student_is_rebuilt_from_its_file_alone(tmp_path, name):
    recipe = CASES[name]
    student = written(recipe, tmp_path / "s.safetensors")
    found = read_student(tmp_path / "s.safetensors")
    assert fingerprint(found.student) == fingerprint(student)
    teacher = build(recipe).distillation.teacher
    assert found.sample_shape == teacher.sample_shape
    assert found.conditions == teacher.conditions or isinstance(found.conditions, Unconditional)
    assert (found.scale, found.range) == (recipe.guidance.scale, recipe.guidance.range)
    assert not any(parameter.requires_grad for parameter in found.student.parameters())
    draws = Draws(0, 0, 0, 4)
    z, condition = draws.normal("z", teacher.sample_shape), teacher.conditions.draw(draws)
    if recipe.guidance.range:
        condition = attrs.evolve(condition, guidance=torch.tensor([1.0, 1.5, 2.0, 3.0]))
    ones = torch.ones(4)
    answers = [each(z, ones, ones / 2, condition) for each in (student, found.student)]
    assert torch.equal(*answers)


def test_a_students_file_says_where_it_comes_from(digits):
    config = read_weights(str(digits / "student.safetensors")).config
    teacher = config["teacher"]
    recipe = load_recipe(digits / "recipe.toml")
    assert config["recipe"] == digest(recipe)
    assert config["step"] == 2
    assert config["ffcore"] == "0.1.0"
    assert config["sample_shape"] == [1, 8, 8]
    assert config["conditions"] == {"classes": 10, "null_label": 10}
    assert config["guidance"]["scale"] == 1
    assert config["guidance"]["range"] is None
    assert config["decoder"] == {"type": "identity"}
    assert (teacher["type"], teacher["origin"], teacher["licence"]) == ("sit", "a place", "MIT")
    weights = Path(__file__).parents[2] / "plugins" / "ffcore_digits" / "teacher.safetensors"
    assert teacher["sha256"] == {
        teacher["weights"]: hashlib.sha256(weights.read_bytes()).hexdigest()
    }
    assert teacher["fingerprint"] == fingerprint(build(tiny()).distillation.teacher)


def test_reading_a_student_leaves_the_random_state_alone(digits):
    state = torch.random.get_rng_state()
    load_sampler(digits)
    assert torch.equal(torch.random.get_rng_state(), state)


def spoilt(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of a student's file that says something else."""
    weights = read_weights(str(source))
    write_weights(target, weights.tensors, {**weights.config, **changes})
    return target


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 2}, "of schema 2"),
        ({"sample_shape": None}, "damaged"),
        ({"guidance": {}}, "damaged"),
        ({"guidance": {"scale": 1, "range": [1]}}, "damaged"),
        ({"conditions": {"null_label": 3}}, "damaged"),
        ({"student": {"type": "sit", "wdith": 3}}, "does not describe a student"),
        ({"student": {"type": "mlp"}}, "cannot be built"),
        ({"student": {"type": "sit"}}, "cannot be built"),
        ({"sample_shape": [1, 16, 16]}, "cannot be built"),
        ({"guidance": {"scale": 1, "range": [1, 2]}}, "does not fit"),
    ],
)
def test_a_damaged_students_file_is_refused(digits, tmp_path, changes, said):
    path = spoilt(digits / "student.safetensors", tmp_path / "s.safetensors", **changes)
    with pytest.raises(WeightsError, match=said):
        read_student(path)


@pytest.mark.parametrize("name", ["shard", "metrics.jsonl", "cut"])
def test_another_file_is_refused(digits, tmp_path, name):
    if name == "cut":
        whole = (digits / "student.safetensors").read_bytes()
        (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
        source = tmp_path / "cut"
    elif name == "shard":
        source = min(digits.glob("checkpoints/*/*.safetensors"))
    else:
        source = digits / name
    with pytest.raises(WeightsError):
        load_sampler(source)


def test_a_student_of_a_plugin_that_is_not_there_is_the_plugins_affair(digits, tmp_path):
    path = spoilt(
        digits / "student.safetensors", tmp_path / "s.safetensors", student={"type": "gone"}
    )
    with pytest.raises(RecipeError, match="unknown student 'gone'") as caught:
        read_student(path)
    assert caught.value.about == "plugin"


@attrs.frozen(kw_only=True)
class Leaning:
    """A student that cannot do without its teacher's own parameters."""

    offset: float = key(0.5, help="how far it is off")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"a mean"})

    def build(self, context: Context) -> Student:
        if not isinstance(context.teacher, Gaussian):
            raise ValueError("this student leans on a Gaussian teacher")
        return ExactStudent(context.teacher, self.offset)


def test_a_student_that_leans_on_its_teacher_says_so_and_is_rebuilt_beside_it_only(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("ffcore.recipe.load.unmet_needs", lambda *_: ())
    place = tmp_path / "run"
    place.mkdir()
    recipe = attrs.evolve(tiny("gaussian.toml"), student=Leaning(offset=0.25))
    teacher = Gaussian([1.0, -2.0], 0.5)
    student = Leaning(offset=0.25).build(Context(teacher=teacher))
    config = describe(recipe, teacher, student, step=1)
    assert config["student"] is None
    write_student(place / "student.safetensors", student.state_dict(), config)
    with pytest.raises(WeightsError, match="only with its teacher"):
        load_student(place)
    (place / "recipe.toml").write_text(to_toml(recipe))
    found = load_student(place, trust=True)
    assert isinstance(found, ExactStudent)
    assert found.offset == 0.25
    (place / "evaluation.json").write_text(json.dumps(attrs.asdict(UNMEASURED)))
    with pytest.raises(SourceError, match="Give its table a method `alone`"):
        export(place, tmp_path / "out", trust=True)


def test_conditions_that_no_file_describes_are_said_when_it_is_sampled(tmp_path):
    class Prompts(ConditionSource):
        def draw(self, draws: Draws) -> Condition:
            return Condition(size=len(draws))

        def null(self, condition: Condition) -> Condition:
            return condition

    recipe = tiny("gaussian.toml")
    distillation = build(recipe).distillation
    distillation.teacher.conditions = Prompts()
    config = describe(recipe, distillation.teacher, distillation.ema, step=1)
    assert config["conditions"] is None
    write_student(tmp_path / "s.safetensors", distillation.ema.state_dict(), config)
    for read in (read_student, load_sampler):
        with pytest.raises(WeightsError, match="conditions can be rebuilt only with its teacher"):
            read(tmp_path / "s.safetensors")


# Sources


def test_run_export_and_file_give_the_same_student_and_the_same_images(digits, exported):
    images = load_sampler(digits)(8, seed=3)
    assert images.shape == (8, 1, 8, 8)
    assert images.abs().max() <= 1
    for source in (exported, str(exported), digits / "student.safetensors"):
        assert torch.equal(load_sampler(source)(8, seed=3), images)
        assert fingerprint(load_student(source)) == fingerprint(load_student(digits))


def test_the_conditions_of_a_sampler_are_its_students(digits):
    sampler = load_sampler(digits)
    record = sampler.record(sampler.request(1))
    assert record["source"] == str(digits)
    assert record["recipe"] == digest(load_recipe(digits / "recipe.toml"))
    assert record["decoder"] == {"type": "identity"}
    assert record["fingerprint"] == fingerprint(load_student(digits))
    with pytest.raises(SampleError, match="scale 1 only"):
        sampler(1, guidance=2)


def test_a_student_of_a_range_takes_the_scales_in_it(tmp_path):
    written(CASES["sit of a range"], tmp_path / "s.safetensors")
    sampler = load_sampler(tmp_path / "s.safetensors")
    usual, twice, once = sampler(4), sampler(4, guidance=2), sampler(4, guidance=1)
    assert torch.equal(usual, twice)
    assert not torch.equal(usual, once)
    with pytest.raises(SampleError, match="from 1 to 3"):
        sampler(4, guidance=3.5)


def test_the_decoder_can_be_set_and_nothing_else(digits, tmp_path):
    with pytest.raises(MissingFile):
        load_sampler(digits, overrides=[f"decoder={{type='sd-vae', weights='{tmp_path}'}}"])
    for override in ("training.steps=3", "decoder=3", "steps"):
        with pytest.raises(SourceError, match=f"--set {override}: "):
            load_sampler(digits, overrides=[override])


def test_a_device_that_is_not_there_is_refused(digits):
    with pytest.raises(SampleError, match=r"^device 'warp' cannot be used"):
        load_sampler(digits, device="warp")


def test_a_teacher_is_sampled_as_the_recipe_evaluates_it():
    sampler = load_teacher_sampler("digits.toml", overrides=["guidance.scale=2.0"])
    record = sampler.record(sampler.request(1))
    assert record["kind"] == "teacher"
    assert record["guidance"]["scale"] == 2
    assert record["solver"] == attrs.asdict(load_recipe("digits.toml").evaluation.solver)
    assert record["nfe"] == 64 * 4
    other = load_teacher_sampler("digits.toml", method="euler", steps=3)
    assert other.record(other.request(1))["nfe"] == 3
    assert other(4).shape == (4, 1, 8, 8)
    assert not torch.equal(other(4), other(4, guidance=2))


def test_a_run_directory_has_its_recipes_teacher_and_its_file_is_asked_for(digits, tmp_path):
    with pytest.raises(MissingFile, match=r"teacher\.safetensors"):
        load_teacher_sampler(digits)
    sampler = load_teacher_sampler(
        digits, steps=1, overrides=["teacher.weights=ffcore_digits:teacher.safetensors"]
    )
    assert sampler(2).isfinite().all()


def test_a_solver_that_there_is_not_is_refused():
    with pytest.raises(SampleError, match="dopri5 chooses its own"):
        load_teacher_sampler("digits.toml", method="dopri5", steps=4)
    overrides = ["evaluation.solver.gate=step"]
    with pytest.raises(SampleError, match="gate must be 'evaluation'"):
        load_teacher_sampler("digits.toml", method="dopri5", overrides=overrides)
    with pytest.raises(SampleError, match="found 'eulr'; did you mean 'euler'"):
        load_teacher_sampler("digits.toml", method="eulr")  # type: ignore[arg-type]
    for steps in (0, -1, 1.5, True):
        with pytest.raises(SampleError, match=f"steps: must be .* at least 1, found {steps}"):
            load_teacher_sampler("digits.toml", steps=steps)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("digits.toml", "is a recipe, and has no student: `ffd run digits.toml`"),
        ("unfinished", "its training has not finished"),
        ("empty", "neither a run directory nor an export"),
    ],
)
def test_a_source_without_a_student_is_refused(tmp_path, monkeypatch, source, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "recipe.toml").write_text("")
    (tmp_path / "unfinished" / "provenance.json").write_text("{}")
    with pytest.raises(SourceError, match=said):
        load_sampler(source)


def test_a_source_that_is_nowhere_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="no such file"):
        load_sampler(tmp_path / "nowhere")
    with pytest.raises(RecipeError, match="no such file"):
        load_teacher_sampler(tmp_path / "nowhere")


def test_a_student_alone_has_no_teacher(exported, tmp_path):
    for source in (exported, exported / "student.safetensors"):
        with pytest.raises(SourceError, match="without its teacher"):
            load_teacher_sampler(source)
    with pytest.raises(SourceError, match="not a run directory"):
        load_teacher_sampler(tmp_path)


# Exports


def test_an_export_holds_weights_config_card_and_recipe(digits, exported):
    assert names(exported) == sorted(EXPORT_FILES)
    run_file, export_file = (each / "student.safetensors" for each in (digits, exported))
    first, second = load_file(run_file), load_file(export_file)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    config = json.loads((exported / "config.json").read_text())
    assert config == read_weights(str(export_file)).config
    recipe = load_recipe(exported / "recipe.toml")
    assert config["recipe"] == digest(recipe)
    named = load_recipe(digits / "recipe.toml", ["teacher.weights=teacher.safetensors"])
    assert recipe == named
    assert (exported.stat().st_mode & 0o777) == 0o755


def test_an_export_tells_no_path_of_the_machine_that_made_it(digits, exported):
    place = str(digits.parent).encode()
    assert place in (digits / "student.safetensors").read_bytes()
    for path in exported.iterdir():
        assert place not in path.read_bytes()
    config = json.loads((exported / "config.json").read_text())
    text = (exported / "README.md").read_text()
    ((name, sha256),) = config["teacher"]["sha256"].items()
    assert name == config["teacher"]["weights"] == "teacher.safetensors"
    for line in (
        "- weights: teacher.safetensors",
        "- origin: a place",
        f"- SHA-256 of teacher.safetensors: {sha256}",
    ):
        assert line in text.splitlines()
    assert "name your copies: `--set teacher.weights=PATH`." in text


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ("/home/me/weights/x.pt", "x.pt"),
        ("/home/me/vae/", "vae"),
        ("~/x.pt", "x.pt"),
        ("../me/x.pt", "x.pt"),
        ("weights/x.pt", "weights/x.pt"),
        ("hf://org/repo/x.pt@main", "hf://org/repo/x.pt@main"),
        ("ffcore_digits:teacher.safetensors", "ffcore_digits:teacher.safetensors"),
        ("/", "/"),
        (3, 3),
    ],
)
def test_paths_are_cut_to_names_wherever_they_stand(told, left):
    tree = {"a": [{"b": told}], told: "d"}
    assert without_places(tree) == {"a": [{"b": left}], left: "d"}


def test_a_student_that_is_not_finite_is_neither_exported_nor_sampled(digits, tmp_path):
    copy = Path(shutil.copytree(digits, tmp_path / "run"))
    weights = read_weights(str(copy / "student.safetensors"))
    name = min(weights.tensors)
    weights.tensors[name] = torch.full_like(weights.tensors[name], torch.inf)
    write_weights(copy / "student.safetensors", weights.tensors, weights.config)
    said = f"1 tensor holds NaN or infinity, the first is {name}."
    with pytest.raises(WeightsError, match=re.escape(said)):
        export(copy, tmp_path / "out")
    with pytest.raises(WeightsError, match=re.escape(said)):
        load_sampler(copy)
    assert names(tmp_path) == ["run"]


def test_an_export_is_sampled_in_a_fresh_process_by_the_cards_three_lines(digits, exported):
    text = (exported / "README.md").read_text()
    lines = text.partition("```python\n")[2].partition("```")[0]
    assert len(lines.splitlines()) == 3
    code = f"{lines}import torch\ntorch.save(images, 'images.pt')\n"
    subprocess.run([sys.executable, "-c", code], cwd=exported.parent, check=True)
    images = torch.load(exported.parent / "images.pt")
    assert torch.equal(images, load_sampler(digits)(16, seed=0))


def test_the_card_says_what_one_has_to_know(digits, exported):
    text = (exported / "README.md").read_text()
    header, _, body = text.removeprefix("---\n").partition("---\n")
    assert "license: mit\n" in header
    assert "library_name: ffcore\n" in header
    config = json.loads((exported / "config.json").read_text())
    (sha256,) = config["teacher"]["sha256"].values()
    for fact in (sha256, config["recipe"], "a place", "licence: MIT", "training steps: 2"):
        assert fact in body
    evaluation = json.loads((digits / "evaluation.json").read_text())
    student = evaluation["distances"]["raw"]["student"]
    assert f"| this student, 1 step | {student:.4g} |" in body
    assert "| teacher, 1 Euler step |" in body
    assert "| teacher, 2 Euler steps |" in body
    assert config["starts_at"] == "prior"
    for name in evaluation["identity"]:
        assert f"- {name}: " in body
    assert "2511.19428" in body
    assert "2401.08740" in body
    assert "ffd sample exported" in body


def card_of(recipe: Recipe = CASES["sit"], said: Any = None, **teacher: Any) -> str:
    config = {
        "teacher": {"type": "sit", "sha256": {}, "fingerprint": "f", **teacher},
        "ffcore": "0",
        "sample_shape": [1],
        "conditions": {},
        "guidance": {"scale": 2.0, "range": [1.0, 4.0]},
        "decoder": {"type": "identity"},
        "recipe": "d",
        "step": 1,
        **(said or {}),
    }
    return card.model_card("x", config, recipe, Unconditional(), None)


@pytest.mark.parametrize(
    ("licence", "header"),
    [
        (None, ""),
        ("Apache-2.0", "license: apache-2.0\n"),
        ("ours: ask", 'license: other\nlicense_name: "ours: ask"\n'),
    ],
)
def test_the_cards_header_has_the_teachers_licence_if_it_is_known(licence, header):
    found = card_of(licence=licence)
    assert found.startswith(f"---\n{header}library_name")


def test_a_card_says_that_nothing_was_measured_and_which_scales_there_are():
    found = card_of()
    assert "was not evaluated" in found
    assert "from 1 to 4; 2 by default" in found
    assert "classes: none" in found


def test_a_card_says_how_many_steps_its_student_was_trained_for():
    assert "- steps: 1; the student was trained for one step only" in card_of()
    assert "trained for 1, 2, 4, or any" in card_of(said={"starts_at": "anywhere"})


def test_a_card_says_whether_data_were_used():
    sampled = attrs.evolve(CASES["sit"], data=component("data", {"type": "teacher-samples"}))
    for recipe, said, free in (
        (CASES["sit"], "from its teacher, without data.", True),
        (sampled, "from its teacher and data, `teacher-samples`.", False),
    ):
        assert said in card_of(recipe)
        assert ("- data-free" in card_of(recipe)) == free


def test_a_card_names_the_method_that_was_used():
    card_of_freeflow = card_of()
    assert "Method: predictor `freeflow` (" in card_of_freeflow
    assert "- freeflow\n" in card_of_freeflow
    recipe = attrs.evolve(
        CASES["sit"], predictor=component("predictor", {"type": "meanflow"}), corrector=None
    )
    text = card_of(recipe)
    assert "Method: predictor `meanflow` (Learns the flow map from anywhere, on data" in text
    assert "- meanflow\n" in text
    assert "- freeflow\n" not in text
    cited = [line for line in text.partition("## Citation")[2].splitlines() if line]
    assert "2505.13447" in cited[0]


def test_every_component_is_cited_once():
    found = card_of().partition("## Citation")[2].splitlines()
    listed = [line for line in found if line]
    assert len(set(listed)) == len(listed) >= 3


def test_a_card_has_a_row_for_each_number_of_steps():
    few = Distances(floor=0.1, euler={1: 5.0}, student=3.0, student_steps={2: 2.0, 4: 1.0})
    table = list(card._table(json.loads(json.dumps({"raw": attrs.asdict(few)}))))
    assert "| this student, 1 step | 3 |" in table
    assert "| this student, 4 steps | 1 |" in table


def test_an_evaluation_without_distances_makes_a_card():
    config = json.loads(json.dumps(attrs.asdict(UNMEASURED)))
    assert "over 200 noises: 0.500 ± 0.100 at 1" in "\n".join(card._results(config))


def test_an_export_is_written_whole_or_not_at_all(digits, tmp_path, monkeypatch):
    def fail(*_: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr("ffcore.export.directory.model_card", fail)
    with pytest.raises(OSError, match="disk full"):
        export(digits, tmp_path / "out")
    assert names(tmp_path) == []


def test_an_export_is_replaced_only_when_it_is_asked_for(digits, tmp_path):
    out = tmp_path / "deep" / "out"
    export(digits, out)
    (out / "README.md").write_text("edited")
    with pytest.raises(SourceError, match="earlier export: choose another directory, or --over"):
        export(digits, out)
    assert (out / "README.md").read_text() == "edited"
    export(digits, out, overwrite=True)
    assert (out / "README.md").read_text() != "edited"
    assert names(tmp_path / "deep") == ["out"]


def test_what_is_no_export_is_never_replaced(digits, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(SourceError, match="not an earlier export"):
        export(digits, tmp_path / "out", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="not an earlier export"):
        export(digits, tmp_path / "file", overwrite=True)
    export(digits, tmp_path / "third")
    (tmp_path / "third" / "thesis.tex").write_text("years of work")
    with pytest.raises(SourceError, match=r"thesis\.tex"):
        export(digits, tmp_path / "third", overwrite=True)


def test_only_a_finished_run_is_exported(digits, exported, tmp_path):
    copy = Path(shutil.copytree(digits, tmp_path / "run"))
    out = tmp_path / "out"
    (copy / "evaluation.json").unlink()
    with pytest.raises(SourceError, match="not yet evaluated"):
        export(copy, out)
    (copy / "evaluation.json").write_text("{")
    with pytest.raises(SourceError, match="is damaged"):
        export(copy, out)
    (copy / "student.safetensors").unlink()
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(SourceError, match="has no student yet: its training has not finished"):
        export(copy, out)
    with pytest.raises(SourceError, match="already an export"):
        export(exported, out)
    with pytest.raises(SourceError, match="not a run directory"):
        export(tmp_path / "nowhere", out)
    assert not out.exists()


def test_a_recipe_that_was_changed_since_is_noticed(digits, tmp_path):
    copy = Path(shutil.copytree(digits, tmp_path / "run"))
    text = (copy / "recipe.toml").read_text()
    (copy / "recipe.toml").write_text(text.replace("steps = 2", "steps = 3", 1))
    with pytest.raises(SourceError, match="not the recipe"):
        export(copy, tmp_path / "out")


def test_the_classes_of_a_student_are_its_teachers(digits):
    assert read_student(digits / "student.safetensors").conditions == Labels(10, 10)


def test_what_is_left_out_of_a_students_file_is_told(digits, tmp_path):
    weights = read_weights(str(digits / "student.safetensors"))
    path = tmp_path / "s.safetensors"
    for left_out, changes, said in (
        ("student", {"schema": 2}, "of schema 2"),  # another schema may have other keys
        ("schema", {}, "is not a student file"),
        ("teacher", {}, "damaged"),
        ("", {"student": 3}, "damaged"),
    ):
        config = {name: each for name, each in weights.config.items() if name != left_out}
        write_weights(path, weights.tensors, {**config, **changes})
        with pytest.raises(WeightsError, match=said):
            read_student(path)


# Exports of every kind of student


def finished(name: str, folder: Path, *overrides: str) -> Path:
    recipe = tiny(name, "evaluation.enabled=false", *overrides)
    run(recipe, folder)
    return folder


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs and exports of students other than that of the digits' teacher."""
    folder = tmp_path_factory.mktemp("kinds")
    ranged = ("guidance.range=[1.0, 3.0]", "guidance.scale=2.0")
    finished("gaussian.toml", folder / "gaussian")
    finished("mixture.toml", folder / "mixture")
    finished("digits.toml", folder / "ranged", *ranged)
    for name in KINDS:
        export(folder / name, folder / "exports" / name)
    return folder


KINDS = ("gaussian", "mixture", "ranged")


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_of_any_kind_samples_as_its_run_does(kinds, kind):
    here, there = load_sampler(kinds / kind), load_sampler(kinds / "exports" / kind)
    assert torch.equal(here(8, seed=3), there(8, seed=3))
    assert not torch.equal(there(8, seed=3), there(8, seed=4))


def test_the_scales_of_an_export_are_its_runs(kinds):
    here, there = load_sampler(kinds / "ranged"), load_sampler(kinds / "exports" / "ranged")
    for guidance in (1.0, 1.5, 3.0):
        assert torch.equal(here(4, guidance=guidance), there(4, guidance=guidance))
    assert not torch.equal(there(4, guidance=1.0), there(4, guidance=3.0))
    for guidance in (0.9, 3.1):
        with pytest.raises(SampleError, match="from 1 to 3"):
            there(4, guidance=guidance)


def test_neither_teacher_nor_recipe_is_opened_to_sample_an_export(
    digits, exported, kinds, tmp_path
):
    places = {"digits": exported, **{kind: kinds / "exports" / kind for kind in KINDS}}
    for name, place in places.items():
        shutil.copytree(place, tmp_path / name)
        (tmp_path / name / "recipe.toml").unlink()
    code = f"""
import sys, torch
from ffcore import load_sampler
opened = []
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
for name in {list(places)}:
    torch.save(load_sampler(name)(8, seed=3), name + ".pt")
assert any(each.endswith("student.safetensors") for each in opened), "the hook sees nothing"
read = [each for each in opened if each.endswith(("teacher.safetensors", "recipe.toml"))]
assert not read, read
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    for name, run_place in {"digits": digits, **{kind: kinds / kind for kind in KINDS}}.items():
        there = torch.load(tmp_path / f"{name}.pt")
        torch.testing.assert_close(there, load_sampler(run_place)(8, seed=3))


def test_an_export_that_cannot_be_put_in_place_leaves_the_earlier_one(kinds, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export(kinds / "gaussian", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if target == out and (self / "recipe.toml").read_bytes() != before["recipe.toml"]:
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="disk full"):
        export(kinds / "mixture", out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert names(tmp_path) == ["out"]


def test_nothing_is_exported_into_a_run_or_an_export(kinds):
    for place in (kinds / "gaussian", kinds / "exports" / "gaussian"):
        before = names(place)
        with pytest.raises(
            SourceError, match="directory of a run or an export: choose another path"
        ):
            export(kinds / "mixture", place / "out")
        assert names(place) == before


@pytest.mark.parametrize("text", ["{}", "[]", "3"])
def test_an_evaluation_that_is_another_document_is_damaged(digits, tmp_path, text):
    copy = Path(shutil.copytree(digits, tmp_path / "run"))
    (copy / "evaluation.json").write_text(text)
    with pytest.raises(SourceError, match=r"evaluation\.json is damaged"):
        export(copy, tmp_path / "out")
    assert names(tmp_path) == ["run"]


@pytest.fixture
def without_mlp(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FFCORE_DISABLE_PLUGINS", "mlp")
    installed.cache_clear()
    yield
    installed.cache_clear()


@pytest.mark.usefixtures("without_mlp")
def test_a_missing_plugin_stops_an_export_and_is_named(kinds, tmp_path):
    with pytest.raises(RecipeError, match="'mlp'") as caught:
        export(kinds / "gaussian", tmp_path / "out")
    assert caught.value.about == "plugin"
    assert names(tmp_path) == []


# The card, for a stranger


def front_matter(text: str) -> dict[str, Any]:
    """The header, read as the little YAML that it may be; anything else fails."""
    opened, header, _ = text.split("---\n", 2)
    assert opened == ""
    found: dict[str, Any] = {}
    for line in header.splitlines():
        if line.startswith("- "):
            found["tags"].append(line[2:])
            continue
        name, colon, value = line.partition(":")
        assert colon == ":", line
        assert name not in found
        if value.startswith(' "'):
            found[name] = json.loads(value)
        elif value:
            assert re.fullmatch(r" [a-z0-9.-]+", value), line
            found[name] = value.strip()
        else:
            found[name] = []
    return found


@pytest.mark.parametrize("licence", ["MIT", 'Ours: "do", # what\nyou é: like', "a: b"])
def test_the_cards_header_parses_whatever_the_licence(licence):
    header = front_matter(card_of(licence=licence))
    assert header["license"] == ("mit" if licence == "MIT" else "other")
    assert header.get("license_name", "MIT") == licence
    assert "data-free" in header["tags"]


def test_a_licence_that_nobody_stated_is_told_only_where_there_are_weights():
    assert "- licence: not stated" in card_of(sha256={"w": "d"}).splitlines()
    assert "licence" not in card_of()


def test_the_card_tells_what_to_install_and_what_comes_out(exported, kinds):
    for place in (exported, kinds / "exports" / "gaussian"):
        assert (
            "ffcore 0.1.0 (`pip install .` in its source tree)" in (place / "README.md").read_text()
        )
    assert "Float[16, 1, 8, 8] in [−1, 1]" in (exported / "README.md").read_text()
    text = (kinds / "exports" / "gaussian" / "README.md").read_text()
    assert "samples = sampler(16, seed=0)  # Float[16, 2]\n" in text
    assert "This student makes a sample in one step." in text
    assert "- samples: vectors of 2 numbers\n" in text
    assert "-n 16 --out samples.npz\n" in text


def test_a_card_of_latents_tells_what_they_are_decoded_to_and_by_which_files():
    here = tiny("digits.toml", "decoder={type='sd-vae', weights='vae'}")
    hub = tiny("digits.toml", "decoder.type=sd-vae")
    said = {
        "sample_shape": [4, 8, 8],
        "decoder": {"type": "sd-vae"},
        "decoded_shape": [3, 64, 64],
        "decoder_sha256": {"config.json": "abc"},
    }
    for recipe in (here, hub):
        text = card_of(recipe, said)
        assert "This student makes an image in one step." in text
        assert (
            "- samples: the student makes latents of shape 4 × 8 × 8, which the decoder `sd-vae` "
            "turns into images of shape 3 × 64 × 64\n"
        ) in text
        assert "images = sampler(16, seed=0)  # Float[16, 3, 64, 64] in [−1, 1]\n" in text
        assert "sd-vae-ft-ema, licence MIT." in text
        assert "  - SHA-256 of config.json: abc\n" in text
    assert 'load_sampler("x", overrides=["decoder.weights=PATH"])\n' in card_of(here, said)
    assert "ffd sample x --set decoder.weights=PATH -n 16" in card_of(here, said)
    assert 'load_sampler("x")\n' in card_of(hub, said)
    assert "If yours are elsewhere, name them: `--set decoder.weights=PATH`" in card_of(hub, said)
    untold = card_of(hub, {**said, "decoded_shape": None})
    assert "turns into images\n" in untold
    assert "Float[16, C, H, W] in [−1, 1]\n" in untold
    undecoded = card_of(said={"sample_shape": [4, 8, 8]})
    assert "- samples: arrays of shape 4 × 8 × 8, without a decoder\n" in undecoded


@attrs.frozen(kw_only=True)
class Doubling:
    """A decoder of images twice as large, which is read from a file."""

    file: str = key(help="the file")

    @property
    def files(self) -> tuple[File, ...]:
        return (File(self.file, "decoder.file", "a factor"),)

    def build(self, context: Context) -> Decoder:
        raise AssertionError("the test builds it")


class Doubled(Decoder):
    def forward(self, samples: Tensor) -> Tensor:
        return samples.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_a_students_file_says_what_its_decoder_is_read_from_and_makes(tmp_path):
    (tmp_path / "factor").write_text("2")
    recipe = attrs.evolve(tiny(), decoder=Doubling(file=str(tmp_path / "factor")))
    distillation = build(tiny()).distillation
    config = describe(recipe, distillation.teacher, distillation.ema, 1, Doubled())
    assert config["decoded_shape"] == [1, 16, 16]
    sha256 = hashlib.sha256(b"2").hexdigest()
    assert config["decoder_sha256"] == {str(tmp_path / "factor"): sha256}


def test_a_name_that_a_shell_would_split_is_quoted(digits, tmp_path):
    name = "it's a student"
    export(digits, tmp_path / name)
    (line,) = re.findall(r"```sh\n(.*)\n```", (tmp_path / name / "README.md").read_text())
    assert shlex.split(line)[:3] == ["ffd", "sample", name]


def test_a_decoder_of_another_distribution_and_its_files_are_told(distribute):
    distribute("shop", {"shop": "shop_plugin"}, shop_plugin=SHOP)
    found = card_of(tiny("digits.toml", "decoder.type=shopped"))
    assert "source tree) and shop. Run" in found
    (line,) = [each for each in found.splitlines() if "files of the decoder" in each]
    assert "a shop, licence MIT" in line
    assert "--set decoder.weights=PATH" in line


SHOP = """
import attrs
from ffcore.system.files import File
from ffcore.plugins import Component, hookimpl

@hookimpl
def ffcore_components():
    yield Component("decoder", "shopped", "shop_plugin:Shopped", "A decoder")

@attrs.frozen(kw_only=True)
class Shopped:
    files = (File("shopped.safetensors", "decoder.weights", "a decoder", "a shop", "MIT"),)
"""
