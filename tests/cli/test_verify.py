"""`ffd verify`, as a person meets it."""

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ffcore.cli import ExitCode, main
from ffcore.export import export
from ffcore.recipe import load_recipe
from ffcore.run.directory import RunDirectory
from ffcore.run.stages import run

DIGITS = ["training.steps=2", "training.batch=8", "evaluation.enabled=false"]
SHORT = ("-n", "12", "--fit-steps", "2", "--fit-samples", "16", "--solver", "heun", "--steps", "8")


def ffd(*arguments: str, command: str = "verify") -> Result:
    return CliRunner().invoke(main, [command, *arguments], prog_name="ffd")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run on digits."""
    place = tmp_path_factory.mktemp("runs") / "digits"
    run(load_recipe("digits.toml", DIGITS), place)
    return place


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run on an exact Gaussian."""
    place = tmp_path_factory.mktemp("runs") / "gaussian"
    run(load_recipe("gaussian.toml", ["training.steps=2", "evaluation.enabled=false"]), place)
    return place


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own."""
    monkeypatch.chdir(tmp_path)


def copy_of(run: Path) -> Path:
    """The same run, to be changed."""
    return Path(shutil.copytree(run, "copy"))


def test_a_run_is_verified_and_keeps_the_result(digits):
    place = copy_of(digits)
    found = ffd(str(place), *SHORT)
    assert found.exit_code == ExitCode.OK, found.output
    lines = found.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["δ", "trajectory", "10–90", "%", "identity", "10–90", "%"]
    text = " ".join(found.stdout.split())
    for said in (
        "r student's samples at least teacher's own at least",
        "Class accuracy in %, by the features digits",
        "Φ by heun, 8 steps; its own error about",
        "∂F/∂δ by forward mode",
        "16 samples of each, in 2 steps of batch 8, learning rate 0.001",
        "12, seed 0, γ 1, on cpu",
        "after step 2",
    ):
        assert said in text, said
    assert "…" not in found.stdout
    stored = json.loads((place / "verify.json").read_text())
    assert [float(delta) for delta in stored["trajectory"]] == [n / 8 for n in range(1, 9)]
    assert stored["noising"]["student"].keys() == stored["noising"]["control"].keys()
    assert sum(stored["classes"]["digits"]["asked"]) == 12
    assert (place / "verify.png").read_bytes()[:4] == b"\x89PNG"
    assert "fit, teacher 2/2 loss" in found.stderr
    # and the run goes on to know its directory
    assert ffd(str(place / "recipe.toml"), "-d", str(place), command="run").exit_code == 0
    assert (place / "verify.json").exists()


def test_a_result_is_replaced_and_does_not_outlive_its_student(vectors):
    place = copy_of(vectors)
    documents = []
    for steps in (2, 4):
        more = ("--set", f"training.steps={steps}")
        found = ffd(str(place / "recipe.toml"), "-d", str(place), *more, command="run")
        assert found.exit_code == 0, found.output
        assert not (place / "verify.json").exists()
        assert not (place / "verify.png").exists()
        found = ffd(str(place), "-n", "32", "--seed", str(steps), "--json")
        assert found.exit_code == ExitCode.OK, found.output
        documents.append(json.loads(found.stdout))
        assert documents[-1] == json.loads((place / "verify.json").read_text())
        assert (place / "verify.png").exists()
    students = [each["conditions"]["student"] for each in documents]
    assert [each["step"] for each in students] == [2, 4]
    assert students[0]["fingerprint"] != students[1]["fingerprint"]
    picture = (place / "verify.png").read_bytes()
    ffd(str(place), "-n", "32", "--seed", "9")
    assert json.loads((place / "verify.json").read_text())["conditions"]["seed"] == 9
    assert (place / "verify.png").read_bytes() != picture


def test_a_result_does_not_outlive_the_average_that_it_is_of():
    short = ["training.steps=2", "evaluation.enabled=false", "training.ema_decay=[0.9, 0.5]"]
    place = Path("run")
    for average, stays in ((0.9, False), (0.9, True), (0.5, False)):
        run(load_recipe("gaussian.toml", [*short, f"evaluation.ema_decay={average}"]), place)
        assert (place / "verify.json").exists() == stays
        (place / "verify.json").touch()


def test_an_exact_teacher_is_held_against_its_closed_form_and_needs_a_network_to_fit(vectors):
    without = ffd(str(vectors), "-n", "64", "--out", "a")
    assert without.exit_code == ExitCode.OK, without.output
    assert "closed form" in without.stdout.splitlines()[1]
    assert "Noising gap" not in without.stdout
    assert "--network" in without.stderr
    table = '{type = "mlp", width = 16}'
    few = ("--fit-steps", "3", "--fit-samples", "32")
    with_one = ffd(str(vectors), "-n", "64", "--out", "a", "--network", table, *few)
    assert "Noising gap" in with_one.stdout, with_one.output
    assert "--network" not in with_one.stderr
    assert json.loads(Path("a/verify.json").read_text())["conditions"]["fit"]["steps"] == 3


def test_an_export_is_verified_into_a_directory_of_its_own(digits):
    export(digits, Path("exported"))
    before = sorted(path.name for path in Path("exported").iterdir())
    found = ffd("exported", *SHORT, "--fit-steps", "0", "--out", "new/place")
    assert found.exit_code == ExitCode.OK, found.output
    assert sorted(path.name for path in Path("new/place").iterdir()) == [
        "verify.json",
        "verify.png",
    ]
    assert sorted(path.name for path in Path("exported").iterdir()) == before
    refused = ffd("exported", *SHORT)
    assert refused.exit_code == ExitCode.USAGE
    assert "--out DIR" in refused.stderr


def test_a_teacher_that_is_not_here_is_told_with_what_to_do(digits):
    export(digits, Path("exported"))
    recipe = Path("exported/recipe.toml")
    recipe.write_text(
        recipe.read_text().replace("ffcore_digits:teacher.safetensors", "t.safetensors")
    )
    found = ffd("exported", "--out", "a")
    assert found.exit_code == ExitCode.ENVIRONMENT
    assert "--set teacher.weights=PATH" in found.stderr
    given = ("--set", "teacher.weights=ffcore_digits:teacher.safetensors", "--fit-steps", "0")
    found = ffd("exported", "--out", "a", *SHORT, *given)
    assert found.exit_code == ExitCode.OK, found.output
    recipe.unlink()
    found = ffd("exported", "--out", "a")
    assert found.exit_code == ExitCode.USAGE
    assert "has no recipe.toml beside it to name its teacher" in found.stderr


def test_another_teacher_is_refused(vectors):
    found = ffd(str(vectors), "--out", "a", "--set", "teacher.scale=0.6")
    assert found.exit_code == ExitCode.USAGE
    assert "was distilled from another teacher" in found.stderr
    assert not Path("a/verify.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["gone"], ExitCode.USAGE, "gone"),
        (["gaussian.toml"], ExitCode.USAGE, "is a recipe, and has no student"),
        (["."], ExitCode.USAGE, "is neither a run directory nor an export"),
        (["begun"], ExitCode.USAGE, "has no student yet"),
        (["RUN", "--guidance", "2"], ExitCode.USAGE, "trained for scale 1 only"),
        (["RUN", "--set", "student.width=3"], ExitCode.USAGE, "only keys of the teacher"),
        (["RUN", "--set", "teacher"], ExitCode.USAGE, "--set teacher:"),
        (["RUN", "--network", "mlq"], ExitCode.PLUGIN, "did you mean 'mlp'?"),
        (["RUN", "--network", "{no"], ExitCode.USAGE, "--network {no is not a TOML table"),
        (["RUN", "--steps", "64"], ExitCode.USAGE, "dopri5 chooses its own steps"),
        (
            ["RUN", "--solver", "heun", "--tolerance", "1"],
            ExitCode.USAGE,
            "--tolerance is for dopri5",
        ),
        (["RUN", "--device", "x"], ExitCode.USAGE, "device 'x' cannot be used"),
        (["RUN", "--out", "begun"], ExitCode.USAGE, "the directory of another run or an export"),
        (["RUN", "--out", "file"], ExitCode.USAGE, "is a file"),
    ],
)
def test_what_cannot_be_is_told(vectors, arguments, code, said):
    Path("begun").mkdir()
    shutil.copy(vectors / "recipe.toml", "begun")
    shutil.copy(vectors / "provenance.json", "begun")
    Path("file").touch()
    found = ffd(*(each.replace("RUN", str(vectors)) for each in arguments))
    assert found.exit_code == code, found.output
    assert said in found.stderr
    assert not (vectors / "verify.json").exists()


def test_a_run_that_is_being_trained_is_left_alone(vectors):
    with RunDirectory(vectors).alone():
        found = ffd(str(vectors), "-n", "16")
    assert found.exit_code == ExitCode.USAGE
    assert "in use by another process" in found.stderr


def test_torchrun_is_refused(vectors, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = ffd(str(vectors))
    assert found.exit_code == ExitCode.USAGE
    assert "one process" in found.stderr


def test_more_threads_than_there_are_cpus_are_refused(vectors: Path) -> None:
    place = copy_of(vectors)
    text = (place / "recipe.toml").read_text()
    (place / "recipe.toml").write_text(re.sub(r"(?m)^threads = .*$", "threads = 100000", text))
    found = ffd(str(place))
    assert found.exit_code == ExitCode.USAGE, found.output
    assert "[training] threads is 100000" in found.stderr
    assert not (place / "verify.json").exists()
