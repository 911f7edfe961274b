"""The example of a teacher of one's own works, and its page says what happens."""

import re
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import attrs
import my_network
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from ffcore import Condition, Context, FrozenTeacher, Labels, Teacher, VelocityField
from ffcore.cli import main
from ffcore.testing import check_class, checked_shapes

ROOT = Path(__file__).parents[2]
EXAMPLES, PAGE = ROOT / "examples", ROOT / "docs" / "own-teacher.md"
FILES = ["my_network.py", "own_teacher.py", "own_teacher.toml"]
SHORT = (
    "training.steps=1",
    "training.batch=16",
    "evaluation.enabled=false",
    "evaluation.previews=0",
)


def listing(title: str) -> str:
    """The page's block of this title."""
    found = re.search(rf'^```\w+ title="{title}"\n(.*?)^```$', PAGE.read_text(), re.M | re.S)
    assert found is not None
    return found[1]


def table() -> list[list[str]]:
    """The cells of the page's table of mistakes."""
    rows = PAGE.read_text().partition("## What goes wrong")[2].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row[:1] == "|"]
    return cells[2:]


@pytest.fixture(autouse=True)
def shapes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check shapes, except where a mistake is made on purpose."""
    with nullcontext() if "mistake" in request.node.name else checked_shapes():
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file after a short training."""
    path = tmp_path_factory.mktemp("weights") / "my_network.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(my_network.train_network(steps=400).state_dict(), path)
    return path


