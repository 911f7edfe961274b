"""Every law catches what breaks it, and nothing else does."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from broken import MUTANTS, Mutant
from healthy import HEALTHY, PullCorrector, PullPredictor, table
from torch import Tensor

from ffcore.flow.exact import GaussianMixture
from ffcore.interfaces import (
    Auxiliary,
    Batch,
    Context,
    FunctionTeacher,
    Networks,
    Student,
    Teacher,
)
from ffcore.plugins import ROLES
from ffcore.recipe import load_recipe
from ffcore.testing import SETTINGS, Result, check_tables, laws_of, process
from ffcore.testing.case import EXACT, KINDS, OBJECTIVES
from ffcore.testing.law import ANY, LAWS
from ffcore.testing.result import Status
from ffcore.testing.small import SmallVelocity, small_teacher

BRIEF = (EXACT, SETTINGS[-1])
"""Vectors without conditions, and latents of classes over a range of γ."""

NAMES = {
    "component": [
        "is-of-its-role",
        "answers-as-its-role-does",
        "is-a-frozen-table",
        "survives-a-recipe",
        "explains-its-keys",
        "is-honest-about-its-needs",
        "builds-the-same-twice",
        "is-deterministic",
        "leaves-the-process-alone",
        "saves-and-loads",
        "has-the-same-shapes-meta",
    ],
    "teacher": [
        "is-frozen",
        "states-its-sample-shape",
        "keeps-shape-and-dtype",
        "is-finite-at-both-ends",
        "is-independent-of-the-batch",
        "leaves-its-inputs-alone",
        "reads-what-it-is-given",
        "draws-conditions-from-the-draws",
        "has-a-null-condition-or-says-not",
        "copies-itself-to-train",
        "gives-its-copy-an-input-for-guidance",
        "keeps-what-its-table-says",
        "points-from-noise-to-data",
    ],
    "student": [
        "says-where-it-starts",
        "keeps-shape-and-dtype",
        "is-the-identity-at-no-duration",
        "is-finite-at-every-duration",
        "is-independent-of-the-batch",
        "leaves-its-inputs-alone",
        "answers-the-same-in-training",
        "is-differentiable-in-the-duration",
        "trains-every-parameter",
        "reads-what-it-is-given",
        "takes-no-guidance-for-one",
        "can-be-rebuilt-without-its-teacher",
    ],
    "corrector": [
        "answers-with-gaps",
        "sends-its-gradient-to-the-student-alone",
        "calls-within-the-domain",
        "changes-no-network",
        "is-data-free-unless-it-says",
        "owns-its-auxiliaries",
        "trains-its-auxiliaries-alone",
        "passes-its-own-check",
        "draws-the-student-to-the-teacher",
    ],
    "conditions": [
        "draws-from-the-draws",
        "has-a-null-condition-or-says-not",
        "finds-conditions-by-name",
        "tells-each-condition",
        "knows-its-identity",
    ],
    "data": [
        "states-its-size",
        "gives-samples",
        "gives-conditions-that-the-teacher-understands",
        "reads-a-sample-by-its-index-alone",
        "leaves-its-inputs-alone",
        "has-more-than-one-sample",
    ],
    "balancer": [
        "splits-the-whole-batch",
        "weighs-every-sample",
        "weighs-a-sample-by-itself",
        "scales-every-objective",
        "scales-alike-on-every-rank",
        "bears-gaps-that-vanish",
    ],
    "network": [
        "keeps-shape-and-dtype",
        "is-finite-at-both-ends",
        "is-independent-of-the-batch",
        "leaves-its-inputs-alone",
        "trains-every-parameter",
        "reads-what-it-is-given",
        "takes-no-guidance-for-one",
    ],
    "features": [
        "has-a-name",
        "gives-vectors",
        "is-independent-of-the-batch",
        "leaves-its-inputs-alone",
        "distinguishes-samples",
        "reads-one-of-its-classes",
    ],
    "decoder": [
        "gives-images",
        "is-independent-of-the-batch",
        "leaves-its-inputs-alone",
        "distinguishes-samples",
        "refuses-what-it-cannot-decode",
    ],
    "tracker": [
        "stays-in-its-folder",
        "leaves-what-it-is-given-alone",
        "says-nothing-on-stdout",
        "goes-on-with-what-it-kept",
        "takes-whatever-is-measured",
        "closes-at-any-time",
    ],
}
NAMES["predictor"] = [*NAMES["corrector"], "rests-at-the-flow-map"]
for _role in ("corrector", "predictor"):
    NAMES[_role] += ["calls-networks-whatever-was-drawn", "answers-to-each-sample-by-itself"]


def broken(results: list[Result]) -> dict[str, str]:
    return {each.law: each.found for each in results if each.status == "broken"}


@pytest.mark.parametrize("role", [ANY, *ROLES])
def test_a_law_keeps_its_number(role: str) -> None:
    """A new one comes last; where one goes, its place is left empty: None, and nothing moves."""
    laws = laws_of(role) if role == ANY else [each for each in laws_of(role) if each.role == role]
    found = {each.number: each.name for each in dict.fromkeys(laws)}
    assert found == {n: name for n, name in enumerate(NAMES[role], 1) if name is not None}


def test_every_role_has_a_class_and_laws_and_something_healthy() -> None:
    assert list(KINDS) == list(ROLES)
    assert {each.role for each in LAWS} == {ANY, *ROLES}
    assert HEALTHY.keys() == ROLES.keys()


def test_every_law_says_what_it_asks() -> None:
    assert [each.name for each in LAWS if not each.text.endswith(".")] == []


@pytest.mark.parametrize(
    ("role", "tables"),
    [(role, [each]) for role, each in HEALTHY.items()]
    + [("predictor", [table("predictor", PullPredictor)])],
)
def test_what_is_healthy_keeps_every_law(role: str, tables: list[object]) -> None:
    results = check_tables(f"{role}/healthy", role, tables)
    assert broken(results) == {}
    assert {each.law for each in results if each.status == "not checked"} <= {
        "saves-and-loads",
        "has-the-same-shapes-meta",
        "trains-its-auxiliaries-alone",
        "keeps-what-its-table-says",
        "points-from-noise-to-data",
        *(["is-deterministic"] if role == "tracker" else []),
    }


def directions(teacher: Teacher) -> dict[str, Status]:
    """What becomes of the law of directions, for a teacher and its three reversals."""

    def result(name: str, sign: int, reverse: bool) -> Status:
        class Reversed(FunctionTeacher):
            def __init__(self) -> None:
                super().__init__(
                    lambda x, t, c: sign * teacher(x, 1 - t if reverse else t, c),
                    teacher.sample_shape,
                    teacher.conditions,
                )

        found = check_tables(
            "teacher/x", "teacher", [table("teacher", Reversed, offers=frozenset())]
        )
        return next(each.status for each in found if each.law == "points-from-noise-to-data")

    return {
        name: result(name, sign, reverse)
        for name, sign, reverse in (("ours", 1, False), ("sign", -1, False), ("time", 1, True))
    }


def test_which_way_a_trained_or_an_exact_teacher_points_is_told() -> None:
    recipe = load_recipe("digits.toml")
    mixture = GaussianMixture([[3.0, 0.0], [-1.0, 5.0]], 0.4, labels=[0, 1])
    for teacher in (recipe.teacher.build(Context()), mixture):
        found = directions(teacher)
        assert found == {"ours": "holds", "sign": "broken", "time": "broken"}


@pytest.mark.parametrize("shape", [(2,), (3,), (1, 8, 8), (4, 8, 8)])
def test_an_untrained_teacher_is_not_asked_which_way_it_points(shape: tuple[int, ...]) -> None:
    for seed in range(5):
        with process.seed_torch(seed):
            teacher = small_teacher(shape, 3)
        assert set(directions(teacher).values()) == {"not checked"}


@pytest.mark.parametrize("seed", range(3))
def test_a_corrector_whose_network_learns_from_scratch_and_slowly_is_sound(seed: int) -> None:
    """At first its gap says nothing; it does once the network has learnt."""

    class FromScratch(PullCorrector):
        def auxiliaries(self, student: Student, teacher: Teacher) -> Mapping[str, Auxiliary]:
            with process.seed_torch(seed):
                return {"online": self.learning(SmallVelocity((2,), 0))}

    class TheOtherWay(FromScratch):
        def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
            return -super().gap(networks, batch, samples)

    def found(kind: type) -> Result:
        results = check_tables("corrector/x", "corrector", [table("corrector", kind)], (EXACT,))
        return next(each for each in results if each.law == "draws-the-student-to-the-teacher")

    assert found(FromScratch).status == "holds"
    wrong = found(TheOtherWay)
    assert wrong.status == "broken"
    assert "samples for 200 steps" in wrong.found
    assert "may have the wrong sign" in wrong.found


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: f"{each.role}-{each.name}")
def test_a_broken_component_breaks_its_law_and_no_other(
    mutant: Mutant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some write where the process works
    settings = (EXACT,) if mutant.role in OBJECTIVES else BRIEF
    found = broken(check_tables("x/y", mutant.role, [mutant.table], settings))
    assert mutant.breaks in found
    assert re.search(mutant.says, found[mutant.breaks]), found[mutant.breaks]
    of_role = {each.name for each in laws_of(mutant.role)}
    assert found.keys() - {mutant.breaks} == mutant.also & of_role, found


def test_no_law_goes_without_a_component_that_breaks_it() -> None:
    seen = {(mutant.role, mutant.breaks) for mutant in MUTANTS}
    of_any = {law for _, law in seen}
    assert [
        each.label
        for each in LAWS
        if (each.name not in of_any if each.role == ANY else (each.role, each.name) not in seen)
    ] == []
