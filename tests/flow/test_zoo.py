"""Forty students of other people's kinds: each derivative right, or refused as listed.

`python tests/flow/test_zoo.py` prints the table of docs/results.md.
"""

import itertools
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1] / "fakes"))
from inputs import Stream
from zoo import CLASSES, OPAQUE, ZOO, Animal

from ffcore.draws import Draws
from ffcore.flow.backend import BACKENDS
from ffcore.flow.derivative import Derivative
from ffcore.flow.derivative_check import Agreement, _perturb, self_check
from ffcore.interfaces import Condition, Student

SIZE = 4
DRAWS = Draws(0, 0, 0, SIZE)
EXACT, ROUGH = 1e-5, 1e-2


def independent(
    student: Student, z: Tensor, delta: Tensor, condition: Condition, h: float
) -> Tensor:
    """∂_δ F by central differences, extrapolated four times: an error of order h^8."""
    ones = torch.ones_like(delta)

    def difference(step: float) -> Tensor:
        one, other = (student(z, ones, delta + sign * step, condition) for sign in (1, -1))
        return (one - other) / (2 * step)

    with torch.no_grad():
        table = [difference(h / 2**k) for k in range(4)]
    for order in range(1, 4):
        table = [
            (4**order * fine - coarse) / (4**order - 1)
            for coarse, fine in itertools.pairwise(table)
        ]
    return table[0]


def gradients(student: Student, output: Tensor) -> list[Tensor]:
    student.zero_grad()
    output.square().sum().backward()
    return [each.grad for each in student.parameters() if each.grad is not None]


def measured(animal: Animal) -> tuple[Agreement, float]:
    """Return what "auto" picks, and the error of its derivative; check output and gradient."""
    stream = Stream(0)
    z, delta = stream.normal(SIZE, *animal.shape), stream.uniform(0.1, 0.9, SIZE)
    condition = Condition(size=SIZE, label=torch.arange(SIZE) % CLASSES)
    student = animal.student()
    found = self_check(student, Derivative(), z, condition, DRAWS)
    _perturb(student, DRAWS)  # otherwise a last layer of zeros would hide the derivative

    def function(moved: Tensor) -> Tensor:
        output: Tensor = student(z, torch.ones_like(delta), moved, condition)
        return output

    output, change = found.derivative.with_value(
        function, (delta,), (torch.ones_like(delta),), room=(delta, 1 - delta)
    )
    wanted = independent(student, z, delta, condition, animal.step)
    error = float((change - wanted).norm() / wanted.norm())
    plain = function(delta)
    torch.testing.assert_close(output, plain, rtol=1e-12, atol=1e-12)
    pairs = zip(gradients(student, output), gradients(student, function(delta)), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    return found, error


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
