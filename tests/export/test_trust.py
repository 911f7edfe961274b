"""Files are data: what the names in a run directory, an export or a student file may import.

Every file of a stranger here names `attack:…`, a module that leaves a mark when it is imported.
"""

import json
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import CliRunner

from ffcore.cli import main
from ffcore.cli.exit_codes import ExitCode
from ffcore.evaluate.evaluator import evaluate_again
from ffcore.export import (
    DESCRIPTION,
    RECIPE,
    STUDENT,
    SourceError,
    export,
    load_student,
    open_student,
)
from ffcore.export.model_card import _as_text
from ffcore.plugins import Registry, installed
from ffcore.recipe import RecipeError, load_recipe, load_stored
from ffcore.recipe.trust import trusting
from ffcore.run.directory import RunDirectory
from ffcore.run.stages import run
from ffcore.sample.load import load_sampler, load_teacher_sampler
from ffcore.system.distributed import LostProcess, process_count
from ffcore.system.faults import OutOfMemory
from ffcore.system.weights import WeightsError, read_weights, write_weights
from ffcore.verify import open_subject

RECIPE_TEXT = """
[teacher]
type = "gaussian"
mean = [1.0, -2.0]
scale = 0.5
[student]
type = "{student}"
[predictor]
type = "freeflow"
[training]
steps = 2
batch = 8
ema_decay = 0.5
[evaluation]
enabled = false
samples = 16
euler = [1, 2]
previews = 0
solver = {{ steps = 2 }}
features = [{{ type = "raw" }}]
"""
MINE = """
import attrs
from ffcore import Student
from ffcore_mlp.student import MlpAverageVelocity

@attrs.frozen
class Table:
    width: int = 4
    def build(self, context):
        return MlpAverageVelocity(2, 0, self.width, 1)
"""
ATTACK = """
from pathlib import Path
Path("attacked").touch()
""" + MINE.replace("class Table", "class Thing")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the modules `mine` and `attack`, and an empty record of runs."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "attack.py").write_text(ATTACK)
    yield tmp_path
    for name in ("mine", "attack"):
        sys.modules.pop(name, None)


def trained(student: str = "mlp", out: str = "run") -> Path:
    recipe = Path("own.toml")
    recipe.write_text(RECIPE_TEXT.format(student=student))
    run(load_recipe(recipe), Path(out))
    return Path(out)


def edit_recipe(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    tree = tomllib.loads((directory / RECIPE).read_text())
    edit(tree)
    (directory / RECIPE).write_text(tomli_w.dumps(tree))


def edit_student(path: Path, **changes: Any) -> None:
    found = read_weights(str(path))
    write_weights(path, found.tensors, {**found.config, **changes})


THING = {"type": "attack:Thing"}
THING_WITHIN = {
    "type": "converted",
    "network": "attack:Thing",
    "prediction": "noise",
    "path": "vp",
    "time": "index",
    "schedule": "linear",
    "sample_shape": [2],
}
TABLES: dict[str, Callable[[dict[str, Any]], object]] = {
    "teacher": lambda tree: tree.update(teacher=THING),
    "student": lambda tree: tree.update(student=THING),
    "predictor": lambda tree: tree.update(predictor=THING),
    "corrector": lambda tree: tree.update(corrector=THING),
    "a network within the corrector": lambda tree: tree.update(
        corrector={"type": "vsd", "online": THING}
    ),
    "balancer": lambda tree: tree.update(balancer=THING),
    "conditions": lambda tree: tree.update(conditions=THING),
    "data": lambda tree: tree.update(data=THING),
    "decoder": lambda tree: tree.update(decoder=THING),
    "features": lambda tree: tree["evaluation"].update(features=[{"type": "raw"}, THING]),
    "a tracker": lambda tree: tree.update(trackers=[THING]),
    "a function of a converted teacher": lambda tree: tree.update(teacher=THING_WITHIN),
    "a converted teacher within the student": lambda tree: tree.update(
        student={"type": "copy", "teacher": THING_WITHIN}
    ),
}
OPENERS: dict[str, Callable[..., object]] = {
    "evaluate": lambda source, **more: evaluate_again(source, **more),
    "verify": lambda source, **more: open_subject(source, **more),
    "sample --teacher": lambda source, **more: load_teacher_sampler(source, **more),
    "export": lambda source, **more: export(source, Path("out"), **more),
}


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(RecipeError) as caught:
        call()
    assert not Path("attacked").exists(), "the code of a file has run"
    return str(caught.value)


@pytest.mark.parametrize("table", TABLES)
def test_a_recipe_that_arrived_imports_nothing(folder: Path, table: str) -> None:
    directory = trained()
    edit_recipe(directory, TABLES[table])
    for opener in OPENERS.values():
        message = refused(lambda opener=opener: opener(directory))  # type: ignore[misc]
        assert "'attack:Thing', which is not of an installed plugin" in message
        assert f"it would run {folder / 'attack.py'}" in message
        assert "--trust (in Python, trust=True)" in message


@pytest.mark.parametrize("part", ["student", "decoder", "conditions"])
@pytest.mark.parametrize("what", ["run", "export", "student file"])
def test_a_student_file_that_arrived_imports_nothing(folder: Path, part: str, what: str) -> None:
    directory = trained()
    if what == "export":
        export(directory, Path("exported"))
        directory = Path("exported")
    edit_student(directory / STUDENT, **{part: THING})
    source = directory
    if what == "export":
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | {part: THING}))
    elif what == "student file":
        source = Path(shutil.copy(directory / STUDENT, "alone.safetensors"))
    message = refused(lambda: load_sampler(source))
    assert "'attack:Thing', which is not of an installed plugin" in message
    if part != "decoder":
        refused(lambda: load_student(source))


