"""Best-of-N: which noise is chosen, what it costs, and what the teacher makes of it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from networks import Counted, ExactStudent, FieldTeacher
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor

from ffcore.draws import Draws
from ffcore.evaluate import Made, Reference
from ffcore.evaluate.metrics import Statistics, frechet_distance
from ffcore.flow.exact import Gaussian
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, Decoder, Labels, Student
from ffcore.plugins import PluginError
from ffcore.sample import SampleError, Sampler, StudentSampler, TeacherSampler
from ffcore.search import Verifier, VerifierError, check_free, compare, keep, search
from ffcore.search.comparison import affordable
from ffcore_exact.features import Raw

MEAN, SCALE = 1.0, 0.5
FIRST, SECOND = f"{__name__}:first_coordinate", f"{__name__}:second_coordinate"


class AsItIs(Decoder):
    """Samples as they are."""

    def forward(self, samples: Tensor) -> Tensor:
        return samples


class Counting(Student):
    """A student that counts the rows it is asked for."""

    starts_at = "prior"

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student
        self.rows = 0

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        self.rows += len(x_t)
        found: Tensor = self.student(x_t, t, delta, condition)
        return found


def gaussian() -> Gaussian:
    return Gaussian(torch.tensor([MEAN, -2.0]), SCALE)


def a_student() -> Sampler:
    """One that is exact: f(z, 1) = mean + scale · z."""
    teacher = gaussian()
    student = Counting(ExactStudent(teacher))
    return Sampler(StudentSampler(student, teacher.sample_shape, teacher.conditions), AsItIs())


def a_teacher(steps: int = 4, method: str = "heun") -> Sampler:
    return Sampler(TeacherSampler(gaussian(), Solver(method, steps)), AsItIs())


def rows_of(student: Sampler) -> int:
    assert isinstance(student.generator, StudentSampler)
    assert isinstance(student.generator.student, Counting)
    return student.generator.student.rows


def first_coordinate(images: Tensor, condition: Condition) -> Tensor:
    assert len(images) == condition.size
    return images[:, 0]


def second_coordinate(images: Tensor, condition: Condition) -> Tensor:
    del condition
    return images[:, 1]


def expected_largest(candidates: int) -> float:
    """The mean of the largest of N standard normals, ∫ x N φ(x) Φ(x)^(N − 1) dx."""
    density = lambda x: x * candidates * norm.pdf(x) * norm.cdf(x) ** (candidates - 1)  # noqa: E731
    return float(quad(density, -12, 12)[0])


# Which noise


def test_the_best_scores_as_the_largest_of_n_normals_does() -> None:
    student, teacher, number = a_student(), a_teacher(16), 1500
    asked = student.request(number)
    found = compare(
        student, teacher, first_coordinate, asked, [16], judges=[second_coordinate], batch=256
    )
    for row in found.rows:
        score = row.student.scores[FIRST]
        expected = MEAN + SCALE * expected_largest(row.candidates)
        assert abs(score.mean - expected) < 4 * score.error
        # the teacher follows the same flow from the same noise, but for its 16 steps
        assert abs(row.searched.scores[FIRST].mean - score.mean) < 5e-3
        # what the verifier did not look at is as it was
        free = row.student.scores[SECOND]
        assert abs(free.mean + 2) < 4 * free.error
        assert free.error == pytest.approx(SCALE / number**0.5, rel=0.1)
    assert found.rows[-1].student.scores[FIRST].mean > MEAN + 1.5 * SCALE


def test_the_choice_is_the_largest_of_the_noises_themselves() -> None:
    student = a_student()
    best = search(student, first_coordinate, student.request(50, seed=3), [6])[6]
    candidates = torch.stack(
        [Draws(3, k, 0, 50).named("sample").normal("z", (2,))[:, 0] for k in range(6)]
    )
    assert best.noise == tuple(candidates.argmax(0).tolist())
    assert len({*best.noise}) == 6
    assert torch.equal(student.noise(best, 0, 50)[:, 0], candidates.amax(0))


def test_the_first_candidate_is_the_noise_of_a_plain_sampling() -> None:
    student = a_student()
    asked = student.request(40)
    first = attrs.evolve(asked, noise=(0,) * 40)
    assert torch.equal(student.make(first), student(40))
    assert not torch.equal(student.make(attrs.evolve(asked, noise=1)), student(40))


def test_one_screening_serves_every_number_of_candidates() -> None:
    student = a_student()
    asked = student.request(30)
    together = search(student, first_coordinate, asked, [8, 2, 32, 1, 8])
    assert rows_of(student) == 30 * 32
    assert list(together) == [1, 2, 8, 32]
    assert together[1] is asked
    for candidates in (2, 8, 32):
        assert search(student, first_coordinate, asked, [candidates]) == {
            candidates: together[candidates]
        }
        assert max(together[candidates].noise) < candidates


@pytest.mark.parametrize("batch", [1, 3, 29, 64, 1000])
@pytest.mark.parametrize("number", [1, 30])
def test_the_choice_does_not_depend_on_the_batch(batch: int, number: int) -> None:
    student = a_student()
    asked = student.request(number, seed=1)
    usual = search(student, first_coordinate, asked, [3, 40])
    assert search(student, first_coordinate, asked, [3, 40], batch=batch) == usual


def test_a_sample_is_chosen_alike_among_more_samples() -> None:
    student = a_student()
    few = search(student, first_coordinate, student.request(5), [16])[16]
    many = search(student, first_coordinate, student.request(70), [16])[16]
    assert many.noise[:5] == few.noise


def test_of_equal_scores_the_first_is_chosen() -> None:
    student = a_student()
    best = search(student, lambda images, condition: images[:, 0] * 0, student.request(9), [8])[8]
    assert best.noise == (0,) * 9


def test_a_batch_is_no_larger_than_asked_and_each_image_comes_with_its_condition() -> None:
    shape, seen = (1, 4, 4), []
    teacher = FieldTeacher(lambda x, t, c: -x, shape, Labels(10, 10))
    student = Sampler(
        StudentSampler(
            LabelPainter(),
            shape,
            teacher.conditions,
        ),
        AsItIs(),
    )

    def verifier(images: Tensor, condition: Condition) -> Tensor:
        seen.append(len(images))
        assert condition.label is not None
        assert images.shape == (len(images), *shape)
        assert images.abs().max() <= 1
        torch.testing.assert_close(images.flatten(1).mean(1), condition.label / 10)
        return images[:, 0, 0, 0]

    search(student, verifier, student.request(3, labels=[7, 1]), [50], batch=7)
    assert max(seen) <= 7
    assert sum(seen) == 150
    assert len(seen) == 25  # two candidates of three samples at a time


class LabelPainter(Student):
    """f(z, 1) = label / 10 everywhere."""

    starts_at = "prior"

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        del t, delta
        assert condition.label is not None
        return (condition.label / 10).view(-1, 1, 1, 1) - x_t


# What it costs


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("method", ["euler", "heun"])
def test_the_nfe_told_are_those_that_the_networks_counted(scale: float, method: str) -> None:
    number, candidates = 12, 24
    base = FieldTeacher(lambda x, t, c: -x, (2,), Labels(4, 4))
    counted = Counted(base)
    watched = FieldTeacher(lambda x, t, c: counted(x, t, c), (2,), Labels(4, 4))
    student = Counting(ExactStudent(gaussian()))
    ours = Sampler(StudentSampler(student, (2,), Labels(4, 4), scale=scale), AsItIs())
    theirs = Sampler(
        TeacherSampler(watched, Solver(method, 5), scale=scale, interval=(0.3, 0.8)), AsItIs()
    )
    asked = ours.request(number)
    best = search(ours, first_coordinate, asked, [candidates])[candidates]
    assert student.rows == number * candidates
    theirs.make(best)
    row = compare(ours, theirs, first_coordinate, asked, [candidates]).rows[-1]
    spent = number * candidates + counted_by(counted, lambda: theirs.make(best))
    assert row.searched.nfe * number == spent
    alone = theirs.in_steps(row.teacher.steps)
    assert row.teacher.nfe * number == counted_by(counted, lambda: alone.make(asked))
    assert row.searched.steps == 5 < row.teacher.steps
    assert row.teacher.nfe <= row.searched.nfe
    assert row.student.nfe == candidates


def counted_by(counted: Counted, work: Callable[[], object]) -> int:
    before = counted.evaluations
    work()
    return counted.evaluations - before


def test_without_a_search_there_is_nothing_but_the_teacher() -> None:
    student, teacher = a_student(), a_teacher(8)
    (row,) = compare(student, teacher, first_coordinate, student.request(20), [1]).rows
    assert row.searched == row.teacher
    assert (row.searched.nfe, row.searched.steps, row.student.nfe) == (16, 8, 1)
    assert rows_of(student) == 20


def test_64_candidates_and_8_heun_steps_cost_80_like_40_steps_alone() -> None:
    student = a_student()
    row = compare(student, a_teacher(8), first_coordinate, student.request(4), [64]).rows[-1]
    assert (row.searched.nfe, row.teacher.nfe, row.teacher.steps) == (80, 80, 40)


def test_a_candidate_costs_as_many_nfe_as_the_student_takes_steps() -> None:
    teacher = gaussian()
    exact = ExactStudent(teacher, starts_at="anywhere")
    student = Sampler(StudentSampler(exact, (2,), teacher.conditions), AsItIs())
    asked = student.request(4, steps=2)
    row = compare(student, a_teacher(8), first_coordinate, asked, [8]).rows[-1]
    assert (row.searched.nfe, row.student.nfe, row.student.steps) == (32, 16, 2)
    assert (row.teacher.nfe, row.teacher.steps) == (32, 16)


@pytest.mark.parametrize("interval", [None, (0.0, 1.0), (0.3, 0.7), (0.5, 0.5)])
@pytest.mark.parametrize("method", ["euler", "heun", "midpoint", "rk4"])
@pytest.mark.parametrize("last", ["full", "euler"])
def test_the_teacher_alone_gets_as_many_steps_as_the_budget_affords(
    interval: tuple[float, float] | None, method: str, last: str
) -> None:
    solver = Solver(method, 3, last_step=last)
    nfe = {steps: attrs.evolve(solver, steps=steps).nfe(interval) for steps in range(1, 100)}
    for budget in (nfe[1], 17, 34, 80):
        affords = max(steps for steps, cost in nfe.items() if cost <= budget)
        assert affordable(solver, budget, interval) == affords


# What the teacher makes of it


def test_the_teacher_starts_from_the_chosen_noise_and_no_other() -> None:
    student = a_student()
    base = FieldTeacher.around(gaussian())
    teacher = Sampler(TeacherSampler(base, Solver("euler", 3)), AsItIs())
    best = search(student, first_coordinate, student.request(10), [16])[16]
    made = teacher.make(best, batch=4)
    starts = torch.cat([x for x, t, _ in base.calls if float(t[0]) == 1])
    expected = torch.stack(
        [Draws(0, k, i, i + 1).named("sample").normal("z", (2,))[0]
         for i, k in enumerate(best.noise)]
    )  # fmt: skip
    assert torch.equal(starts, expected)
    assert torch.equal(made, teacher.make(best, batch=10))
    assert (made[:, 0] > teacher(10)[:, 0]).all()


def test_distances_are_those_of_the_same_samples_measured_apart() -> None:
    student, teacher = a_student(), a_teacher(8)
    normal = Statistics(np.array([MEAN, -2.0]), SCALE**2 * np.eye(2))
    reference = Reference(record={"source": "the law itself"}, statistics={"raw": normal})
    asked = student.request(300)
    found = compare(
        student, teacher, first_coordinate, asked, [16], features=[Raw()], reference=reference
    )
    plain, searched = (row.searched.features["raw"].fd for row in found.rows)
    made = teacher.make(found.chosen[16])
    assert searched == pytest.approx(frechet_distance(Statistics.of(made), normal), rel=1e-6)
    assert searched > 10 * plain  # what is chosen is not of the teacher's law


def test_a_reference_of_samples_is_read_once() -> None:
    student = a_student()
    asked = student.request(50)
    origin = {"source": "the teacher again"}
    other = Sampler(TeacherSampler(gaussian(), Solver("heun", 8)), AsItIs(), origin=origin)

    class Once(Made):
        times = 0

        def between(self, start, stop):
            type(self).times += 1
            return super().between(start, stop)

    samples = Once(other, other.request(50, seed=9))
    reference = Reference(record=samples.record, samples=samples)
    found = compare(
        student, a_teacher(), first_coordinate, asked, [2, 4], features=[Raw()], reference=reference
    )
    assert Once.times == 1
    assert found.rows[0].searched.features["raw"].fd < 1


# What cannot be


def raising(images: Tensor, condition: Condition) -> Tensor:
    raise KeyError("no such digit")


@pytest.mark.parametrize(
    ("verifier", "said"),
    [
        (lambda images, condition: images, r"returned a tensor \(8, 2\) for 8 images: it must "
         r"return a tensor \(8,\), one score for each"),
        (lambda images, condition: images.sum(), r"returned a tensor \(\) for 8 images"),
        (lambda images, condition: None, r"returned NoneType for 8 images"),
        (lambda images, condition: images[:, 0] / 0, r"returned -?inf for an image \(row 0 of 8\)"),
        (raising, r"verifier \S*test_search:raising failed: KeyError: 'no such digit', at "
         r".*test_search\.py:\d+$"),
    ],
)  # fmt: skip
def test_a_verifier_that_answers_no_scores_is_named(verifier: object, said: str) -> None:
    student = a_student()
    with pytest.raises(VerifierError, match=said):
        search(student, verifier, student.request(4), [2])


def test_memory_that_runs_out_in_a_verifier_is_not_the_verifiers_fault() -> None:
    def greedy(images: Tensor, condition: Condition) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Verifier(greedy)(torch.zeros(2, 2), Condition(size=2))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("confidence", "verifier 'confidence' is not of the form module:function"),
        ("ffcore_digits.verifiers:confidense", "did you mean 'confidence'?"),
        ("ffcore_digits.verifier:confidence", "No module named 'ffcore_digits.verifier'; did you "
         "mean 'verifiers'?"),
        ("ffcore_digit.verifiers:confidence", "did you mean 'ffcore_digits'?"),
        ("ffcore_digits.verifiers.no:confidence", "No module named 'ffcore_digits.verifiers.no'"),
        ("ffcore_digits.verifiers:SAMPLES", "is of type int and cannot be called"),
    ],
)  # fmt: skip
def test_a_verifier_that_is_not_there_is_told_with_the_nearest(name: str, said: str) -> None:
    with pytest.raises(PluginError) as caught:
        Verifier.load(name)
    assert name in str(caught.value)
    assert said in str(caught.value)


def test_a_verifier_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_own_verifier.py").write_text("def first(images, condition):\n    return images[:, 0]")
    assert Verifier.load("my_own_verifier:first")(torch.eye(2), Condition(size=2)).tolist() == [
        1,
        0,
    ]


@pytest.mark.parametrize(
    ("candidates", "said"),
    [([], "name at least one"), ([4, 0], "at least 1, found 0"), ([2.5], "whole number")],
)
def test_there_are_at_least_one_candidate(candidates: list[int], said: str) -> None:
    student = a_student()
    with pytest.raises(SampleError, match=said):
        search(student, first_coordinate, student.request(2), candidates)


def test_what_was_chosen_is_not_searched_again() -> None:
    student = a_student()
    best = search(student, first_coordinate, student.request(2), [2])[2]
    with pytest.raises(SampleError, match="is already chosen"):
        search(student, first_coordinate, best, [2])


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        (
            lambda: a_teacher(method="dopri5"),
            "dopri5 is adaptive, but a search needs its number of",
        ),
        (a_student, "the renderer must be a sampler from load_teacher_sampler"),
        (
            lambda: Sampler(
                TeacherSampler(FieldTeacher(lambda x, t, c: x, (2,), Labels(3)), Solver()), AsItIs()
            ),
            "student and teacher do not fit",
        ),
    ],
)
def test_student_and_teacher_must_belong_together(
    teacher: Callable[[], Sampler], said: str
) -> None:
    student = a_student()
    with pytest.raises(SampleError, match=said):
        compare(student, teacher(), first_coordinate, student.request(2), [2])


def test_no_judge_is_the_verifier() -> None:
    student = a_student()
    with pytest.raises(SampleError, match="name each once, and not the verifier"):
        compare(
            student,
            a_teacher(),
            first_coordinate,
            student.request(2),
            [2],
            judges=[first_coordinate],
        )


# What is kept


def test_what_is_kept_is_what_the_teacher_makes_of_the_best(tmp_path: Path) -> None:
    student, teacher = a_student(), a_teacher()
    found = compare(student, teacher, first_coordinate, student.request(20), [2, 4])
    out = tmp_path / "found"
    keep(out, found, student, teacher, {"schema": 1}, batch=7)
    assert {path.name for path in tmp_path.iterdir()} == {"found"}
    assert {path.name for path in out.iterdir()} == {
        "search.json",
        "search.png",
        "examples.png",
        "best_of_4.npz",
        "best_of_4.npz.json",
    }
    with np.load(out / "best_of_4.npz") as file:
        assert np.array_equal(file["arr_0"], teacher.make(found.chosen[4]).numpy())
    record = json.loads((out / "best_of_4.npz.json").read_text())
    assert record["noise"] == list(found.chosen[4].noise)
    assert record["nfe"] == 8
    with pytest.raises(SampleError, match="is an earlier search: choose another directory, or"):
        check_free(out, overwrite=False)
    check_free(out, overwrite=True)
    (out / "mine.txt").write_text("")
    with pytest.raises(SampleError, match=r"holds files that are not a search's \(mine.txt\)"):
        check_free(out, overwrite=True)
    (out / "search.json").unlink()
    with pytest.raises(SampleError, match="is not an earlier search"):
        check_free(out, overwrite=True)


def test_progress_counts_every_evaluation_to_the_last() -> None:
    student, told = a_student(), []
    compare(
        student,
        a_teacher(),
        first_coordinate,
        student.request(10),
        [2, 6],
        batch=4,
        progress=lambda *news: told.append(news),
    )
    for phase, total in (("search", 60), ("compare", 10 * (9 + (9 + 10) + (9 + 14)))):
        of_phase = [done for what, done, of in told if what == phase]
        assert of_phase == sorted(of_phase)
        assert of_phase[-1] == total
        assert {of for what, _, of in told if what == phase} == {total}


def test_a_verifiers_name_is_that_of_its_function() -> None:
    assert Verifier(first_coordinate).name == FIRST
    assert re.match(
        r"(tests\.search\.)?test_search:.*lambda", Verifier(lambda images, condition: images).name
    )