@pytest.fixture
def folder(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the example as the page lists it, and its weights; the process is in it."""
    shutil.copy(EXAMPLES / "my_network.py", tmp_path)
    shutil.copy(weights, tmp_path)
    for name in FILES[1:]:
        (tmp_path / name).write_text(listing(name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    _forget()
    with torch.random.fork_rng(devices=[]):
        yield tmp_path
    _forget()


def _forget() -> None:
    for name in ("own_teacher", "mistakes"):
        sys.modules.pop(name, None)


def ffd(*arguments: str) -> tuple[int, str]:
    """Run a command; return its exit code and its output, with the line breaks of 80 columns off.

    An error that the command does not know counts as output.
    """
    found = CliRunner().invoke(main, [*arguments], prog_name="ffd")
    output = f"{found.output} {found.exception or ''}"
    return found.exit_code, " ".join(output.split())


def run(*changes: str) -> tuple[int, str]:
    options = [each for change in (*SHORT, *changes) for each in ("--set", change)]
    return ffd("run", "own_teacher.toml", "--restart", *options)


@pytest.mark.parametrize("name", FILES[1:])
def test_the_page_lists_the_file(name: str) -> None:
    assert listing(name) == (EXAMPLES / name).read_text()


def test_the_listing_distils_to_less_than_the_error_of_four_euler_steps(folder: Path) -> None:
    distances = runpy.run_path("own_teacher.py")["main"](steps=150)
    assert distances["student, 1 step"] < distances["teacher, 4 Euler step(s)"]


def test_the_example_writes_its_weights_if_they_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = my_network.train_network
    monkeypatch.setattr(my_network, "train_network", lambda: short(steps=1))
    path = tmp_path / "new.pt"
    my_network.load_network(str(path))
    assert path.exists()


def test_the_recipe_runs_and_its_student_is_sampled(folder: Path) -> None:
    code, output = run()
    assert code == 0, output
    code, output = ffd("sample", "runs/own_teacher", "-n", "10", "-o", "samples.npz")
    assert code == 0, output
    code, output = ffd("sample", "own_teacher.toml", "--teacher", "-n", "10", "-o", "teacher.npz")
    assert code == 0, output


def test_the_teacher_keeps_all_laws(folder: Path) -> None:
    code, output = ffd("check-plugin", "own_teacher:OwnTeacherTable")
    assert code == 0, output


def test_the_student_breaks_the_one_law_that_the_page_names(folder: Path) -> None:
    broken = [each.law for each in check_class("own_teacher:OwnStudentTable") if each.fails]
    assert broken == ["can-be-rebuilt-without-its-teacher"]
    assert f"`{broken[0]}`" in PAGE.read_text()


# The conventions


RETURNED = {
    "data − noise, time 0 is noise (SiT)": (0.0, 1.0),
    "noise − data, time 1 is noise (REPA)": (1.0, -1.0),
}
"""The time of noise of a network of each row, and the sign of its velocity towards the data."""


def test_every_conversion_of_the_page_gives_the_velocity() -> None:
    rows = PAGE.read_text().partition("| your network returns")[2].splitlines()[2:]
    formulas = {}
    for row in rows[: rows.index("")]:
        name, time, velocity = (cell.strip() for cell in row.strip("|").split("|"))
        formulas[name] = (time.strip("`"), velocity.strip("`"))
    assert formulas.keys() == RETURNED.keys()
    wanted = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    for name, (time, velocity) in formulas.items():
        noise, sign = RETURNED[name]
        assert (eval(time, {"t": 1.0}), eval(time, {"t": 0.0})) == (noise, 1 - noise), name
        assert torch.equal(eval(velocity, {"out": sign * wanted}), wanted), name


# The check against data

Velocity = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
WRONG: dict[str, Velocity] = {
    "sign": lambda network, x, t, label: -network(x, 1 - t, label),
    "time": lambda network, x, t, label: network(x, t, label),
    "both": lambda network, x, t, label: -network(x, t, label),
    "scale": lambda network, x, t, label: network(x, 1000 * (1 - t), label),
}


def test_the_page_s_check_accepts_the_example(folder: Path) -> None:
    exec(compile(listing("check.py"), "check.py", "exec"), {})


@pytest.mark.parametrize("wrong", WRONG)
def test_the_page_s_check_catches_a_mistake(
    folder: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import own_teacher

    def forward(self: Any, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        assert condition.label is not None
        return WRONG[wrong](self.network, x_t, t, condition.label)

    monkeypatch.setattr(own_teacher.OwnVelocity, "forward", forward)
    with pytest.raises(AssertionError):
        exec(compile(listing("check.py"), "check.py", "exec"), {})


# The table of mistakes: each is made, and its message is the one that the page quotes.


def right(network: Any, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
    velocity: Tensor = network(x, 1 - t, label)
    return velocity


def _frozen(
    velocity: Velocity, labels: Labels | None = None, shape: tuple[int, ...] = (2,)
) -> Callable[[Any], Teacher]:
    class Wrong(VelocityField):
        def __init__(self, network: Any) -> None:
            super().__init__()
            self.network = network

        def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            label = condition.label
            label = torch.zeros(len(t), dtype=torch.long) if label is None else label
            return velocity(self.network, x_t, t, label)

    return lambda network: FrozenTeacher(Wrong(network), shape, labels or Labels(3, null_label=3))


def _function(network: Any, labels: bool = True) -> Teacher:
    conditions = Labels(3, null_label=3) if labels else None
    return VelocityField.of(
        lambda x, t, c: network(x, 1 - t, c.label if labels else torch.zeros_like(t).long()),
        (2,),
        conditions,
    )


def _dropping(network: Any) -> Any:
    """A network in train mode, with dropout that no two calls share."""
    drop = torch.nn.Dropout(0.5).train()
    return lambda *given: drop(network.train()(*given))


@attrs.frozen
class Mistake:
    """A wrong teacher's table, and how its mistake shows."""

    make: Callable[[Any], Any]
    offers: bool = True
    changes: tuple[str, ...] = ()


def _missing(network: Any) -> Any:
    del network
    torch.load("nowhere.pt", weights_only=True)


def _wrapped(network: Any) -> Any:
    network.load_state_dict({f"module.{key}": v for key, v in network.state_dict().items()})


VSD = ("corrector.type=vsd",)
MISTAKES: dict[str, Mistake] = {
    "sign flipped": Mistake(_frozen(WRONG["sign"])),
    "no null label, with guidance": Mistake(_frozen(right, Labels(3))),
    "no `Labels`, with guidance": Mistake(lambda network: _function(network, labels=False)),
    "more classes than the network has": Mistake(_frozen(right, Labels(99, null_label=99))),
    "wrong sample shape": Mistake(_frozen(right, shape=(3,))),
    "too many channels, for example a variance": Mistake(
        _frozen(lambda *given: torch.cat([right(*given)] * 2, 1))
    ),
    "one channel too few, `[B, 1]`": Mistake(_frozen(lambda *given: right(*given)[:, :1])),
    "float64": Mistake(_frozen(lambda *given: right(*given).double())),
    "bfloat16 or float16": Mistake(_frozen(lambda *given: right(*given).bfloat16())),
    "division by t or 1 − t": Mistake(
        _frozen(lambda network, x, t, y: right(network, x, t, y) * (t / t)[:, None])
    ),
    "dropout in a network that ffcore cannot put into eval mode": Mistake(
        lambda network: _function(_dropping(network))
    ),
    "`build` returns the network": Mistake(lambda network: network),
    "weights file missing": Mistake(_missing),
    "weights' names start with `module.`": Mistake(_wrapped),
    "`offers` missing, with `vsd`": Mistake(_frozen(right), offers=False, changes=VSD),
    "`offers` promises a copy that a function does not have": Mistake(_function, changes=VSD),
}
NEEDS_ITS_TEACHER = "a student that cannot be built without its teacher"
OTHERS = {
    "time reversed, or a time of the wrong scale",  # by the page's check, above
    "`ffd` runs in another folder",
    NEEDS_ITS_TEACHER,
}
GOES_ON = ("sign were the opposite", "are cast")
ROWS = {row[0]: row[1] for row in table()}


def test_every_row_of_the_table_is_tried() -> None:
    assert ROWS.keys() == MISTAKES.keys() | OTHERS


def _install(mistake: Mistake) -> str:
    """Make a module with the mistake's table; return its type as a recipe names it."""

    class Table:
        """A wrong teacher."""

        def build(self, context: Context) -> Any:
            del context
            return mistake.make(my_network.load_network("my_network.pt"))

    if mistake.offers:
        Table.offers = frozenset({"trainable copy"})  # type: ignore[attr-defined]
    module = type(sys)("mistakes")
    Table.__module__, Table.__qualname__ = "mistakes", "Table"
    module.__dict__["Table"] = attrs.frozen(Table)
    sys.modules["mistakes"] = module
    return "mistakes:Table"


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_as_the_page_quotes_it(folder: Path, name: str) -> None:
    kind = _install(MISTAKES[name])
    quoted = re.findall(r"(run|check): (?:no message[^;]*|[^;]*?`([^`]+)`)", ROWS[name])
    for command, message in quoted:
        if command == "check":
            code, output = ffd("check-plugin", kind, "--role", "teacher")
        else:
            teacher = f'teacher={{type="{kind}"}}'
            code, output = run(teacher, 'student.type="mlp"', *MISTAKES[name].changes)
        assert message in output
        assert (code == 0) == any(each in message for each in GOES_ON), output


def test_another_folder_is_reported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    recipe = tmp_path_factory.mktemp("elsewhere") / "recipe.toml"
    recipe.write_text(listing("own_teacher.toml").replace("own_teacher:", "not_here:"))
    code, output = ffd("validate", str(recipe))
    assert code == 3
    assert "No module named 'not_here'" in output
    assert "No module named 'own_teacher'" in ROWS["`ffd` runs in another folder"]


def test_a_student_that_needs_its_teacher_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = run()
    assert code == 0, output
    import own_teacher

    def build(self: Any, context: Context) -> Any:
        raise ValueError("no copy")

    monkeypatch.setattr(own_teacher.OwnStudentTable, "build", build)
    code, output = ffd("sample", "runs/own_teacher", "-n", "10", "-o", "samples.npz")
    assert code == 2
    assert "describes a student that cannot be built" in output
    assert "describes a student that cannot be built" in ROWS[NEEDS_ITS_TEACHER]
