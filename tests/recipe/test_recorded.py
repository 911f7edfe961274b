"""Tables that could not be built again from what a run records."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from small_runs import small

from ffcore.interfaces import Context, Student
from ffcore.keys import key
from ffcore.recipe import check_recorded
from ffcore.recipe.components import BuildError
from ffcore.recipe.tables import components
from ffcore.run.stages import run
from ffcore_mlp.student import MlpAverageVelocity


@attrs.frozen
class Own:
    """A table in a module."""

    width: int = key(8, help="width")

    def build(self, context: Context) -> Student:
        """Build a student."""
        del context
        return MlpAverageVelocity(2, 0, width=self.width, depth=2)


def local() -> Any:
    @attrs.frozen
    class Local(Own):
        pass

    return Local()


def named(**names: str) -> Any:
    """A table whose class has other names than it had where it was defined."""
    table = local()
    for name, value in {"__qualname__": "Own", **names}.items():
        setattr(type(table), name, value)
    return table


@attrs.frozen
class Odd:
    """A table of something that no file holds."""

    anything: Any = key(SimpleNamespace(), help="anything")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (local(), r"test_recorded:local\.<locals>\.Local' is defined within a function"),
        (named(__module__="__main__"), "'__main__:Own' is defined in the program that runs"),
        (named(__module__="renamed"), "'renamed:Own' cannot be recorded, .* No module named"),
        (named(__qualname__="Gone"), r"test_recorded:Gone' cannot be recorded, .* no attribute"),
        (named(), r"test_recorded:Own' now stands for another class"),
        (Odd(), r"test_recorded:Odd' cannot be recorded"),
    ],
)
def test_a_table_that_cannot_be_built_again_is_refused(table: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_recorded("student", table)


def test_tables_of_plugins_and_of_modules_are_not() -> None:
    check_recorded("student", Own(width=4))
    for role, table in components(small()):
        check_recorded(role, table)


def test_a_run_refuses_it_before_anything_is_written(tmp_path: Path) -> None:
    recipe = attrs.evolve(small(), student=local())
    with pytest.raises(BuildError, match=r"^\[student\] type .* move the class to the top level"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