def test_a_checkpoint_that_arrived_imports_nothing(folder: Path) -> None:
    directory = trained()
    description = json.loads((directory / DESCRIPTION).read_text())
    (directory / DESCRIPTION).write_text(json.dumps(description | {"student": THING}))
    (directory / STUDENT).unlink()
    assert "'attack:Thing'" in refused(lambda: load_student(directory))
    (newest,) = (directory / "checkpoints").glob("step-*")
    assert "'attack:Thing'" in refused(lambda: load_student(newest))


@pytest.mark.parametrize("command", ["sample", "evaluate", "verify", "export"])
def test_the_command_line_refuses_and_trusts(folder: Path, command: str) -> None:
    directory = trained("mine:Table")
    sys.modules.pop("mine")
    shutil.rmtree("state")
    more = {"export": ["-o", "out"], "sample": ["-n", "2", "-o", "out.npz"]}.get(command, [])
    more += ["-n", "16", "--fit-steps", "2"] if command == "verify" else []
    found = CliRunner().invoke(main, [command, str(directory), *more])
    assert found.exit_code == ExitCode.PLUGIN, found.output
    assert "'mine:Table', which is not of an installed plugin" in found.output
    assert "mine" not in sys.modules
    found = CliRunner().invoke(main, [command, str(directory), *more, "--trust"])
    assert found.exit_code == 0, found.output


def test_this_users_runs_are_known_wherever_they_lie(folder: Path) -> None:
    directory = trained("mine:Table")
    load_student(directory)
    load_student(shutil.move(directory, "moved"))
    export(Path("moved"), Path("exported"))
    load_sampler("exported")


def test_a_run_with_another_recipe_is_not_known(folder: Path) -> None:
    directory = trained("mine:Table")
    edit_recipe(directory, lambda tree: tree["training"].update(seed=1))
    assert "'mine:Table'" in refused(lambda: load_student(directory))
    load_student(directory, trust=True)


def test_another_class_is_not_known_beside_a_known_recipe(folder: Path) -> None:
    directory = trained("mine:Table")
    edit_student(directory / STUDENT, student=THING)
    assert "'attack:Thing'" in refused(lambda: load_student(directory))


def test_the_same_name_from_another_folder_is_not_known(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = trained("mine:Table").absolute()
    sys.modules.pop("mine")
    (folder / "theirs").mkdir()
    (folder / "theirs" / "mine.py").write_text(ATTACK)
    monkeypatch.chdir(folder / "theirs")
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(folder)])
    message = refused(lambda: load_student(directory))
    assert f"it would run {folder / 'theirs' / 'mine.py'}. Your run used {folder / 'mine.py'}" in (
        message
    )


def test_what_the_user_names_beside_a_file_is_trusted(folder: Path) -> None:
    directory = trained()
    load_sampler(directory, overrides=["decoder.type='identity'"])
    found = load_recipe(
        directory / RECIPE,
        ["student={type='mine:Table'}"],
        registry=Registry(plugins=installed().plugins, file="a file"),
    )
    assert type(found.student).__name__ == "Table"
    assert trusting(installed(), {"type": "mine:Table"}) is installed()


