import subprocess
import sys
from pathlib import Path

import pytest

import ffcore


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import ffcore, sys; print(sorted({'torch', 'numpy', 'attrs'} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


@pytest.mark.parametrize("name", ffcore.__all__)
def test_a_name_is_handed_on_from_where_it_is_defined(name: str) -> None:
    assert getattr(ffcore, name).__module__.startswith(ffcore._HOMES[name])


def test_the_lists_of_names_agree() -> None:
    assert sorted(ffcore._HOMES) == ffcore.__all__
    assert set(ffcore.__all__) <= set(dir(ffcore))


def test_no_name_is_hidden_by_a_module_of_that_name() -> None:
    modules = {path.stem for path in Path(ffcore.__file__).parent.iterdir()}
    assert not modules & set(ffcore.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Studnet'"):
        _ = ffcore.Studnet
