"""A stranger's distribution, `third_party/acme-flow`, from its installation to samples."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import forked
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).parents[1] / "third_party" / "acme-flow"
ACME = {"teacher": "ring", "conditions": "centres", "predictor": "halves", "balancer": "huber"}


@attrs.frozen
class Installed:
    """The distribution, where pip has installed it, and its folder without the package."""

    folder: Path
    site: Path

    def python(self, *arguments: str) -> str:
        """Run python in the folder, which must succeed."""
        environment = {k: v for k, v in os.environ.items() if k != "FFCORE_DISABLE_PLUGINS"}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder, env=environment | {"PYTHONPATH": str(self.site)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ffd(self, *arguments: str, code: int = 0) -> forked.Ended:
        """Run `ffd` in the folder, which must end with this code."""
        plugins = {"FFCORE_DISABLE_PLUGINS": ""}
        done = forked.ffd(*arguments, folder=self.folder, path=self.site, environment=plugins)
        assert done.codes == [code], done.stdout + done.stderr
        return done


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder, site = tmp_path_factory.mktemp("acme") / "acme-flow", tmp_path_factory.mktemp("site")
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    acme = Installed(folder, site)
    acme.python("-m", "pip", "install", *offline, "--target", str(site), str(folder))
    shutil.rmtree(folder / "acme_flow")  # what is imported is what was installed
    return acme


def test_nothing_of_ours_knows_it() -> None:
    rooms = [ROOT / name for name in ("ffcore", "plugins", "recipes")]
    files = [file for room in rooms for file in room.rglob("*") if file.suffix in (".py", ".toml")]
    assert len(files) > 50
    texts = [file.read_text() for file in [*files, ROOT / "pyproject.toml"]]
    assert not any(re.search("acme.flow", text) for text in texts)


def test_it_is_listed_as_active(acme: Installed) -> None:
    plugins = json.loads(acme.python("-m", "ffcore", "list-plugins", "--json"))["plugins"]
    (found,) = [plugin for plugin in plugins if plugin["distribution"] == "acme-flow"]
    assert (found["state"], found["version"], found["notes"]) == ("active", "0.3.1", [])
    assert {each["role"]: each["name"] for each in found["components"]} == ACME


def test_it_keeps_every_law(acme: Installed) -> None:
    checked = json.loads(acme.ffd("check-plugin", "acme-flow", "--json").stdout)
    assert checked["holds"]
    asked = {each["component"] for each in checked["results"] if each["status"] == "holds"}
    assert asked >= {f"{role}/{name}" for role, name in ACME.items()}


def test_its_own_tests_pass(acme: Installed) -> None:
    acme.python("-m", "pytest", "-q", "-p", "no:cacheprovider")


def test_its_recipe_is_sound_with_it_and_says_what_is_missing_without(acme: Installed) -> None:
    said = "ring.toml: ok (teacher ring, student mlp, predictor halves)\n"
    assert acme.ffd("validate", "ring.toml").stdout == said
    without = acme.ffd("--no-plugins", "validate", "ring.toml", "digits.toml", code=3)
    assert without.stdout.startswith("digits.toml: ok")
    assert without.stderr.count("plugin 'acme' (acme-flow 0.3.1) is disabled: --no-plugins") == 3


def test_its_recipe_distils_its_teacher_into_a_student_that_samples(
    acme: Installed, tmp_path: Path
) -> None:
    begun, done = tmp_path / "begun", tmp_path / "done"
    acme.ffd("run", "ring.toml", "--directory", str(begun), "--set", "training.steps=1")
    acme.ffd("run", "ring.toml", "--directory", str(done))
    start, end = (json.loads((each / "evaluation.json").read_text()) for each in (begun, done))
    before, after = start["distances"]["raw"], end["distances"]["raw"]
    assert after["student"] < before["student"] / 3  # it starts from the teacher's moments
    assert after["student"] < after["euler"]["4"]
    assert end["trajectory_error"]["1.0"]["value"] < start["trajectory_error"]["1.0"]["value"] / 4

    provenance = json.loads((done / "provenance.json").read_text())
    origins = {each["role"]: each for each in provenance["components"]}
    for role, name in ACME.items():
        if role == "conditions":
            continue
        assert origins[role]["type"] == name
        assert (origins[role]["distribution"], origins[role]["version"]) == ("acme-flow", "0.3.1")
    assert origins["student"]["distribution"] == "ffcore"

    acme.ffd("sample", str(done), "--number", "500", "--out", str(tmp_path / "samples.npz"))
    with np.load(tmp_path / "samples.npz") as kept:
        samples = kept[kept.files[0]]
    assert samples.shape == (500, 2)
    radii = np.linalg.norm(samples, axis=1)
    assert np.median(radii) == pytest.approx(2.0, abs=0.1)
    assert np.quantile(radii, 0.2) > 1.5


def test_its_conditions_move_its_teacher_and_name_the_samples(
    acme: Installed, tmp_path: Path
) -> None:
    moves = ("--set", "conditions.type=centres", "--set", "teacher.moves=true")
    alone = acme.ffd("validate", "ring.toml", "--set", "teacher.moves=true", code=2)
    assert "teacher 'ring' needs 'centres', but the recipe has no conditions" in alone.stderr
    useless = acme.ffd("validate", "ring.toml", "--set", "conditions.type=centres", code=2)
    assert "leave out conditions 'centres'" in useless.stderr
    acme.ffd("run", "ring.toml", "--directory", str(tmp_path / "run"), *moves)
    acme.ffd("export", str(tmp_path / "run"), "--out", str(tmp_path / "ex"))
    for name, place in (("left", -3.0), ("right", 3.0)):
        out = str(tmp_path / f"{name}.npz")
        acme.ffd("sample", str(tmp_path / "ex"), "-n", "500", "--condition", name, "--out", out)
        with np.load(out) as kept:
            samples = kept["arr_0"]
        assert samples.mean(0) == pytest.approx([place, 0.0], abs=0.4)
