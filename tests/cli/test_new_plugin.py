import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ffcore.cli import ExitCode, main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ffd(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["new-plugin", *arguments], prog_name="ffd")


def test_a_new_plugin_is_told_as_a_tree_and_the_commands_that_come_next() -> None:
    result = ffd("ffcore-moon", "--role", "corrector")
    assert result.exit_code == ExitCode.OK
    assert result.stdout == (
        "ffcore-moon/\n"
        "  .gitignore\n"
        "  README.md\n"
        "  ffcore-moon.toml\n"
        "  pyproject.toml\n"
        "  ffcore_moon/\n"
        "    __init__.py\n"
        "    objective.py\n"
        "    plugin.py\n"
        "    tables.py\n"
        "  tests/\n"
        "    test_plugin.py\n"
        "\n"
        "The plugin works as it is. Next, in the environment where ffcore is installed:\n"
        "  cd ffcore-moon && pip install -e '.[testing]'\n"
        "  pytest\n"
        "  ffd run ffcore-moon.toml\n"
    )


def test_a_directory_can_be_chosen() -> None:
    result = ffd("ffcore-moon", "--role", "teacher", "--directory", "my plugins/moon")
    assert Path("my plugins/moon/ffcore_moon/teacher.py").is_file()
    assert "cd 'my plugins/moon' && " in result.stdout


@pytest.mark.parametrize("there", ["ffcore-moon/x", "ffcore-moon"])
def test_what_is_there_is_left_as_it_is(folder: Path, there: str) -> None:
    Path(there).parent.mkdir(exist_ok=True)
    Path(there).write_text("mine")
    result = ffd("ffcore-moon", "--role", "teacher")
    assert result.exit_code == ExitCode.USAGE
    assert "name another directory" in result.stderr
    assert [path for path in folder.rglob("*") if path.is_file()] == [folder / there]
    assert Path(there).read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("2moon", "--role", "teacher"), "a name that Python can import"),
        (("torch", "--role", "teacher"), "is already installed"),
        (("my-freeflow", "--role", "predictor"), "the predictor 'freeflow'"),
        (("ffcore-moon", "--role", "moon"), "'teacher', 'student'"),
        (("ffcore-moon",), "--role"),
    ],
)
def test_an_impossible_command_writes_nothing(
    folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = ffd(*arguments)
    assert result.exit_code == ExitCode.USAGE
    assert words in " ".join(result.stderr.split())
    assert list(folder.iterdir()) == []


def test_writing_a_plugin_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from ffcore.cli import main\n"
        "main(['new-plugin', 'ffcore-moon', '--role', 'teacher'], standalone_mode=False)\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
