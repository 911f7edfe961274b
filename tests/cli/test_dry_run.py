"""`ffd run --dry-run`, as a person meets it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ffcore.cli import ExitCode, main
from ffcore.nn import size

LARGEST = "sit_xl_repa_512"
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


def ffd(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["run", *arguments])


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    """A folder of one's own that is still empty in the end."""
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_ours_tells_its_cost_in_80_columns(recipe, monkeypatch):
    if recipe.stem != LARGEST:  # whose numbers are the widest; depth makes a count slow, not other
        shallow = {letter: (width, 2, heads) for letter, (width, _, heads) in size.SIZES.items()}
        monkeypatch.setattr(size, "SIZES", shallow)
    found = ffd(str(recipe), "--dry-run")
    assert found.exit_code == ExitCode.OK, found.output
    assert found.stderr == ""
    lines = found.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "…" not in found.stdout
    for title in ("Parameters", "Memory of one GPU", "(estimate)", "FLOPs of one step", "NFE"):
        assert title in found.stdout
    assert lines[-1] == "This was a dry run: nothing was trained or written."


def test_the_tables_hold_the_numbers():
    found = ffd("digits.toml", "--dry-run", "--gpus", "4").stdout
    words = [line.split() for line in found.splitlines()]
    assert ["student", "349,572", "349,572"] in words
    assert ["teacher", "328,964", "0"] in words
    assert ["teacher,", "forward", "48", "328", "M", "13.0%"] in words
    assert ["student", "16", "5.70", "M", "2.85", "M"] in words  # activations of 64 / 4 samples
    assert "1,000 steps of 64 samples, 4 GPUs" in found
    assert "128 NFE" in found


def test_json_is_one_document_whose_parts_add_up():
    document = json.loads(ffd("digits.toml", "--dry-run", "--json").stdout)
    assert document["gpus"] == 8
    step, memory = document["step"], document["memory"]
    assert step["flops"] == sum(each["flops"] for each in step["passes"])
    assert document["run"] == {"steps": 1000, "flops": 1000 * step["flops"]}
    for kind in ("whole", "sharded"):
        networks = [each["memory"][kind]["total"] for each in document["networks"]]
        assert memory[kind]["total"] == sum(networks)
    assert document["networks"][0] | {"memory": None} == {
        "name": "teacher", "parameters": 328964, "trainable": 0, "memory": None,
    }  # fmt: skip
    assert [each["samples"] for each in document["activations_estimate"]] == [8, 2]
    assert document["sampler"]["teacher"]["nfe"] == 128
    assert document["sampler"]["student"]["nfe"] == 1


def test_what_is_done_before_the_first_step_is_counted():
    pairs = "predictor={type='pairs', pairs=30, solver={method='euler', steps=4}}"
    changes = ("--set", "corrector=none", "--set", pairs)
    text = " ".join(ffd("digits.toml", *changes, "--dry-run").stdout.split())
    assert "before the first step (teacher, forward, 120 samples)" in text
    document = json.loads(ffd("digits.toml", *changes, "--dry-run", "--json").stdout)
    (before,) = document["preparation"]
    assert before["flops"] == 120 * document["sampler"]["teacher"]["flops_per_evaluation"]
    steps = 1000 * document["step"]["flops"]
    assert document["run"]["flops"] == steps + 8 * before["flops"]


def test_an_adaptive_sampler_is_said_to_be_one():
    adaptive = ("digits.toml", "--dry-run", "--set", 'evaluation.solver={method="dopri5"}')
    assert "(dopri5): adaptive NFE" in ffd(*adaptive).stdout
    assert json.loads(ffd(*adaptive, "--json").stdout)["sampler"]["teacher"]["nfe"] == "adaptive"


def test_no_weights_are_needed_where_sizes_are_stated():
    stated = ["teacher.model='S/8'", "teacher.weights='gone.pt'"]
    overrides = [word for each in stated for word in ("--set", each)]
    found = ffd("digits.toml", *overrides, "--dry-run")
    assert found.exit_code == ExitCode.OK, found.output
    assert "gone.pt" in ffd("digits.toml", *overrides).output  # which a run needs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gaussian.toml", "--gpus", "2"], "--gpus needs --dry-run"),
        (["gaussian.toml", "--dry-run", "--gpus", "0"], "0 is not in the range"),
        (
            ["gaussian.toml", "--dry-run", "--set", "guidance.scale=2.0"],
            "teacher has no null condition",
        ),
    ],
)
def test_bad_input_gets_one_message(arguments, said):
    found = ffd(*arguments)
    assert found.exit_code == ExitCode.USAGE
    assert said in found.stderr
    assert found.stdout == ""