def test_weights_of_an_earlier_student_import_nothing(folder: Path) -> None:
    directory = trained()
    edit_student(directory / STUDENT, student=THING)
    edit_recipe(directory, TABLES["teacher"])
    recipe = load_recipe("own.toml", [f"student.weights='{directory}'"])
    run(recipe, Path("next"))
    assert not Path("attacked").exists()


def test_a_run_does_not_continue_in_a_directory_that_names_other_code(folder: Path) -> None:
    directory = trained()
    edit_recipe(directory, TABLES["predictor"])
    found = CliRunner().invoke(main, ["run", "own.toml", "-d", str(directory)])
    assert found.exit_code == 2
    assert "predictor.type: 'attack:Thing' before, 'freeflow' now" in found.output
    assert not Path("attacked").exists()


def test_a_report_imports_nothing(folder: Path) -> None:
    directory = trained()
    edit_recipe(directory, TABLES["student"])
    edit_student(directory / STUDENT, student=THING)
    CliRunner().invoke(main, ["report", str(directory)])
    assert not Path("attacked").exists()


def test_a_file_of_a_package_is_found_without_its_code(folder: Path) -> None:
    package = folder / "attack_package"
    package.mkdir()
    (package / "__init__.py").write_text(ATTACK)
    shutil.copy(trained() / STUDENT, package / "weights.safetensors")
    sys.path.append(str(folder))
    assert read_weights("attack_package:weights.safetensors").config
    assert not Path("attacked").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config | {"step": 7}, "differs from what"),
        (lambda config: {}, "differs from what"),
        (lambda config: [1], "differs from what"),
        (None, "is damaged"),
    ],
)
def test_the_config_of_an_export_must_be_that_of_its_student(
    folder: Path, change: Callable[[Any], Any] | None, message: str
) -> None:
    export(trained(), Path("exported"))
    config = Path("exported/config.json")
    load_sampler("exported")
    text = "{" if change is None else json.dumps(change(json.loads(config.read_text())))
    config.write_text(text)
    with pytest.raises(WeightsError, match=message):
        open_student("exported")


def test_a_home_that_cannot_be_written_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "file"))
    directory = trained("mine:Table")
    assert "commands on this run's directory will need --trust" in caplog.text
    assert "'mine:Table'" in refused(lambda: load_student(directory))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"code": 3}', '{"code": {"mine:Table": 1}}'])
def test_a_damaged_record_trusts_nothing(folder: Path, content: str) -> None:
    directory = trained("mine:Table")
    (record,) = Path("state/ffcore/runs").iterdir()
    record.write_text(content)
    assert "'mine:Table'" in refused(lambda: load_student(directory))


def test_a_damaged_recipe_is_reported(folder: Path) -> None:
    directory = trained()
    (directory / RECIPE).write_text("training = 3")
    with pytest.raises(SourceError, match=r"recipe\.toml is damaged"):
        load_student(directory)


FUNCTIONS = """
from pathlib import Path
import torch

Path("attacked").touch()

def network():
    return torch.nn.Linear(2, 2)

def call(network, x, time, condition):
    return network(x)

def time(t):
    return t
"""
CONVERTED = {
    "type": "converted",
    "network": "attack:network",
    "call": "attack:call",
    "prediction": "velocity-to-data",
    "path": "linear",
    "time": "noise-at-0",
    "sample_shape": [2],
}


def trained_by_functions() -> Path:
    Path("attack.py").write_text(FUNCTIONS)
    tree = tomllib.loads(RECIPE_TEXT.format(student="mlp")) | {"teacher": CONVERTED}
    Path("own.toml").write_text(tomli_w.dumps(tree))
    run(load_recipe("own.toml"), Path("run"))
    sys.modules.pop("attack")
    Path("attacked").unlink()
    return Path("run")


@pytest.mark.parametrize("key", ["network", "call", "time"])
def test_a_function_that_a_recipe_names_is_code_too(folder: Path, key: str) -> None:
    (folder / "attack.py").write_text(FUNCTIONS)
    harmless = CONVERTED | {"network": "torch.nn:Identity", "call": "none"}
    directory = trained()
    edit_recipe(directory, lambda tree: tree.update(teacher=harmless | {key: f"attack:{key}"}))
    for opener in OPENERS.values():
        message = refused(lambda opener=opener: opener(directory))  # type: ignore[misc]
        assert f"names {key} 'attack:{key}', which is not of" in message
        assert "use --trust" in message


