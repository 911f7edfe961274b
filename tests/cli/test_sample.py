"""`ffd sample`, as a person meets it."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ffcore.cli import ExitCode, main
from ffcore.flow.solver import Solver
from ffcore.recipe import load_recipe
from ffcore.run.stages import run
from ffcore.sample.load import load_sampler

TINY = ["training.steps=2", "training.batch=8", "evaluation.enabled=false"]


def ffd(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["sample", *arguments], prog_name="ffd")


HELD = Path(__file__).parents[1] / "fakes" / "held.py"


def arrays(name: str) -> np.ndarray:
    with np.load(name) as file:
        assert file.files == ["arr_0"]
        found: np.ndarray = file["arr_0"]
    return found


def left() -> set[str]:
    return {path.name for path in Path().iterdir()}


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a finished run over the scales from 1 to 4."""
    place = tmp_path_factory.mktemp("runs") / "guided"
    run(load_recipe("digits_guided.toml", TINY), place)
    return str(place)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own."""
    monkeypatch.chdir(tmp_path)


def test_a_student_is_sampled_into_one_picture_unless_told_otherwise(finished):
    found = ffd(finished)
    assert found.exit_code == ExitCode.OK, found.output
    assert found.stdout == "samples.png: 16 images of 1 × 8 × 8, student, 1 NFE\n"
    assert re.search(r"^sample 16/16 \d+\.\d/s$", found.stderr, re.MULTILINE)
    assert left() == {"samples.png", "samples.png.json"}
    with Image.open("samples.png") as picture:
        assert picture.size == (4 * 66 + 2, 4 * 66 + 2)


def test_a_students_file_is_a_source_like_its_run(finished):
    assert ffd(finished, "-o", "a.npz").exit_code == ExitCode.OK
    assert ffd(f"{finished}/student.safetensors", "-o", "b.npz").exit_code == ExitCode.OK
    assert Path("a.npz").read_bytes() == Path("b.npz").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        ([], "balanced"),
        (["--labels", "random"], "random"),
        (["--labels", "3,1"], [3, 1]),
        (["--labels", "7"], [7]),
    ],
)
def test_json_is_one_document_with_the_conditions(finished, arguments, labels):
    found = ffd(finished, "-n", "5", "--seed", "3", "-o", "a.npz", "--json", *arguments)
    assert found.exit_code == ExitCode.OK, found.output
    document = json.loads(found.stdout)
    assert document.keys() == {"schema", "out", "seconds", "conditions"}
    assert (document["schema"], document["out"]) == (1, "a.npz")
    assert document["seconds"] > 0
    conditions = document["conditions"]
    record = json.loads(Path("a.npz.json").read_text())
    assert len(record.pop("label_of_each")) == 5
    assert conditions == record
    assert (conditions["number"], conditions["seed"], conditions["nfe"]) == (5, 3, 1)
    assert conditions["labels"] == labels
    assert arrays("a.npz").shape == (5, 8, 8, 1)


def test_a_folder_and_overwriting_it(finished):
    assert ffd(finished, "-n", "3", "-o", "images").exit_code == ExitCode.OK
    assert len(list(Path("images").glob("*.png"))) == 3
    again = ffd(finished, "-n", "2", "-o", "images")
    assert again.exit_code == ExitCode.USAGE
    assert again.stderr.endswith("\nimages exists: choose another path, or use --overwrite\n")
    assert ffd(finished, "-n", "2", "-o", "images", "--overwrite").exit_code == ExitCode.OK
    assert len(list(Path("images").glob("*.png"))) == 2
    assert left() == {"images"}


@pytest.mark.parametrize(
    ("arguments", "solver", "interval"),
    [
        (["--steps", "3"], Solver("heun", 3), None),
        (["--solver", "euler", "--steps", "5"], Solver("euler", 5), None),
        (["--solver", "rk4", "--steps", "2"], Solver("rk4", 2), None),
        (["--steps", "2", "--guidance", "2"], Solver("heun", 2), (0.0, 1.0)),
        (["--set", "evaluation.solver.steps=2"], Solver("heun", 2), None),
    ],
)
def test_a_teacher_is_sampled_by_the_solver_that_is_asked_for(arguments, solver, interval):
    found = ffd("digits.toml", "--teacher", "-n", "2", "-o", "a.npz", *arguments)
    assert found.exit_code == ExitCode.OK, found.output
    record = json.loads(Path("a.npz.json").read_text())
    assert record["kind"] == "teacher"
    assert (record["solver"]["method"], record["solver"]["steps"]) == (solver.method, solver.steps)
    assert record["nfe"] == solver.nfe(interval)
    assert f"teacher, {record['nfe']} NFE" in found.stdout


def test_the_teacher_of_a_run_is_the_teacher_of_its_recipe(finished):
    for source, name in ((finished, "a.npz"), ("digits.toml", "b.npz")):
        found = ffd(source, "--teacher", "--steps", "2", "-n", "4", "-o", name)
        assert found.exit_code == ExitCode.OK, found.output
    assert Path("a.npz").read_bytes() == Path("b.npz").read_bytes()
    assert ffd(finished, "-n", "4", "-o", "c.npz").exit_code == ExitCode.OK
    assert Path("a.npz").read_bytes() != Path("c.npz").read_bytes()


def test_an_adaptive_solvers_nfe_are_as_many_as_it_takes():
    overrides = ("--solver", "dopri5", "--set", "evaluation.solver.tolerance=1e-2")
    found = ffd("gaussian.toml", "--teacher", "-n", "2", "-o", "a.npz", *overrides)
    assert "adaptive NFE" in found.stdout, found.output
    assert json.loads(Path("a.npz.json").read_text())["nfe"] is None


def test_an_adaptive_solver_that_does_not_arrive_fails_with_a_message():
    overrides = ("--solver", "dopri5", "--set", "evaluation.solver.tolerance=1e-30")
    found = ffd("gaussian.toml", "--teacher", "-n", "2", "-o", "a.npz", *overrides)
    assert found.exit_code == ExitCode.FAILED
    assert isinstance(found.exception, SystemExit), found.exception
    assert "use a larger tolerance" in found.stderr
    assert not Path("a.npz").exists()


def test_vectors_are_kept_as_numbers():
    found = ffd("gaussian.toml", "--teacher", "--steps", "2", "-n", "5", "-o", "a.npz")
    assert found.stdout == "a.npz: 5 samples of 2, teacher, 4 NFE\n", found.output
    assert (arrays("a.npz").dtype, arrays("a.npz").shape) == (np.float32, (5, 2))


def test_a_student_of_a_range_is_sampled_at_its_scales_and_no_others(guided):
    record = {}
    for asked in ("1", "2", "4"):
        found = ffd(guided, "-n", "4", "-o", f"{asked}.npz", "--guidance", asked)
        assert found.exit_code == ExitCode.OK, found.output
        record[asked] = json.loads(Path(f"{asked}.npz.json").read_text())["guidance"]["scale"]
    assert record == {"1": 1.0, "2": 2.0, "4": 4.0}
    assert ffd(guided, "-n", "4", "-o", "unsaid.npz").exit_code == ExitCode.OK
    assert Path("unsaid.npz").read_bytes() == Path("2.npz").read_bytes()
    found = ffd(guided, "--guidance", "4.5")
    assert found.exit_code == ExitCode.USAGE
    assert "trained for scales from 1 to 4, found 4.5" in found.stderr


def test_a_student_that_starts_anywhere_is_sampled_in_steps(tmp_path):
    run(load_recipe("gaussian.toml", [*TINY, "student.starts_at=anywhere"]), tmp_path / "run")
    for steps in ("1", "2"):
        found = ffd("run", "-n", "3", "--steps", steps, "-o", f"{steps}.npz")
        assert found.stdout == f"{steps}.npz: 3 samples of 2, student, {steps} NFE\n"
        assert json.loads(Path(f"{steps}.npz.json").read_text())["steps"] == int(steps)
    expected = load_sampler(tmp_path / "run")(3, steps=2).numpy()
    assert np.array_equal(arrays("2.npz"), expected)
    assert not np.array_equal(arrays("1.npz"), expected)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["digits.toml"], ExitCode.USAGE, "is a recipe, and has no student"),
        (["RUN", "--steps", "4"], ExitCode.USAGE, "this student starts only at the prior"),
        (["RUN", "--solver", "heun"], ExitCode.USAGE, "--solver needs --teacher"),
        (["nowhere"], ExitCode.USAGE, "nowhere"),
        (["nowhere.toml", "--teacher"], ExitCode.USAGE, "nowhere.toml"),
        (["empty"], ExitCode.USAGE, "neither a run directory nor an export"),
        (["empty", "--teacher"], ExitCode.USAGE, "is not a run directory"),
        (["damaged.safetensors"], ExitCode.USAGE, "damaged.safetensors"),
        (["RUN/student.safetensors", "--teacher"], ExitCode.USAGE, "without its teacher"),
        (["RUN", "-o", "notes"], ExitCode.USAGE, "notes exists"),
        (["RUN", "-o", "notes", "--overwrite"], ExitCode.USAGE, "notes is a file"),
        (["RUN", "-o", "empty.npz", "--overwrite"], ExitCode.USAGE, "empty.npz is not a file"),
        (["RUN", "-o", "notes/a.npz"], ExitCode.ENVIRONMENT, "notes"),
        (["RUN", "-o", "a.jpg"], ExitCode.USAGE, "not as .jpg"),
        (["RUN", "-o", "RUN/a.npz"], ExitCode.USAGE, "the directory of a run or an export"),
        (["RUN", "-n", "401"], ExitCode.USAGE, "at most 400 images"),
        (["RUN", "-n", "0"], ExitCode.USAGE, "--number"),
        (["RUN", "--batch", "257"], ExitCode.USAGE, "--batch"),
        (["RUN", "--seed", "-1"], ExitCode.USAGE, "--seed"),
        (["RUN", "--labels", "0,10"], ExitCode.USAGE, "from 0 to 9, found 10"),
        (["RUN", "--labels", "randm"], ExitCode.USAGE, "did you mean 'random'"),
        (["RUN", "--guidance", "2"], ExitCode.USAGE, "trained for scale 1 only"),
        (["RUN", "--guidance", "nan"], ExitCode.USAGE, "must be finite, found nan"),
        (["digits.toml", "--teacher", "--guidance", "1e39"], ExitCode.USAGE, "found 1e+39"),
        (["RUN", "--device", "cuda:7"], ExitCode.USAGE, "device 'cuda:7' cannot be used"),
        (["RUN", "--set", "training.steps=3"], ExitCode.USAGE, "only keys of its decoder"),
        (["gaussian.toml", "--teacher"], ExitCode.USAGE, "vectors of 2 numbers, not images"),
        (["gaussian.toml", "--teacher", "--guidance", "2"], ExitCode.USAGE, "cannot be guided"),
        (["digits.toml", "--teacher", "--guidance", "nan"], ExitCode.USAGE, "finite"),
        (
            ["digits.toml", "--teacher", "--solver", "dopri5", "--steps", "4"],
            ExitCode.USAGE,
            "dopri5 chooses its own",
        ),
        (["digits.toml", "--teacher", "--set", "teacher.x=1"], ExitCode.USAGE, "'x'"),
        (
            ["digits.toml", "--teacher", "--set", "teacher.weights='gone.safetensors'"],
            ExitCode.ENVIRONMENT,
            "gone.safetensors",
        ),
    ],
)
def test_bad_input_gets_one_message_and_leaves_nothing(finished, arguments, code, said):
    Path("notes").write_text("mine")
    Path("damaged.safetensors").write_bytes(b"not a safetensors file")
    Path("empty").mkdir()
    Path("empty.npz").mkdir()
    before = left(), {path.name for path in Path(finished).iterdir()}
    found = ffd(*(each.replace("RUN", finished) for each in arguments))
    assert found.exit_code == code, found.output
    assert isinstance(found.exception, SystemExit), found.exception
    assert said in " ".join(found.stderr.split())
    assert found.stdout == ""
    assert (left(), {path.name for path in Path(finished).iterdir()}) == before


def test_an_interrupted_sampling_under_other_conditions_is_refused(finished):
    Path(".a.npz.partial").mkdir()
    found = ffd(finished, "-n", "4", "-o", "whole.npz", "--json")
    conditions = json.loads(found.stdout)["conditions"]
    there = Path(".a.npz.partial", "conditions.json")
    there.write_text(json.dumps({**conditions, "seed": 5}))
    np.save(Path(".a.npz.partial", "000000.npy"), np.zeros((4, 8, 8, 1), np.uint8))
    refused = ffd(finished, "-n", "4", "-o", "a.npz")
    assert refused.exit_code == ExitCode.USAGE
    assert "seed: 5 there, 0 here" in refused.stderr
    assert there.exists()
    assert ffd(finished, "-n", "4", "-o", "a.npz", "--overwrite").exit_code == ExitCode.OK
    assert Path("a.npz").read_bytes() == Path("whole.npz").read_bytes()


def test_a_sampling_that_left_no_sample_keeps_no_place(finished):
    Path(".a.npz.partial").mkdir()
    Path(".a.npz.partial", "conditions.json").write_text('{"seed": 5}')
    assert ffd(finished, "-n", "4", "-o", "a.npz").exit_code == ExitCode.OK
    assert left() == {"a.npz", "a.npz.json"}


NUMBER = 1100
LONG = ("-n", str(NUMBER), "-o", "long.npz", "--batch", "32")


@pytest.fixture(scope="module")
def long(finished, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a long sampling that nobody interrupted."""
    place = tmp_path_factory.mktemp("long") / "long.npz"
    assert ffd(finished, *LONG[:2], "-o", str(place), *LONG[4:]).exit_code == ExitCode.OK
    return place.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_sampling_that_a_signal_ended_goes_on(finished, long, number):
    there = Path(".long.npz.partial", "000001.npy")
    command = [sys.executable, str(HELD), str(there), "sample", finished, *LONG]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        while not there.exists():
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(number)
        assert running.stderr is not None
        said = running.stderr.read()
    if number == signal.SIGKILL:
        assert running.returncode == -signal.SIGKILL
    else:
        assert running.returncode == ExitCode.TERMINATED
        assert re.search(
            rf"stopped after \d+ of {NUMBER} samples; the same command resumes it", said
        )
    assert left() == {".long.npz.partial"}
    again = ffd(finished, *LONG)
    assert again.exit_code == ExitCode.OK, again.output
    going_on = re.search(rf"resuming after (\d+) of {NUMBER} samples", again.stderr)
    assert going_on is not None
    assert 512 <= int(going_on[1]) < NUMBER
    assert Path("long.npz").read_bytes() == long
    assert left() == {"long.npz", "long.npz.json"}


def test_two_processes_make_the_file_that_one_makes(finished):
    asked = ("-n", "600", "--labels", "random", "--seed", "2")
    assert ffd(finished, *asked, "-o", "one.npz").exit_code == ExitCode.OK
    found = forked.ffd("sample", finished, *asked, "-o", "two.npz", ranks=2)
    assert found.codes == [ExitCode.OK, ExitCode.OK], found.stderr
    assert found.stdout == "two.npz: 600 images of 1 × 8 × 8, student, 1 NFE\n"
    assert Path("one.npz").read_bytes() == Path("two.npz").read_bytes()
    assert left() == {"one.npz", "one.npz.json", "two.npz", "two.npz.json"}
