"""All that is measured of a student, together."""

import json

import attrs
import pytest
import torch
from networks import ExactStudent

from ffcore.flow.exact import Gaussian
from ffcore.flow.guidance import Guided
from ffcore.recipe import Training
from ffcore.training.optimizer import Optimizer
from ffcore.verify import Settings, Subject, verify
from ffcore_mlp.student import MlpVelocity

TEACHER = Gaussian([1.0, -2.0], 0.5)
SETTINGS = Settings(samples=1000, fit_steps=300, fit_samples=1000, batch=1000)


def subject(student: Gaussian, **changes: object) -> Subject:
    """The exact student of one Gaussian, beside another as its teacher."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MlpVelocity(2, 0, width=48, depth=2)
    given = {
        "student": ExactStudent(student),
        "teacher": Guided(TEACHER),
        "guidance": 1.0,
        "network": network,
        "optimizer": Optimizer(learning_rate=3e-3),
        "training": Training(steps=1, batch=256, threads=1),
        "classifiers": (),
        "record": {},
        "notes": (),
    }
    return Subject(**(given | changes))  # type: ignore[arg-type]


def test_a_perfect_student_is_at_the_level_of_the_teachers_own_samples():
    found = verify(subject(TEACHER), SETTINGS)
    assert found.noising is not None
    assert tuple(found.noising.student) == tuple(found.noising.control) == tuple(found.identity)
    for r, gap in found.noising.student.items():
        control = found.noising.control[r]
        # The same noise and, to the solver's error, the same samples.
        assert gap.errors.absolute.rms == pytest.approx(control.errors.absolute.rms, rel=0.05)
        assert abs(gap.at_least) < 4 * gap.at_least_error
    assert max(each.absolute.rms for each in found.identity.values()) < 1e-5


def test_another_distributions_student_stands_out():
    found = verify(subject(Gaussian([1.6, -2.2], 0.8)), SETTINGS)
    assert found.noising is not None
    gap, control = (each[0.25] for each in (found.noising.student, found.noising.control))
    assert gap.errors.absolute.rms > 4 * control.errors.absolute.rms
    assert gap.at_least > 10 * gap.at_least_error
    # and every sample is off: exact maps to N(μ', s'²) and N(μ, s²) differ by μ' − μ + (s' − s) z
    assert found.closed_form is not None
    expected = ((0.6**2 + 0.2**2) / 2 + 0.3**2) ** 0.5
    assert found.closed_form[1.0].absolute.rms == pytest.approx(expected, rel=0.05)


def test_the_fit_trains_a_copy_and_the_same_numbers_come_again():
    one = subject(TEACHER)
    before = [each.clone() for each in one.network.parameters()]
    short = attrs.evolve(SETTINGS, samples=64, fit_steps=5, fit_samples=32, batch=32)
    found, again = (verify(one, short).document() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(before, one.network.parameters(), strict=True))
    for document in (found, again):
        document.pop("seconds")
    assert found == again
    assert json.loads(json.dumps(found)) == found
    assert found["conditions"]["fit"]["optimizer"]["schedule"] == "cosine"


@pytest.mark.parametrize("changes", [{"network": None}, {}])
def test_the_fit_may_be_left_out(changes):
    steps = 0 if not changes else 5
    short = attrs.evolve(SETTINGS, samples=32, fit_steps=steps, fit_samples=32)
    found = verify(subject(TEACHER, **changes), short)
    assert found.noising is None
    assert found.conditions["fit"] is None
    assert len(found.notes) == len(changes)  # what was asked for need not be said


def test_progress_is_told_of_every_part():
    told: dict[str, tuple[int, int]] = {}
    short = attrs.evolve(SETTINGS, samples=48, fit_steps=5, fit_samples=32, batch=32)
    verify(
        subject(TEACHER), short, lambda what, done, total, news: told.update({what: (done, total)})
    )
    assert list(told) == ["both flows", "teacher's samples", "fit, student", "fit, teacher"]
    assert all(done == total for done, total in told.values())