def test_the_functions_of_this_users_runs_are_known(folder: Path) -> None:
    directory = trained_by_functions()
    load_teacher_sampler(directory)
    shutil.rmtree("state")
    Path("attacked").unlink()
    sys.modules.pop("attack")
    assert "'attack:network'" in refused(lambda: load_teacher_sampler(directory))
    load_teacher_sampler(directory, trust=True)


def test_a_function_that_the_user_names_beside_a_file_is_trusted(folder: Path) -> None:
    directory = trained_by_functions()
    shutil.rmtree("state")
    named = [f"teacher.{key}='attack:{key}'" for key in ("network", "call")]
    load_teacher_sampler(directory, overrides=named)
    assert Path("attacked").exists()


ADDRESS = "hf://org/repo/file.safetensors"


@pytest.mark.parametrize("table", ["conditions", "reference"])
def test_a_file_that_arrived_downloads_nothing(
    folder: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*args: object, **kwargs: object) -> None:
        Path("attacked").touch()

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    directory = trained()
    if table == "conditions":
        edit_student(directory / STUDENT, conditions={"type": "named", "file": ADDRESS})
        message = refused(lambda: load_sampler(directory))
    else:
        edit_recipe(directory, lambda tree: tree["evaluation"].update(reference=ADDRESS))
        message = refused(lambda: evaluate_again(directory))
    assert f"{ADDRESS!r}, which would be downloaded. If you want that, use --trust" in message


def test_the_downloads_of_this_users_runs_are_known(folder: Path) -> None:
    recipe = load_recipe(trained() / RECIPE, [f"evaluation.reference='{ADDRESS}'"])
    Path("next").mkdir()
    RunDirectory(Path("next")).prepare(recipe, "cpu", restart=False)
    assert load_stored(Path("next") / RECIPE).evaluation.reference == ADDRESS
    shutil.rmtree("state")
    assert ADDRESS in refused(lambda: load_stored(Path("next") / RECIPE))


def test_a_name_in_a_file_cannot_steer_the_terminal(folder: Path) -> None:
    directory = trained()
    edit_student(directory / STUDENT, student={"type": "\x1b]0;title\x07attack:Thing"})
    found = CliRunner().invoke(main, ["sample", str(directory), "-o", "out.npz"])
    assert found.exit_code == ExitCode.PLUGIN
    assert "\\x1b]0;title\\x07attack" in found.output
    assert not {"\x1b", "\x07"} & set(found.output)


DEEP = "[" * 200_000


def test_json_that_is_nested_too_deeply_is_damaged(folder: Path) -> None:
    export(trained(), Path("exported"))
    Path("exported/config.json").write_text(DEEP)
    with pytest.raises(WeightsError, match="nested too deeply"):
        open_student("exported")


def test_a_description_that_asks_for_too_much_memory_is_reported(folder: Path) -> None:
    directory = trained()
    sizes = {"type": "mlp", "width": 10_000_000, "depth": 2}
    edit_student(directory / STUDENT, student=sizes)
    with pytest.raises(OutOfMemory, match="Check the sizes in the description"):
        load_student(directory)


def test_a_link_in_place_of_unfinished_samples_is_refused(folder: Path) -> None:
    directory = trained()
    (folder / "theirs").mkdir()
    (folder / "theirs" / "file").write_text("precious")
    (folder / ".out.npz.partial").symlink_to(folder / "theirs")
    found = CliRunner().invoke(main, ["sample", str(directory), "-n", "2", "-o", "out.npz"])
    assert found.exit_code == ExitCode.USAGE, found.output
    assert "remove the link" in found.output
    assert (folder / "theirs" / "file").read_text() == "precious"


def test_a_model_card_shows_markdown_of_a_file_as_text(folder: Path) -> None:
    shown = _as_text("a <script> [link](x) ![b](y) `c` | *d*\n# heading")
    assert shown == r"a \<script\> \[link\](x) \!\[b\](y) \`c\` \| \*d\* # heading"


@pytest.mark.parametrize("variables", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "x", "RANK": "0"}])
def test_a_part_of_the_variables_of_torchrun_is_reported(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LostProcess, match="start the processes with torchrun"):
        process_count()
