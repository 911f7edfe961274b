"""The files around the code agree: workflows, hooks, metadata, citation, changelog, forms."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ffcore.cli.commands import COMMANDS
from ffcore.run.directory import FILES

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").iterdir())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = PYPROJECT["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
OWN_ACTIONS = "actions/"
"""GitHub's own: their major version is enough. Anybody else's is pinned exactly."""


def _name(path: Path) -> str:
    return path.name


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _steps(workflow: Any) -> Iterator[Any]:
    for job in workflow["jobs"].values():
        yield from job.get("steps", [])


# Workflows


def commands(workflow: Any) -> list[str]:
    lines = (step["run"].splitlines() for step in _steps(workflow) if "run" in step)
    return [line.strip() for several in lines for line in several]


def ci_commands() -> list[str]:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    return [line for line in lines if not line.startswith(("#", "set ", "cd "))]


def unknown_commands(found: list[str]) -> list[str]:
    """Return the commands that are neither one target of the Makefile nor a line of .ci/run."""
    targets = re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE)
    make = re.compile(rf"make ({'|'.join(map(re.escape, targets))})( [A-Z]+=\S+)*")
    return [each for each in found if each not in ci_commands() and not make.fullmatch(each)]


@pytest.mark.parametrize("path", WORKFLOWS, ids=_name)
def test_workflows_only_run_the_makefiles_targets(path: Path) -> None:
    assert unknown_commands(commands(_read(path))) == []


def test_a_command_of_a_workflows_own_would_be_seen() -> None:
    found = ["make check", 'make dist TAG="$X"', "make nothing", "make check && pip install x"]
    assert unknown_commands(found) == ["make nothing", "make check && pip install x"]


def test_the_tests_workflow_runs_what_ci_runs() -> None:
    assert commands(_read(ROOT / ".github" / "workflows" / "tests.yml")) == ci_commands()


def supported() -> list[str]:
    found = (re.fullmatch(r".*Python :: (3\.\d+)", each) for each in PROJECT["classifiers"])
    return [each[1] for each in found if each]


def test_the_tests_workflow_runs_on_every_supported_python() -> None:
    (job,) = _read(ROOT / ".github" / "workflows" / "tests.yml")["jobs"].values()
    assert job["strategy"]["matrix"] == {"python": supported()}
    (version,) = [step["with"]["python-version"] for step in job["steps"] if _sets_python(step)]
    assert version == "${{ matrix.python }}"


def _sets_python(step: Any) -> bool:
    return str(step.get("uses", "")).startswith("actions/setup-python@")


def test_the_other_workflows_run_on_a_supported_python() -> None:
    for path in WORKFLOWS:
        for step in filter(_sets_python, _steps(_read(path))):
            assert step["with"]["python-version"] in [*supported(), "${{ matrix.python }}"]


def test_the_oldest_supported_python_is_stated_alike_everywhere() -> None:
    oldest = supported()[0]
    assert PROJECT["requires-python"] == f">={oldest}"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"


def unpinned(actions: list[str]) -> list[str]:
    """Return the actions that may change without a change here."""
    own = re.compile(rf"{OWN_ACTIONS}[\w-]+@v\d+(\.\d+\.\d+)?")
    foreign = re.compile(r"[\w./-]+@(v\d+\.\d+\.\d+|[0-9a-f]{40})")
    return [each for each in actions if not (own.fullmatch(each) or foreign.fullmatch(each))]


@pytest.mark.parametrize("path", WORKFLOWS, ids=_name)
def test_workflows_pin_the_actions_they_use(path: Path) -> None:
    workflow = _read(path)
    uses = [each["uses"] for each in _steps(workflow) if "uses" in each]
    calls = [job["uses"] for job in workflow["jobs"].values() if "uses" in job]
    assert unpinned(uses) == []
    assert all((ROOT / each).is_file() for each in calls)


def test_an_action_that_is_not_pinned_would_be_seen() -> None:
    loose = ["actions/checkout@main", "a/b@v1", "a/b@release/v1", "a/b"]
    assert unpinned([*loose, "actions/checkout@v7", "a/b@v1.2.3", f"a/b@{'0' * 40}"]) == loose


@pytest.mark.parametrize("path", WORKFLOWS, ids=_name)
def test_workflows_have_no_secret_and_only_publishing_writes(path: Path) -> None:
    workflow = _read(path)
    assert "secrets" not in path.read_text()
    assert workflow["permissions"] == {"contents": "read"}
    writing = [
        name for name, job in workflow["jobs"].items() if "write" in str(job.get("permissions"))
    ]
    assert writing == [name for name in workflow["jobs"] if name == "publish"]


def test_a_release_is_published_after_its_tests() -> None:
    workflow = _read(ROOT / ".github" / "workflows" / "release.yml")
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as true
    jobs = workflow["jobs"]
    assert jobs["tests"]["uses"] == "./.github/workflows/tests.yml"
    assert (jobs["build"]["needs"], jobs["publish"]["needs"]) == ("tests", "build")


# Hooks


def test_the_hooks_run_the_tools_of_make_check() -> None:
    recipe = MAKEFILE.partition("\ncheck:")[2].partition("\n\n")[0].splitlines()[1:]
    checks = [line.strip().removeprefix("$(RUN)/") for line in recipe]
    (repository,) = _read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"].removeprefix(".venv/bin/") for hook in repository["hooks"]]
    assert [_bare(each) for each in entries] == [_bare(each) for each in checks]


def _bare(command: str) -> list[str]:
    """A tool and its subcommand, without options and files."""
    return [word for word in shlex.split(command) if word[0] not in "-."]


# Forms


@pytest.mark.parametrize("path", FORMS, ids=_name)
def test_forms_name_commands_that_exist(path: Path) -> None:
    named = set(re.findall(r"(?:^|`|: )ffd (?:--debug )?([a-z][\w-]*)", path.read_text()))
    assert named <= set(COMMANDS)


def test_the_form_for_bugs_requires_what_one_needs_to_look_for_it() -> None:
    fields = {each["id"]: each for each in _read(ROOT / ".github/ISSUE_TEMPLATE/bug.yml")["body"]}
    assert all(each["validations"]["required"] for each in fields.values())
    assert fields["doctor"]["attributes"]["label"] == "ffd doctor --json"
    assert fields["recipe"]["attributes"]["label"] in FILES
    assert "expected" in fields


# Metadata


def test_the_citation_is_that_of_the_readme() -> None:
    entry = (ROOT / "README.md").read_text().partition("```bibtex\n")[2].partition("```")[0]
    facts = dict(re.findall(r"^ *(\w+) *= \{(.*)\}", entry, re.MULTILINE))
    paper = _read(ROOT / "CITATION.cff")["preferred-citation"]
    names = [f"{each['family-names']}, {each['given-names']}" for each in paper["authors"]]
    assert " and ".join(names) == facts["author"]
    assert paper["title"] == facts["title"]
    assert paper["collection-title"] == facts["booktitle"]
    assert str(paper["year"]) == facts["year"]
    assert paper["notes"] == facts["note"]
    assert paper["url"].rpartition("/")[2] == facts["note"].partition(":")[2]


def test_the_citation_describes_this_version() -> None:
    software = _read(ROOT / "CITATION.cff")
    assert software["title"] == PROJECT["name"]
    assert software["version"] == PROJECT["version"]
    assert software["abstract"] == PROJECT["description"]
    assert software["license"] == PROJECT["license"]
    assert software["authors"] == PROJECT["authors"]


def test_the_placeholder_for_the_owner_stands_in_one_file() -> None:
    text = re.compile(r"github\.com/OWNER|OWNER\.github\.io")
    others = [*WORKFLOWS, *FORMS, *ROOT.glob("*.*"), *(ROOT / "docs").rglob("*.md")]
    files = [path for path in others if path.is_file() and path.name != "pyproject.toml"]
    assert [path for path in files if text.search(path.read_text())] == []


def test_the_changelog_keeps_its_headings() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", each) for each in versions[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds
