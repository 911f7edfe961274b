"""A recipe from start to end, in a directory of its own."""

import json
import os
import shutil
from pathlib import Path

import attrs
import pytest
import torch
from distillations import ends_as
from observers import Listens
from safetensors.torch import load_file

from ffcore.export import RECIPE, load_student
from ffcore.export.model_card import _results
from ffcore.flow import derivative_check
from ffcore.flow.exact import Gaussian
from ffcore.interfaces import VelocityField
from ffcore.recipe import Recipe, RecipeError, digest, load_recipe, to_toml
from ffcore.recipe.components import BuildError
from ffcore.report.record import read_records
from ffcore.run.best import BEST
from ffcore.run.build import build
from ffcore.run.directory import (
    ALARMS,
    FILES,
    METRICS,
    REPORT,
    TRACKING,
    VERIFICATION,
    VERIFICATION_PICTURE,
    RunDirectoryError,
)
from ffcore.run.stages import run
from ffcore.system.faults import Unwritable
from ffcore.system.files import MissingFile
from ffcore.system.weights import WeightsError, read_weights, write_weights
from ffcore.training.checkpoint import CheckpointError
from ffcore.training.loop import Report, Stopped, train

SMALL = (
    "training.steps=6",
    "training.batch=64",
    "training.log_every=2",
    "training.checkpoint_every=2",
    "student.width=16",
    "evaluation.samples=64",
    "evaluation.solver.steps=8",
    "evaluation.euler=[1, 2]",
    "evaluation.enabled=false",
)


CLOCK = ("steps_per_second", "samples_per_second", "seconds", "memory_peak")
"""How the names of those metrics begin that differ from one run to the next."""


def small(*overrides: str) -> Recipe:
    """The Gaussian recipe, cut to a second."""
    return load_recipe("gaussian.toml", [*SMALL, *overrides])


def evaluated(*overrides: str) -> Recipe:
    """The same, with its evaluation."""
    return small("evaluation.enabled=true", *overrides)


def everything(directory: Path) -> dict[Path, bytes]:
    """Every file with its content."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


class Interrupted(Exception):
    """What stops a run half-way here."""


class StopsAt:
    """An observer that interrupts the run at a step."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.reports: list[Report] = []

    def say(self, text: str) -> None:
        assert text

    def report(self, report: Report) -> None:
        self.reports.append(report)
        if report.step == self.step:
            raise Interrupted

    def progress(self, what: str, done: int, total: int) -> None:
        assert 0 < done <= total, what


def test_a_run_directory_holds_the_whole_run(tmp_path):
    evaluation = run(evaluated(), tmp_path / "run")
    assert evaluation is not None
    found = {path.name for path in (tmp_path / "run").iterdir()}
    asked_for = {TRACKING, REPORT, VERIFICATION, VERIFICATION_PICTURE, BEST, ALARMS}
    assert found == set(FILES) - asked_for  # which nobody did
    assert evaluation.distances["raw"].student > 0
    for picture in ("samples.png", "curves.png"):
        assert (tmp_path / "run" / picture).read_bytes().startswith(b"\x89PNG")
    manifest = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert manifest["data_source_opened_by_training"] is None
    assert {each["role"] for each in manifest["components"]} >= {"teacher", "student", "predictor"}


def test_the_resolved_recipe_runs_again_to_the_same_weights(tmp_path):
    run(small(), tmp_path / "first")
    run(load_recipe(tmp_path / "first" / RECIPE), tmp_path / "second")
    first, second = (
        load_file(tmp_path / name / "student.safetensors") for name in ("first", "second")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_interrupted_run_goes_on_to_the_same_weights_and_metrics(tmp_path):
    run(small(), tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(small(), tmp_path / "parts", observer=StopsAt(4))
    with (tmp_path / "parts" / METRICS).open("a") as file:
        file.write('{"step": 5, "loss"')  # a line that a killed process did not finish
    watching = StopsAt(-1)
    run(small(), tmp_path / "parts", observer=watching)
    assert [report.step for report in watching.reports] == [6]
    assert ends_as(tmp_path / "parts", tmp_path / "whole")
    metrics = [
        [
            {k: v for k, v in json.loads(line).items() if not k.startswith(CLOCK)}
            for line in (tmp_path / name / METRICS).read_text().splitlines()
        ]
        for name in ("whole", "parts")
    ]
    assert metrics[0] == metrics[1]


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = run(evaluated(), tmp_path)
    watching = StopsAt(-1)
    second = run(evaluated(), tmp_path, observer=watching)
    assert watching.reports == []
    assert first is not None
    assert second is not None
    assert attrs.asdict(first) == attrs.asdict(second)


def test_restart_begins_anew(tmp_path):
    run(small(), tmp_path)
    watching = StopsAt(-1)
    run(small("training.steps=4"), tmp_path, restart=True, observer=watching)
    assert [report.step for report in watching.reports] == [2, 4]


def test_another_recipe_in_the_directory_is_refused_with_the_changed_keys(tmp_path):
    run(small(), tmp_path)
    before = everything(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"optimizer\.learning_rate: 0\.002 before, 0\.01"):
        run(small("optimizer.learning_rate=0.01"), tmp_path)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("restart", [False, True])
def test_a_directory_with_other_files_is_refused_and_left_alone(tmp_path, restart):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunDirectoryError, match=r"thesis\.tex"):
        run(small(), tmp_path, restart=restart)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunDirectoryError, match="is a file"):
        run(small(), tmp_path / "run")


