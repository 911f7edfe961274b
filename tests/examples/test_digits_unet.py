"""The example of a U-Net works: from its training checkpoint to a sampled student."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ffcore.cli import main
from ffcore.flow.convention import Convention

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits_unet"
MODULES = ("unet", "train_unet", "unet_teacher")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the example; the process is in it."""
    for file in EXAMPLE.glob("*.*"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with torch.random.fork_rng(devices=[]):
        yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


def ffd(*arguments: str) -> None:
    found = CliRunner().invoke(main, [*arguments], prog_name="ffd")
    assert found.exit_code == 0, f"{found.output} {found.exception}"


def test_the_checkpoint_becomes_a_student_that_is_sampled_without_it(folder: Path) -> None:
    from train_unet import train

    torch.save(train(steps=2, batch=8), "unet.pt")
    short = ("training.steps=2", "training.batch=8", "evaluation.enabled=false")
    ffd("run", "digits_unet.toml", *(word for each in short for word in ("--set", each)))
    Path("unet.pt").unlink()
    ffd("export", "runs/digits_unet", "-o", "exported")
    ffd("sample", "exported", "-n", "10", "-o", "samples.png")


def test_the_schedule_of_its_training_is_the_recipe_s(folder: Path) -> None:
    from unet import alphas_cumprod

    convention = Convention(
        prediction="noise", path="vp", time="index", schedule="cosine", sigma_range=(0.001, 50.0)
    )
    assert convention.numbers is not None
    alpha = alphas_cumprod().double().sqrt()
    sigma = (1 - alpha**2).sqrt()
    found = torch.tensor(convention.numbers)
    torch.testing.assert_close((sigma / (alpha + sigma)).float(), found, rtol=1e-4, atol=1e-4)
