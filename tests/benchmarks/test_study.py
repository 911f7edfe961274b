"""Studies: what their files say, and the table of what was found."""

from pathlib import Path

import pytest
from scipy.stats import t
from study import Keeping, Study, draw, interval, table

STUDIES = sorted((Path(__file__).parents[2] / "benchmarks" / "science" / "studies").glob("*.toml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda each: each.stem)
def test_a_study_names_recipes_that_there_are(path: Path) -> None:
    study = Study.read(path)
    recipes = [study.recipe_of(case, seed) for case in study.cases().values() for seed in (0, 1)]
    assert len({str(each) for each in recipes}) == len(recipes)
    assert all(each.training.steps == study.at[-1] for each in recipes)


def test_variants_and_the_values_of_a_grid_are_combined() -> None:
    study = Study(
        title="", recipe="digits.toml", at=[2],
        variants={"joint": [], "alone": ["corrector=none"]}, grid={"balancer.power": [0.0, 1.0]},
    )  # fmt: skip
    assert study.cases() == {
        "joint, power 0.0": ["balancer.power=0.0"],
        "joint, power 1.0": ["balancer.power=1.0"],
        "alone, power 0.0": ["corrector=none", "balancer.power=0.0"],
        "alone, power 1.0": ["corrector=none", "balancer.power=1.0"],
    }


def test_an_interval_is_students() -> None:
    mean, half = interval([1.0, 2.0, 6.0])
    low, high = t.interval(0.95, 2, loc=3, scale=(7 / 3) ** 0.5)
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_a_run_is_made_once_measured_on_the_way_and_told(tmp_path: Path) -> None:
    keeping = Keeping(runs=tmp_path / "runs", results=tmp_path / "results.jsonl")
    study = Study(
        title="Which way", recipe="gaussian.toml", at=[2, 4], seeds=[0],
        set=["training.batch=16", "evaluation.samples=64", "evaluation.solver={steps=4}"],
    )  # fmt: skip
    assert keeping.found(study, [], 0) is None
    keeping.make(study, [], 0)
    found = keeping.found(study, [], 0)
    assert found is not None
    assert found[2]["distances"]["raw"] != found[4]["distances"]["raw"]
    other = ["balancer.power=0.0"]
    assert keeping.found(study, other, 0) is None
    cases = {"as it is": [found]}
    assert f"| as it is | {found[4]['distances']['raw']:.3f} |" in table(study, cases)
    draw(study, cases, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
