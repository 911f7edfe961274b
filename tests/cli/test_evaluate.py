"""`ffd evaluate`, as a person meets it."""

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
import random_inception
import torch
from click.testing import CliRunner, Result
from inputs import Stream
from small_runs import small

from ffcore.cli import ExitCode, main
from ffcore.evaluate.metrics import Moments
from ffcore.interfaces import Context
from ffcore.run.stages import run
from ffcore_inception.tables import Inception

TINY = ["training.steps=2", "training.batch=8", "evaluation.enabled=false"]
SHIPPED = "ffcore_digits:reference.safetensors"
HELD = Path(__file__).parents[1] / "fakes" / "held.py"


def ffd(*arguments: str, command: str = "evaluate") -> Result:
    return CliRunner().invoke(main, [command, *arguments], prog_name="ffd")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own."""
    monkeypatch.chdir(tmp_path)


def test_a_run_is_measured_with_all_that_the_numbers_depend_on(finished):
    found = ffd(finished, "-r", SHIPPED, "-f", "digits", "-f", "raw", "-n", "100", "-o", "a.json")
    assert found.exit_code == ExitCode.OK, found.output
    lines = found.stdout.splitlines()
    assert lines[1].split()[:3] == ["digits", "Fréchet", "distance"]
    assert lines[2].split()[:3] == ["digits", "class", "accuracy"]
    assert lines[3].split()[:3] == ["raw", "Fréchet", "distance"]
    assert max(map(len, lines)) <= 80
    text = " ".join(found.stdout.split())
    for said in (
        "of 10 occur",
        "seed 0",
        "labels balanced",
        "γ 1",
        "NFE 1",
        "decoder identity",
    ):
        assert said in text
    assert f"samples 100 of {finished}, student" in text
    assert f"reference 5,000 of {SHIPPED}" in text
    assert "samples 100/100 digits, raw" in found.stderr
    assert "note: the reference's samples were not rounded" in found.stderr
    stored = json.loads(Path("a.json").read_text())
    assert stored.keys() == {"schema", "metrics", "conditions", "notes", "seconds"}
    assert stored["conditions"]["features"].keys() == {"digits", "raw"}
    assert stored["seconds"].keys() == {"samples", "features", "statistics"}


def test_a_kept_sampling_has_the_numbers_of_its_run(finished):
    ffd(finished, "-n", "60", "-o", "s.npz", command="sample")
    arguments = ("-r", SHIPPED, "-f", "digits", "--json")
    of_run, of_file = (
        json.loads(ffd(source, *arguments, *more).stdout)
        for source, more in ((finished, ("-n", "60")), ("s.npz", ()))
    )
    assert of_run["metrics"] == of_file["metrics"]
    assert of_run["compared_with"] is None


def test_a_runs_own_evaluation_is_made_again_without_options():
    place = Path("run")
    run(small(), place)
    found = ffd(str(place), "-o", "again.json")
    assert found.exit_code == ExitCode.OK, found.output
    assert "student, 1 step" in found.stdout
    assert "Trajectory error" in found.stdout
    assert max(map(len, found.stdout.splitlines())) <= 80
    stored = json.loads((place / "evaluation.json").read_text())
    assert json.loads(Path("again.json").read_text())["evaluation"] == stored
    assert json.loads(ffd(str(place), "--json").stdout)["evaluation"] == stored


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN", "-n", "50"], "--number: needs --reference"),
        (["RUN", "-f", "digits", "-m", "fd"], "--features, --metrics: needs --reference"),
        (["s.npz"], "holds stored samples: name a --reference"),
        (["."], "is not a run directory or an export, and holds no pictures"),
        (
            ["RUN", "-r", SHIPPED, "--set", "evaluation.samples=9"],
            "--set is for a run's own evaluation: leave out",
        ),
        (["RUN", "-o", "RUN/a"], "is the directory of a run or an export"),
        (["digits.toml"], "is a recipe, and has no student"),
    ],
)
def test_options_that_do_not_go_together_are_refused(finished, arguments, said):
    np.savez("s.npz", arr_0=np.zeros((9, 8, 8, 1), np.uint8))
    found = ffd(*(each.replace("RUN", finished) for each in arguments))
    assert found.exit_code == ExitCode.USAGE, found.output
    assert said in " ".join(found.stderr.split())


def test_an_earlier_result_stands_beside_if_it_is_of_the_same_conditions(finished):
    arguments = (finished, "-r", SHIPPED, "-f", "digits")
    ffd(*arguments, "-n", "60", "-o", "a.json")
    beside = ffd(*arguments, "-n", "60", "-m", "fd", "--compare", "a.json")
    assert beside.exit_code == ExitCode.OK, beside.output
    assert "a.json" in beside.stdout.splitlines()[0]
    here, there = beside.stdout.splitlines()[1].split()[-2:]
    assert here == there
    refused = ffd(*arguments, "-n", "61", "--seed", "1", "--compare", "a.json", "-o", "b.json")
    assert refused.exit_code == ExitCode.USAGE
    assert "samples' number: 60 there, 61 here\n  samples' seed: 0 there, 1 here" in refused.stderr
    assert not Path("b.json").exists()
    document = json.loads(ffd(*arguments, "-n", "60", "--compare", "a.json", "--json").stdout)
    assert document["compared_with"]["file"] == "a.json"
    assert document["compared_with"]["metrics"] == document["metrics"]


def test_every_metric_between_two_files():
    for name, seed in (("a.npz", 0), ("b.npz", 1)):
        pixels = Stream(seed).uniform(0, 255, 80, 8, 8, 1).numpy().astype(np.uint8)
        np.savez(name, arr_0=pixels)
    found = ffd("a.npz", "-r", "b.npz", "-f", "digits", "-m", "fd,is,kid,pr,classes")
    assert found.exit_code == ExitCode.OK, found.output
    for said in (
        "Fréchet distance",
        "Inception Score",
        "kernel distance × 1000",
        "precision",
        "recall",
        "classes",
    ):
        assert said in found.stdout
    assert "seed unknown, labels unknown, γ unknown, NFE unknown" in " ".join(found.stdout.split())


def test_missing_classes_cry_out(finished):
    """A student that hardly began to learn, asked for one class."""
    found = ffd(finished, "-r", SHIPPED, "-f", "digits", "-n", "40", "--labels", "3")
    assert found.exit_code == ExitCode.OK, found.output
    assert ", MISSING " in found.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["RUN", "-r", "none.npz"], ExitCode.ENVIRONMENT, "no such file"),
        (["RUN", "-r", SHIPPED, "-f", "digit"], ExitCode.PLUGIN, "did you mean 'digits'?"),
        (["RUN", "-r", SHIPPED, "-f", "{no"], ExitCode.USAGE, "is not a TOML table"),
        (["RUN", "-r", SHIPPED, "-m", "fid"], ExitCode.USAGE, "unknown 'fid'"),
        (["RUN", "-r", SHIPPED, "-m", "kid"], ExitCode.USAGE, "has only statistics: name"),
        (["RUN", "-r", SHIPPED, "-o", "full"], ExitCode.USAGE, "full exists"),
        (
            ["RUN", "-r", SHIPPED, "-o", "no/a"],
            ExitCode.USAGE,
            "/no does not exist: create it for the result",
        ),
        (
            ["RUN", "-r", SHIPPED, "-o", "RUN/a"],
            ExitCode.USAGE,
            "is the directory of a run or an export",
        ),
        (["RUN", "-r", SHIPPED, "--device", "x"], ExitCode.USAGE, "device 'x' cannot be used"),
        (["RUN", "-r", SHIPPED, "--solver", "heun"], ExitCode.USAGE, "--solver needs --teacher"),
        (["RUN", "-r", SHIPPED, "--compare", "full"], ExitCode.USAGE, "cannot be read as a result"),
        (["RUN", "-r", SHIPPED, "--steps", "4"], ExitCode.USAGE, "starts only at the prior"),
        (["v.npz", "-r", "v.npz"], ExitCode.USAGE, "digits reads images (1, 8, 8), found (2,)"),
        (["gone", "-r", SHIPPED], ExitCode.USAGE, "gone"),
        (["digits.toml", "-r", SHIPPED], ExitCode.USAGE, "is a recipe, and has no student"),
        (
            ["s.npz", "-r", SHIPPED, "--seed", "1"],
            ExitCode.USAGE,
            "seed: cannot be set, since these samples are stored",
        ),
    ],
)
def test_what_cannot_be_is_told(finished, arguments, code, said):
    Path("full").write_text("full")
    np.savez("s.npz", arr_0=np.zeros((9, 8, 8, 1), np.uint8))
    np.savez("v.npz", arr_0=np.zeros((9, 2), np.float32))
    given = [each.replace("RUN", finished) for each in arguments]
    if "-f" not in given:
        given += ["-f", "digits"]
    found = ffd(*given)
    assert found.exit_code == code, found.output
    assert said in found.stderr


def test_two_processes_share_the_work_and_one_tells(finished):
    arguments = (finished, "-r", SHIPPED, "-f", "digits", "-n", "600", "-m", "fd,is,classes")
    alone = ffd(*arguments, "-o", "one.json")
    shared = forked.ffd("evaluate", *arguments, "-o", "two.json", ranks=2)
    assert shared.codes == [ExitCode.OK, ExitCode.OK], shared.stderr
    assert shared.stdout.splitlines()[:-1] == alone.stdout.splitlines()[:-1]  # the last are seconds
    one, two = (json.loads(Path(name).read_text()) for name in ("one.json", "two.json"))
    assert one["conditions"] == two["conditions"]
    assert one["metrics"]["digits"].pop("classes") == two["metrics"]["digits"].pop("classes")
    for name, value in one["metrics"]["digits"].items():
        if value is not None:
            assert two["metrics"]["digits"][name] == pytest.approx(value, rel=1e-9)
    refused = forked.ffd("evaluate", *arguments, "-o", "one.json", ranks=2)
    assert refused.codes == [ExitCode.USAGE, ExitCode.USAGE]
    assert refused.stderr.count("one.json exists: choose another path, or use --overwrite") == 1
    assert not any(path.name.startswith(".") for path in Path().iterdir())


def test_a_signal_stops_it_and_the_same_command_goes_on(finished):
    arguments = (finished, "-r", SHIPPED, "-f", "digits", "-n", "1100", "-o", "a.json")
    there = Path(".a.json.partial", "conditions.json")
    command = [sys.executable, str(HELD), str(there), "evaluate", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        while not there.exists():
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGTERM)
        assert running.stderr is not None
        said = running.stderr.read()
    assert running.returncode == ExitCode.TERMINATED
    stopped = re.search(r"stopped after (\d+) of 1100 samples; the same command resumes it", said)
    assert stopped is not None
    assert 0 <= int(stopped[1]) < 1100
    again = ffd(*arguments)
    assert again.exit_code == ExitCode.OK, again.output
    if int(stopped[1]):
        assert f"resuming after {stopped[1]} of 1100 samples" in again.stderr
    ffd(*arguments[:-1], "whole.json")
    interrupted, whole = (json.loads(Path(name).read_text()) for name in ("a.json", "whole.json"))
    assert interrupted["metrics"] == whole["metrics"]
    assert {path.name for path in Path().iterdir()} == {"a.json", "whole.json"}


def test_features_are_those_of_the_statistics_or_the_run_or_raw_for_vectors(finished):
    ffd(finished, "-n", "40", "-o", "s.npz", command="sample")
    np.savez("vectors.npz", arr_0=np.random.default_rng(0).normal(size=(40, 3)).astype("float32"))
    for source, reference, expected in (
        ("s.npz", SHIPPED, {"digits", "raw"}),
        (finished, "s.npz", {"digits", "raw"}),
        ("vectors.npz", "vectors.npz", {"raw"}),
    ):
        found = ffd(source, "-r", reference, "-n", "40", "-m", "fd", "--json")
        assert found.exit_code == ExitCode.OK, found.output
        assert json.loads(found.stdout)["metrics"].keys() == expected


def test_samples_against_themselves_are_wondered_at(finished):
    ffd(finished, "-n", "40", "-o", "s.npz", command="sample")
    arguments = ("-r", "s.npz", "-f", "digits", "-m", "fd")
    for same in (["s.npz"], [finished, "-n", "40"]):
        found = ffd(*same, *arguments)
        assert found.exit_code == ExitCode.OK, found.output
        assert "note: samples and reference are the same samples" in found.stderr
    other = ffd(finished, "-n", "40", "--seed", "1", *arguments)
    assert "the same samples" not in other.stderr


def test_an_absent_inception_network_is_told_with_its_origin(finished, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = ffd(finished, "-r", SHIPPED, "-f", "inception")
    assert found.exit_code == ExitCode.ENVIRONMENT
    assert "weights-inception-2015-12-05-6726825d.pth" in found.stderr
    assert "origin     https://github.com/toshas/torch-fidelity/releases" in found.stderr


def test_the_way_of_published_fids_with_random_weights(finished):
    """A file as ADM publishes them, of N(μ + shift, (2 Σ^½)²) where the samples have N(μ, Σ).

    So the distance is ‖shift‖² + tr (Σ + 4 Σ − 2 · 2 Σ).
    """
    weights = random_inception.write(Path("random.pth"))
    ffd(finished, "-n", "6", "-o", "s.npz", command="sample")
    moments = Moments()
    with np.load("s.npz") as file:
        pixels = torch.from_numpy(file["arr_0"]).permute(0, 3, 1, 2)
    moments.add(Inception(weights=str(weights)).build(Context())(pixels.float() / 127.5 - 1))
    here = moments.statistics()
    scale = np.trace(here.sigma) ** 0.5
    reference = {"mu": here.mu + scale / 2048**0.5, "sigma": 4 * here.sigma}
    np.savez("VIRTUAL.npz", **reference, mu_s=np.zeros(3), sigma_s=np.eye(3))
    space = f'{{type="inception", weights="{weights}"}}'
    found = ffd("s.npz", "-r", "VIRTUAL.npz", "-f", space, "--json")
    assert found.exit_code == ExitCode.OK, found.output
    document = json.loads(found.stdout)
    # Of 2048 eigenvalues 5 are not 0, and the rest have roots of rounding errors.
    assert document["metrics"]["inception"]["fd"] == pytest.approx(2 * scale**2, rel=1e-3)
    assert "6 samples in 2048 dimensions" in document["notes"][0]
    other = ffd("s.npz", "-r", "VIRTUAL.npz", "-f", "digits")
    assert other.exit_code == ExitCode.USAGE
    assert "only in the features inception, not in digits" in other.stderr
