"""Forty students of other people's kinds: each derivative right, or refused as listed.

`python tests/flow/test_zoo.py` prints the table of docs/results.md.
"""

import sys
import time
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1] / "fakes"))
from zoo import OPAQUE, ZOO, measured

from ffcore.flow.backend import BACKENDS

EXACT, ROUGH = 1e-5, 1e-2

pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute", "ignore:None of the inputs have requires_grad"
)


@pytest.mark.parametrize("name", [name for name, each in ZOO.items() if each.expects in BACKENDS])
def test_the_derivative_is_right(name: str) -> None:
    animal = ZOO[name]
    found, error = measured(animal)
    assert found.derivative.backend == animal.expects
    assert error < (ROUGH if animal.expects == OPAQUE else EXACT)


@pytest.mark.parametrize(
    "name", [name for name, each in ZOO.items() if each.expects not in BACKENDS]
)
def test_a_student_is_refused_as_listed(name: str) -> None:
    with pytest.raises(ValueError, match=ZOO[name].expects):
        measured(ZOO[name])


def test_few_are_refused_or_opaque() -> None:
    exact = [each for each in ZOO.values() if each.expects in ("dual", "jvp")]
    assert len(exact) >= 40
    assert len(ZOO) - len(exact) <= 6


def main() -> None:
    """Print the table: network, backend, error of the derivative, seconds."""
    sys.stdout.write("| network | backend | error | seconds |\n|---|---|---|---|\n")
    for name, animal in ZOO.items():
        start = time.perf_counter()
        try:
            found, error = measured(animal)
            said = f"{found.derivative.backend} | {error:.0e}"
        except ValueError as refusal:
            said = f"refused: {str(refusal).split(':')[0]} | "
        sys.stdout.write(f"| {name} | {said} | {time.perf_counter() - start:.2f} |\n")


if __name__ == "__main__":
    main()