def test_what_a_killed_process_left_does_not_stand_in_the_way(tmp_path):
    (tmp_path / ".student.safetensors.partial").write_bytes(b"half")
    (tmp_path / "checkpoints" / ".step-00000002.partial").mkdir(parents=True)
    (tmp_path / "recipe.toml").write_text(to_toml(evaluated()))
    assert run(evaluated(), tmp_path) is not None
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-00000004",
        "step-00000006",
    ]


def test_a_missing_weights_file_is_told_before_anything_is_written(tmp_path):
    recipe = load_recipe("digits.toml", ["teacher.weights=nowhere.safetensors"])
    with pytest.raises(MissingFile, match=r"no such file: .*nowhere\.safetensors"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_weights_file_is_told_before_anything_is_written(tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not a safetensors file")
    recipe = load_recipe("digits.toml", [f"teacher.weights='{damaged}'"])
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_parts_that_do_not_fit_together_are_told_by_name():
    recipe = load_recipe("digits.toml")
    with pytest.raises(BuildError, match=r"\[student\] student mlp is for vectors"):
        build(attrs.evolve(recipe, student=small().student, corrector=None))


def test_guiding_a_teacher_without_null_condition_is_refused():
    guidance = load_recipe("digits_guided.toml").guidance
    with pytest.raises(BuildError, match="cannot be guided"):
        build(attrs.evolve(small(), guidance=attrs.evolve(guidance, range=None)))


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(BuildError, match=r"\[training\] device 'cuda:7' cannot be used"):
        build(small("training.device='cuda:7'"))


def test_a_reference_made_under_other_conditions_is_refused(tmp_path):
    run(evaluated(), tmp_path / "run")
    reference = tmp_path / "run" / "reference.safetensors"
    other = evaluated(f"evaluation.reference='{reference}'", "evaluation.samples=65")
    with pytest.raises(BuildError, match="samples: the reference has 64, this run 65"):
        run(other, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_building_and_training_leave_global_state_alone():
    state, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
    for _ in train(build(small()).distillation):
        pass
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_default_dtype() == dtype
    assert torch.is_grad_enabled()


def test_new_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = build(small()).distillation.student.state_dict()
    torch.manual_seed(2)
    second = build(small()).distillation.student.state_dict()
    third = build(small("training.seed=1")).distillation.student.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_the_directory_may_be_deep_and_new(tmp_path):
    directory = Path(tmp_path) / "a" / "b"
    run(small(), directory)
    assert (directory / "student.safetensors").exists()


def test_a_finished_runs_student_can_be_loaded(tmp_path):
    recipe = small()
    run(recipe, tmp_path)
    student, stored = load_student(tmp_path), load_file(tmp_path / "student.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in student.state_dict().items())
    with pytest.raises(RecipeError, match="no such file"):
        load_student(tmp_path / "elsewhere")


def test_a_run_that_is_asked_to_stop_does_so_after_a_checkpoint(tmp_path):
    asked = iter([False, False, True])
    with pytest.raises(Stopped, match="stopped after step 3"):
        run(small("training.checkpoint_every=100"), tmp_path / "parts", stop=lambda: next(asked))
    watching = StopsAt(-1)
    run(small("training.checkpoint_every=100"), tmp_path / "parts", observer=watching)
    assert [report.step for report in watching.reports] == [4, 6]
    run(small("training.checkpoint_every=100"), tmp_path / "whole")
    whole, parts = (
        load_file(tmp_path / name / "student.safetensors") for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_an_evaluation_that_is_asked_to_stop_is_made_again_by_the_next_start(tmp_path):
    class Evaluates(Listens):
        begun = False

        def progress(self, what: str, done: int, total: int) -> None:
            self.begun = True

    watching = Evaluates()
    with pytest.raises(Stopped, match="stopped after step 6"):
        run(evaluated(), tmp_path, observer=watching, stop=lambda: watching.begun)
    assert not (tmp_path / "evaluation.json").exists()
    assert (tmp_path / "student.safetensors").exists()
    assert run(evaluated(), tmp_path) is not None


@pytest.mark.parametrize("every", [1, 100])
def test_a_run_directory_that_vanishes_is_told_and_not_made_anew(tmp_path, every):
    class Vanishes(Listens):
        def report(self, report: Report) -> None:
            while (tmp_path / "run").exists():  # a checkpoint may be on its way into it
                shutil.rmtree(tmp_path / "run", ignore_errors=True)

    recipe = small(f"training.checkpoint_every={every}", "training.log_every=1")
    with pytest.raises(Unwritable, match=r"could not be written: .* no longer exists$"):
        run(recipe, tmp_path / "run", observer=Vanishes())
    assert not (tmp_path / "run").exists()


def test_a_directory_in_use_is_refused(tmp_path):
    class Intrudes(StopsAt):
        def report(self, report: Report) -> None:
            with pytest.raises(
                RunDirectoryError,
                match=rf"in use by another process \(PID {os.getpid()}\)",
            ):
                run(small(), tmp_path, restart=True)
            super().report(report)

    watching = Intrudes(-1)
    run(small(), tmp_path, observer=watching)
    assert [report.step for report in watching.reports] == [2, 4, 6]


def test_another_teacher_under_the_same_name_is_noticed(tmp_path):
    """Its weights file has other numbers than it had."""
    stored = read_weights("ffcore_digits:teacher.safetensors")
    weights = tmp_path / "teacher.safetensors"
    write_weights(weights, stored.tensors, stored.config)
    short = ["corrector='none'", "evaluation.enabled=false", "training.steps=2"]
    recipe = load_recipe("digits.toml", [*short, f"teacher.weights='{weights}'"])
    run(recipe, tmp_path / "run")
    other = {name: 1.01 * each for name, each in stored.tensors.items()}
    write_weights(weights, other, stored.config)
    with pytest.raises(
        CheckpointError, match=r"step 2 in .* was made with another teacher\. Restore the original"
    ):
        run(recipe, tmp_path / "run")
    # Insisted upon once, it is that of the run.
    assert run(recipe, tmp_path / "run", allow_changes=True) is None
    assert run(recipe, tmp_path / "run") is None


# Recipes that change


def provenance(directory):
    return json.loads((directory / "provenance.json").read_text())


def test_a_recipe_may_change_in_what_no_step_depends_on(tmp_path):
    longer = evaluated("training.steps=9", "training.log_every=1", "evaluation.samples=32")
    run(longer, tmp_path / "whole")
    run(evaluated(), tmp_path / "parts")
    watching = StopsAt(-1)
    evaluation = run(longer, tmp_path / "parts", observer=watching)
    assert [report.step for report in watching.reports] == [7, 8, 9]
    # The statistics of 64 samples are not those of 32.
    assert evaluation is not None
    assert evaluation.identity["samples"] == 32
    assert load_recipe(tmp_path / "parts" / RECIPE) == build(longer).recipe
    (change,) = provenance(tmp_path / "parts")["changes"]
    assert change["after_step"] == 6
    assert change["changed"] == [
        "evaluation.samples: 64 before, 32 now",
        "training.log_every: 2 before, 1 now",
        "training.steps: 6 before, 9 now",
    ]
    assert provenance(tmp_path / "parts")["recipe"] == provenance(tmp_path / "whole")["recipe"]


def test_what_was_left_to_the_networks_is_told_and_kept(tmp_path):
    watching = Listens()
    run(small(), tmp_path, observer=watching)
    assert "predictor.derivative = 'dual' (the recipe has 'auto')" in watching.said
    assert 'derivative = "dual"' in (tmp_path / RECIPE).read_text()
    assert provenance(tmp_path)["recipe"] == digest(build(small()).recipe)


def test_the_derivative_is_checked_once_before_a_run_and_again_if_the_student_changes(monkeypatch):
    checks, real = [], derivative_check._probed

    def counted(*arguments, **more):
        checks.append(1)
        return real(*arguments, **more)

    monkeypatch.setattr(derivative_check, "_probed", counted)
    made = build(small()).distillation
    assert any("derivative: dual" in each for each in made.self_check())
    assert len(checks) == 1
    with torch.no_grad():
        next(made.student.parameters()).add_(0.1)
    made.self_check()
    assert len(checks) == 2


def test_what_a_run_has_decided_stands_for_its_continuation(tmp_path):
    run(small("predictor.derivative='jvp'"), tmp_path)
    before = everything(tmp_path)
    watching = Listens()
    run(small("predictor.derivative='auto'"), tmp_path, observer=watching)
    assert not any("derivative =" in each for each in watching.said)
    assert everything(tmp_path)[tmp_path / RECIPE] == before[tmp_path / RECIPE]
    with pytest.raises(RunDirectoryError, match="derivative: 'jvp' before, 'dual' now"):
        run(small("predictor.derivative='dual'"), tmp_path)
    run(small("predictor.derivative='auto'"), tmp_path, restart=True)
    assert load_recipe(tmp_path / RECIPE).predictor.derivative == "dual"


def test_with_a_constant_rate_a_longer_run_is_the_same_run(tmp_path):
    constant = "optimizer.schedule='constant'"
    run(small(constant), tmp_path / "parts")
    watching = Listens()
    run(small(constant, "training.steps=9"), tmp_path / "parts", observer=watching)
    run(small(constant, "training.steps=9"), tmp_path / "whole")
    assert ends_as(tmp_path / "parts", tmp_path / "whole")
    assert not any("learning rates" in sentence for sentence in watching.said)


def test_a_schedule_that_a_longer_run_changes_is_told(tmp_path):
    run(small("optimizer.schedule='cosine'"), tmp_path)
    watching = Listens()
    run(small("optimizer.schedule='cosine'", "training.steps=9"), tmp_path, observer=watching)
    assert "from here on, learning rates follow the schedule of 9 steps" in watching.said


def test_a_run_is_not_cut_below_the_steps_it_has_made(tmp_path):
    run(small(), tmp_path)
    with pytest.raises(
        CheckpointError, match=r"has more steps than training\.steps = 5: set .* 6 or"
    ):
        run(small("training.steps=5"), tmp_path)


def test_another_recipe_goes_on_where_it_is_insisted_upon(tmp_path):
    changed = small("optimizer.learning_rate=0.01", "training.steps=9")
    run(small(), tmp_path)
    asked = iter([False, True])
    with pytest.raises(Stopped):
        run(changed, tmp_path, allow_changes=True, stop=lambda: next(asked))
    assert load_recipe(tmp_path / RECIPE) == build(changed).recipe
    (change,) = provenance(tmp_path)["changes"]
    assert change["changed"][0] == "optimizer.learning_rate: 0.002 before, 0.01 now"
    # From now on it is that of the run, also where the newest checkpoint is of the one before.
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000008")
    watching = StopsAt(-1)
    run(changed, tmp_path, observer=watching)
    assert [report.step for report in watching.reports] == [8, 9]
    with pytest.raises(RunDirectoryError, match=r"learning_rate: 0\.01 before, 0\.002 now"):
        run(small("training.steps=9"), tmp_path)


def test_a_change_that_does_not_fit_leaves_the_run_as_it_was(tmp_path):
    run(small(), tmp_path)
    before = everything(tmp_path)
    with pytest.raises(CheckpointError, match=r"does not fit the networks of this recipe"):
        run(small("student.width=24"), tmp_path, allow_changes=True)
    assert everything(tmp_path) == before


def test_to_resume_is_to_insist_on_a_checkpoint(tmp_path):
    with pytest.raises(RunDirectoryError, match="has no checkpoint to resume from"):
        run(evaluated(), tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()
    run(evaluated(), tmp_path / "run")
    assert run(evaluated(), tmp_path / "run", resume=True) is not None


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(tmp_path):
    run(small(), tmp_path)
    for manifest in tmp_path.glob("checkpoints/*/manifest.json"):
        manifest.write_text("{")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole"):
        run(small(), tmp_path)


@pytest.mark.parametrize("restart", [False, True])
def test_a_foreign_folder_among_the_checkpoints_is_left_alone(tmp_path, restart):
    run(small(), tmp_path)
    (tmp_path / "checkpoints" / "best").mkdir()
    with pytest.raises(RunDirectoryError, match=r"not a run's \(checkpoints/best\)"):
        run(small(), tmp_path, restart=restart)
    assert (tmp_path / "checkpoints" / "best").is_dir()


def test_features_that_cannot_take_the_samples_are_told_before_training(tmp_path):
    recipe = small("evaluation.features=[{type='digits'}]")
    with pytest.raises(BuildError, match=r"digits reads images \(1, 8, 8\), found \(2,\)"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def said_by(recipe: Recipe, directory: Path) -> str:
    heard = Listens()
    run(recipe, directory, observer=heard)
    return "\n".join(heard.said)


def test_a_finished_run_says_that_nothing_was_trained_and_by_which_versions_it_was(tmp_path):
    assert "already finished" not in said_by(small(), tmp_path)
    again = said_by(small(), tmp_path)
    assert "already finished after step 6: no more training" in again
    assert "other versions" not in again
    manifest = json.loads((tmp_path / "provenance.json").read_text())
    manifest["components"][0] |= {"distribution": "acme-flow", "version": "0.0.9"}
    manifest["torch"] = "2.11.0"
    (tmp_path / "provenance.json").write_text(json.dumps(manifest))
    again = said_by(small(), tmp_path)
    assert (
        "this run started with other versions: acme-flow 0.0.9 (here None), torch 2.11.0 (here 2"
        in again
    )


@attrs.frozen
class Backwards:
    """A teacher with the other sign, or the other time."""

    sign: int = 1
    reverse: bool = False

    def build(self, context):
        exact = Gaussian([1.0, -2.0], 0.5)
        return VelocityField.of(
            lambda x, t, c: self.sign * exact(x, 1 - t if self.reverse else t, c), (2,)
        )


@pytest.mark.parametrize(
    ("table", "wrong"), [(Backwards(), False), (Backwards(-1), True), (Backwards(1, True), True)]
)
def test_a_teacher_that_points_the_other_way_is_told_before_training(tmp_path, table, wrong):
    said = said_by(attrs.evolve(small(), teacher=table), tmp_path)
    cause = "time ran the other way" if table.reverse else "sign were the opposite"
    assert (f"It would fit if its {cause}" in said) == wrong


@attrs.frozen
class Still:
    """A teacher that moves nothing, by float32's rounding."""

    def build(self, context):
        return VelocityField.of(lambda x, t, c: 1e-9 * x, (2,))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_an_evaluation_has_null_and_says_so_where_a_number_is_not_defined(tmp_path):
    said = said_by(attrs.evolve(evaluated(), teacher=Still()), tmp_path)
    assert "the teacher's velocity is almost zero" in said
    assert "evaluation.json has null for trajectory_error.0.125 and 7 more" in said

    def refuse(name):
        raise AssertionError(name)

    text = (tmp_path / "evaluation.json").read_text()
    found = json.loads(text, parse_constant=refuse)
    assert set(found["trajectory_error"].values()) == {None}
    assert read_records([tmp_path])[0].evaluation.trajectory_error == {}
    card = "\n".join(_results(found))
    assert "undefined at 1, where the teacher moves nothing" in card


@attrs.frozen
class Explodes:
    """A teacher whose flow leaves the numbers of float32."""

    def build(self, context):
        return VelocityField.of(lambda x, t, c: 1e4 * x, (2,))


def test_a_teacher_without_finite_samples_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(BuildError, match=r"\[teacher\] the teacher's samples are NaN or infinite"):
        run(attrs.evolve(small(), teacher=Explodes()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@attrs.frozen
class Nameless:
    """A teacher that nothing tells apart from another."""

    def build(self, context):
        exact = Gaussian([1.0, -2.0], SCALE)
        return VelocityField.of(lambda x, t, c: exact(x, t, c), (2,))


SCALE = 0.5


def test_the_statistics_of_a_teacher_that_cannot_be_recognised_are_not_used_again(
    tmp_path, monkeypatch
):
    recipe = attrs.evolve(evaluated(), teacher=Nameless())
    before = run(recipe, tmp_path)
    monkeypatch.setattr(f"{__name__}.SCALE", 1.5)
    assert "no parameters to identify it" in said_by(recipe, tmp_path)
    after = json.loads((tmp_path / "evaluation.json").read_text())["distances"]
    for name, each in before.distances.items():
        assert after[name]["euler"]["1"] != each.euler[1]
    assert "to identify it" not in said_by(evaluated(), tmp_path / "another")
    assert "to identify it" not in said_by(evaluated(), tmp_path / "another")


def test_features_are_named_once_each():
    recipe = small()
    twice = attrs.evolve(recipe.evaluation, features=2 * recipe.evaluation.features)
    with pytest.raises(BuildError, match="once each"):
        build(attrs.evolve(recipe, evaluation=twice))


def test_without_features_the_trajectory_error_is_all_that_is_measured(tmp_path):
    evaluation = run(evaluated("evaluation.features=[]"), tmp_path)
    assert evaluation is not None
    assert evaluation.distances == {}
    assert len(evaluation.trajectory_error) == 8
    assert (tmp_path / "samples.png").exists()


def test_a_component_of_another_role_is_refused():
    with pytest.raises(BuildError, match=r"\[teacher\] .* builds VsdCorrector, not a Teacher"):
        build(attrs.evolve(small(), teacher=load_recipe("digits.toml").corrector))


def test_more_threads_than_cores_are_refused(tmp_path):
    with pytest.raises(BuildError, match="threads is 100000"):
        run(small("training.threads=100000"), tmp_path)


def test_a_run_leaves_the_number_of_threads_as_it_was(tmp_path):
    before = torch.get_num_threads()
    run(small("training.threads=1"), tmp_path)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ["recipe.toml", "metrics.jsonl"])
def test_a_damaged_file_of_the_run_is_named(tmp_path, name):
    run(small(), tmp_path)
    (tmp_path / name).write_text("{no\n")
    with pytest.raises(RunDirectoryError, match=rf"{name} .*(cannot be read|is damaged)"):
        run(small(), tmp_path)


def test_a_guidance_interval_of_an_unguided_run_is_refused():
    recipe = load_recipe("digits.toml")
    corrector = attrs.evolve(recipe.corrector, guidance_interval=(0.3, 0.6))
    with pytest.raises(BuildError, match="guidance_interval, but the run is unguided"):
        build(attrs.evolve(recipe, corrector=corrector))


def test_a_reference_is_not_asked_for_where_nothing_is_evaluated():
    overrides = ["evaluation.enabled=false", "evaluation.reference=nowhere.safetensors"]
    assert build(load_recipe("digits.toml", overrides)).evaluator.reference is None


def test_of_several_averages_the_evaluation_names_the_student(tmp_path):
    averages = "training.ema_decay=[0.5, 0.0]"
    for chosen in ("none", "0.0"):
        run(evaluated(averages, f"evaluation.ema_decay={chosen}"), tmp_path / chosen)
    alone = {chosen: tmp_path / f"alone {chosen}" for chosen in ("0.5", "0.0")}
    for chosen, directory in alone.items():
        run(evaluated(f"training.ema_decay={chosen}"), directory)
    for name, same in (("none", "0.5"), ("0.0", "0.0")):
        found = load_file(tmp_path / name / "student.safetensors")
        expected = load_file(alone[same] / "student.safetensors")
        assert all(torch.equal(found[key], each) for key, each in expected.items())
        evaluation = (tmp_path / name / "evaluation.json").read_text()
        assert evaluation == (alone[same] / "evaluation.json").read_text()
    assert alone["0.5"].joinpath("evaluation.json").read_text() != evaluation


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.ema_decay=[0.9, 0.9]"], r"ema_decay: must be at least one, each named once"),
        (["training.ema_decay=[]"], r"ema_decay: must be at least one, each named once"),
        (
            ["evaluation.ema_decay=0.5"],
            r"ema_decay: must be 0.99, a decay of training.ema_decay, found 0.5",
        ),
    ],
)
def test_averages_that_there_are_not_are_refused(overrides, message):
    with pytest.raises(RecipeError, match=message):
        small(*overrides)


def test_results_of_an_earlier_student_do_not_stay_beside_a_later_one(tmp_path):
    run(evaluated(), tmp_path / "run")
    assert (tmp_path / "run" / "evaluation.json").exists()
    longer = small("training.steps=8")
    run(longer, tmp_path / "run")
    assert not (tmp_path / "run" / "evaluation.json").exists()
    assert not (tmp_path / "run" / "samples.png").exists()
