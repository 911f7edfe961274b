"""The example of a condition of one's own works from its page alone."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from ffcore import Condition, Draws, load_sampler, load_student, load_teacher_sampler
from ffcore.cli import main
from ffcore.testing import check_class

ROOT = Path(__file__).parents[2]
EXAMPLES, PAGE = ROOT / "examples", ROOT / "docs" / "own-conditions.md"
FILES = ["own_conditions.py", "own_conditions.toml"]
SHORT = (
    "training.steps=300", "evaluation.samples=200", "evaluation.euler=[1, 2]",
    "evaluation.solver.steps=16", "evaluation.previews=2",
)  # fmt: skip


def blocks(language: str) -> list[str]:
    """The page's blocks of a language without a title."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def ffd(*arguments: object) -> Result:
    found = CliRunner().invoke(main, [*map(str, arguments)])
    assert found.exit_code == 0, found.output
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example in a folder of its own, run for a few steps, and exported."""
    folder = tmp_path_factory.mktemp("example")
    for name in FILES:
        shutil.copy(EXAMPLES / name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ffd("run", "own_conditions.toml", *(part for each in SHORT for part in ("--set", each)))
        ffd("export", "runs/own_conditions", "-o", "arm")
    return folder


def test_the_page_shows_the_files():
    for name in FILES:
        (shown,) = re.findall(rf'^```\w+ title="{name}"\n(.*?)^```$', PAGE.read_text(), re.M | re.S)
        assert shown == (EXAMPLES / name).read_text()


def test_the_commands_of_the_page_sample_by_name(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (commands, _) = blocks("sh")
    lines = [line.partition("#")[0].split(maxsplit=1)[1] for line in commands.splitlines()]
    sampling = [line for line in lines if line.startswith("sample")]
    assert len(sampling) == 2
    for line in sampling:
        ffd(*_words(line))
    with np.load("hands.npz") as kept:
        hands = torch.from_numpy(kept["arr_0"])
    reach, fold = hands[::2].mean(0), hands[1::2].mean(0)
    assert reach[0] > 1.5  # an arm of length 2, stretched out
    assert fold[0] < reach[0] - 1
    with np.load("other.npz") as kept:
        assert kept["arr_0"].shape == (100, 2)


def _words(line: str) -> list[str]:
    import shlex

    return shlex.split(line)


def test_the_python_of_the_page_gives_the_same_samples(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    loading, writing, network = blocks("python")
    compile(network, "own-conditions.md", "exec")
    names: dict[str, object] = {}
    exec(loading, names)
    hands = names["hands"]
    assert isinstance(hands, torch.Tensor)
    again = load_sampler("runs/own_conditions")(100, conditions=["reach", "fold"])
    assert torch.equal(hands, again)
    load_student("arm")
    teacher = load_teacher_sampler("runs/own_conditions")(400, conditions=["reach"])
    assert teacher[:, 0].mean() == pytest.approx(2.0, abs=0.05)
    monkeypatch.chdir(tmp_path)
    exec(writing, {})
    recipe = (EXAMPLES / "own_conditions.toml").read_text()
    shutil.copy(EXAMPLES / "own_conditions.py", tmp_path)
    (ours,) = re.findall(r"^\[conditions\]\n.*?\n\n", recipe, re.M | re.S)
    (named,) = blocks("toml")
    needy = recipe.replace(ours, named + "\n")
    (tmp_path / "named.toml").write_text(needy)
    found = CliRunner().invoke(main, ["validate", "named.toml"])
    assert "needs 'pose', but conditions 'named' offers 'conditions'" in found.output


def test_the_tables_keep_every_law():
    for found in (
        check_class("own_conditions:PosesTable"),
        check_class("own_conditions:ArmTable", conditions="own_conditions:PosesTable"),
    ):
        assert [each for each in found if each.fails] == []


def test_the_velocity_is_the_mean_of_data_minus_noise():
    from own_conditions import Arm, Poses

    generator = torch.Generator().manual_seed(0)
    size = 50_000
    poses = Poses(0.5)
    condition = poses.draw(Draws(0, 0, 0, size))
    assert condition.pooled is not None
    angle = condition.pooled.cumsum(1)
    hand = torch.stack([angle.cos().sum(1), angle.sin().sum(1)], 1) / 3
    hand[:, 1] *= 2 * torch.randint(2, (size,), generator=generator) - 1
    x = hand + 0.1 * torch.randn(size, 2, generator=generator)
    n, t = torch.randn(size, 2, generator=generator), torch.rand(size, generator=generator)
    u = Arm(poses)((1 - t[:, None]) * x + t[:, None] * n, t, condition)
    slope = float(((x - n) * u).mean() / u.square().mean())
    assert slope == pytest.approx(1, abs=0.02)


def test_poses_are_named_and_told():
    from own_conditions import NAMED, Poses

    poses = Poses(0.5)
    found = poses.of(["fold", "0.1 0 0 0 0 -2"])
    assert poses.texts(found) == ["fold", "0.10 0.00 0.00 0.00 0.00 -2.00"]
    assert isinstance(found, Condition)
    for wrong in ("folded", "1 2 3", "nan 0 0 0 0 0", ""):
        with pytest.raises(ValueError, match=f"must be {', '.join(NAMED)} or 6 angles"):
            poses.of([wrong])
    assert "own_conditions" in sys.modules
