"""New plugins: each role's template is a distribution that installs, holds its laws and runs."""

import json
import os
import runpy
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from ffcore.keys import ImpossibleValue
from ffcore.plugins import ROLES
from ffcore.plugins.scaffold import NewPlugin
from ffcore.plugins.scaffold.template import roles

ROOT = Path(__file__).parents[2]
Distribute = Callable[..., None]


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_a_template(role: str) -> None:
    assert role in roles(), f"`ffd new-plugin --role {role}` needs a template {role}.md.txt"


def test_every_template_is_a_roles() -> None:
    assert set(roles()) <= set(ROLES)


def test_a_role_without_a_template_would_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffcore.plugins.scaffold.distribution.roles", lambda: ["student"])
    with pytest.raises(ValueError, match=r"no template for the role 'teacher' \(possible: student"):
        NewPlugin("moon", "teacher").files()


@pytest.mark.parametrize(
    ("name", "module", "component"),
    [
        ("ffcore-kernel", "ffcore_kernel", "kernel"),
        ("my-corrector", "my_corrector", "corrector"),
        ("moon", "moon", "moon"),
        ("Lab.Half__Moon", "lab_half_moon", "moon"),
        ("ffcore-moon-2", "ffcore_moon_2", "moon-2"),
        ("moon-3-4b", "moon_3_4b", "moon-3-4b"),
    ],
)
def test_the_names_follow_from_the_distributions(name: str, module: str, component: str) -> None:
    plugin = NewPlugin(name, "balancer")
    assert (plugin.module, plugin.component) == (module, component)
    assert {f"{module}/plugin.py", f"{name}.toml"} <= plugin.files().keys()


@pytest.mark.parametrize("name", ["", "-moon", "moon-", "a b", "../moon", "2moon", "class", "mönd"])
def test_a_name_that_no_distribution_or_module_can_have_is_refused(name: str) -> None:
    with pytest.raises(ImpossibleValue, match="name: must be"):
        NewPlugin(name, "teacher")


@pytest.mark.parametrize(
    ("name", "role", "words"),
    [
        ("Torch", "teacher", "distribution 'Torch' [0-9].* is already installed"),
        ("ffcore", "teacher", "distribution 'ffcore' .* is already installed"),
        ("json", "teacher", "imported as 'json', but a module of that name"),
        ("ffcore-vsd", "corrector", "imported as 'ffcore_vsd', but a module of that name"),
        ("my-vsd", "corrector", "the corrector 'vsd', but ffcore 0.1.0 already provides one"),
    ],
)
def test_a_name_that_is_taken_is_refused(name: str, role: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NewPlugin(name, role).require_free()


def test_a_free_name_is_not_refused() -> None:
    NewPlugin("my-vsd", "predictor").require_free()


def test_a_plugin_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = Path.write_text, []

    def full(path: Path, *arguments: Any, **options: Any) -> int:
        written.append(path)
        if len(written) == 4:
            raise OSError("no space left")
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        NewPlugin("ffcore-moon", "student").write(tmp_path / "moon")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [False, True])
def test_a_plugin_is_written_where_nothing_is(tmp_path: Path, there: bool) -> None:
    directory = tmp_path / "deep" / "moon"
    if there:
        directory.mkdir(parents=True)
    plugin = NewPlugin("ffcore-moon", "student")
    plugin.write(directory)
    files = (path for path in directory.rglob("*") if path.is_file())
    assert {str(path.relative_to(directory)) for path in files} == plugin.files().keys()
    assert list(directory.parent.iterdir()) == [directory]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", ["moon", "a-laboratory-half-moon"])
def test_what_is_written_is_formatted_and_has_nothing_to_mend(
    tmp_path: Path, role: str, name: str
) -> None:
    NewPlugin(name, role).write(tmp_path / "new")
    for command in (["check"], ["format", "--check"]):
        found = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", "."],
            cwd=tmp_path / "new",
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, found.stdout + found.stderr


MISTAKES = {
    "teacher": ("centre - slope", "centre + slope"),
    "student": ("torch.cat([x_t, delta", "torch.cat([x_t, 0 * delta"),
    "predictor": ("(reached, 1 - before,", "(reached, before,"),
    "corrector": ("gap=v_N - u", "gap=u - v_N"),
    "conditions": ("[angle.cos(), angle.sin()]", "[angle.sin(), angle.cos()]"),
    "data": ("self.scale * noise", "noise"),
    "balancer": ('"correction": self.factor', '"correction": 1.0'),
    "network": ("torch.cat([x_t, t", "torch.cat([x_t, 0 * t"),
    "features": ("generator=seed) / length", "generator=seed) * length"),
    "decoder": ("self.mean + self", "self.mean - self"),
    "tracker": ("(step, name,", "(name, step,"),
}
"""What its own test must catch, for each role."""


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("role", ROLES)
def test_a_plugins_own_test_passes_and_would_catch_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, wrong: bool
) -> None:
    plugin = NewPlugin(f"moon-{role}-{wrong}", role)
    plugin.write(tmp_path / "new")
    if wrong:
        right, mistake = MISTAKES[role]
        package = (tmp_path / "new" / plugin.module).glob("*.py")
        (file,) = (path for path in package if right in path.read_text())
        file.write_text(file.read_text().replace(right, mistake))
    monkeypatch.syspath_prepend(tmp_path / "new")
    monkeypatch.setattr("ffcore.testing.plugin_tests", lambda name: None)
    with torch.random.fork_rng():
        failures = _failures(tmp_path / "new" / "tests" / "test_plugin.py")
    assert bool(failures) == wrong, failures


def _failures(file: Path) -> list[AssertionError]:
    """Run the tests of a file that take no arguments."""
    failures = []
    for name, test in runpy.run_path(str(file)).items():
        if name.startswith("test_") and not test.__code__.co_argcount:
            try:
                test()
            except AssertionError as failure:
                failures.append(failure)
    return failures


@attrs.frozen
class Environment:
    """A virtual environment with ffcore and a plugin for each role, all from wheels."""

    python: Path
    folder: Path
    """Where the plugins are, `moon-ROLE` each."""
    wheels: dict[str, list[str]]
    """The files in each wheel, by the name of the distribution."""

    def run(self, *command: str, folder: Path | None = None) -> str:
        found = subprocess.run(
            [self.python, *command],
            cwd=folder or self.folder,
            env={k: v for k, v in os.environ.items() if k != "FFCORE_DISABLE_PLUGINS"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout

    def ffd(self, *commands: list[str]) -> dict[str, Any]:
        """Run several commands in one process; return the exit code of each."""
        code = (
            "import json, sys\n"
            "from ffcore.cli import main\n"
            "codes = {}\n"
            "for command in json.loads(sys.argv[1]):\n"
            "    try:\n"
            "        main(command, prog_name='ffd')\n"
            "    except SystemExit as end:\n"
            "        codes[' '.join(command[:2])] = end.code\n"
            "print(json.dumps(codes))"
        )
        return dict(json.loads(self.run("-c", code, json.dumps(commands)).splitlines()[-1]))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What `ffd new-plugin` writes as it is installed, built and installed beside it."""
    folder = tmp_path_factory.mktemp("plugins")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    scripts = "Scripts" if os.name == "nt" else "bin"
    environment = Environment(folder / "env" / scripts / "python", folder, {})
    purelib = environment.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    here = sysconfig.get_path("purelib")  # torch and all else, not installed a second time
    (Path(purelib.strip()) / "here.pth").write_text(here + "\n")
    _install(environment, ROOT)
    environment.ffd(*(["new-plugin", f"moon-{role}", "--role", role] for role in ROLES))
    _install(environment, *(folder / f"moon-{role}" for role in ROLES))
    return environment


def _install(environment: Environment, *sources: Path) -> None:
    """Build wheels of the sources, and install them without what they depend on."""
    wheels = environment.folder / "wheels"
    before = set(wheels.glob("*.whl"))
    quiet = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", *quiet, "--no-build-isolation", "--wheel-dir", wheels, *sources]
    subprocess.run(build, check=True)
    built = sorted(set(wheels.glob("*.whl")) - before)
    subprocess.run([*pip, "--python", environment.python, "install", *quiet, *built], check=True)
    for wheel in built:
        with zipfile.ZipFile(wheel) as file:
            environment.wheels[wheel.name.partition("-")[0]] = file.namelist()


def test_a_wheel_holds_the_package_alone(environment: Environment) -> None:
    found = environment.wheels["moon_corrector"]
    assert {name.partition("/")[0] for name in found} == {
        "moon_corrector",
        "moon_corrector-0.1.0.dist-info",
    }
    assert "moon_corrector/tables.py" in found


def test_ffcores_wheel_holds_every_template(environment: Environment) -> None:
    templates = {path.name for path in (ROOT / "ffcore/plugins/scaffold/templates").iterdir()}
    shipped = {Path(name).name for name in environment.wheels["ffcore"] if "templates/" in name}
    assert shipped == templates


def test_every_new_plugin_is_active(environment: Environment) -> None:
    found = json.loads(environment.run("-m", "ffcore", "list-plugins", "--json"))["plugins"]
    new = {each["distribution"]: each for each in found if each["distribution"] != "ffcore"}
    assert {name: each["state"] for name, each in new.items()} == {
        f"moon-{role}": "active" for role in ROLES
    }
    for role in ROLES:
        (component,) = new[f"moon-{role}"]["components"]
        assert (component["role"], component["name"]) == (role, role)


def test_every_new_plugin_holds_all_its_laws(environment: Environment) -> None:
    found = environment.ffd(*(["check-plugin", f"moon-{role}"] for role in ROLES))
    assert found == {f"check-plugin moon-{role}": 0 for role in ROLES}


def test_every_new_recipe_is_valid_and_runs(environment: Environment) -> None:
    recipes = {role: f"moon-{role}/moon-{role}.toml" for role in ROLES}
    short = ["training.steps=3", "evaluation.samples=20", "evaluation.euler=[1]"]
    short += ['evaluation.solver = { method = "euler", steps = 2 }']
    changes = [part for each in short for part in ("--set", each)]
    commands = [["validate", recipe] for recipe in recipes.values()]
    commands += [["run", recipe, *changes] for recipe in recipes.values()]
    assert set(environment.ffd(*commands).values()) == {0}
    assert (environment.folder / "runs/moon-decoder/samples.png").exists()
    for role in ROLES:
        resolved = (environment.folder / f"runs/moon-{role}/recipe.toml").read_text()
        assert f'type = "{role}"' in resolved, "the recipe does not use its own plugin"


def test_the_tests_of_a_new_plugin_pass(environment: Environment) -> None:
    found = environment.run("-m", "pytest", "-q", folder=environment.folder / "moon-corrector")
    assert " passed" in found


@pytest.mark.slow
def test_the_new_correctors_recipe_reaches_what_it_says(environment: Environment) -> None:
    """One that spoils the student would not; on this teacher none is much better than none."""
    command = ["run", "moon-corrector/moon-corrector.toml", "-d", "with", "--json"]
    out = environment.run("-m", "ffcore", *command, "--set", "training.seed=1")
    assert json.loads(out)["evaluation"]["distances"]["raw"]["student"] < 0.010
