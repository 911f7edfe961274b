"""Samples from the same noise while a student trains: seen, and without influence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from distillations import ends_as
from observers import Listens
from PIL import Image

from ffcore.flow.flow_map import generate
from ffcore.flow.ode import integrate
from ffcore.recipe import Recipe, load_recipe
from ffcore.report import plots as picture
from ffcore.run.build import build
from ffcore.run.previews import Previews, shown_noise, shown_steps
from ffcore.run.stages import run
from ffcore.system.distributed import Processes
from ffcore.system.faults import Unwritable
from ffcore.training.loop import Report

VECTORS = ("training.batch=64", "student.width=16", "evaluation.solver.steps=8")
IMAGES = ("training.batch=4", "evaluation.solver.steps=2", "evaluation.rows=3")


def short(name: str, *overrides: str) -> Recipe:
    every = ("training.steps=8", "training.log_every=3", "training.checkpoint_every=3")
    return load_recipe(name, [*every, "evaluation.enabled=false", *overrides])


def pictures(directory: Path) -> dict[str, bytes]:
    """The previews of a run, by their names."""
    return {path.name: path.read_bytes() for path in (directory / "previews").glob("*.png")}


class Interrupts(Listens):
    """Stops a run half-way, as a crash would."""

    def report(self, report: Report) -> None:
        if report.step == 6:
            raise KeyboardInterrupt


def test_a_run_is_shown_before_it_begins_at_its_end_and_at_every_half_of_it():
    assert sorted(shown_steps(1000, 8)) == [0, 15, 31, 62, 125, 250, 500, 1000]
    assert shown_steps(2000, 8) >= shown_steps(1000, 7)  # a run that is prolonged loses none
    assert sorted(shown_steps(5, 8)) == [0, 1, 2, 5]
    assert shown_steps(1000, 1) == {1000}
    assert shown_steps(1000, 0) == set()


@pytest.mark.parametrize(("name", "small"), [("mixture.toml", VECTORS), ("digits.toml", IMAGES)])
def test_previews_change_no_weight_and_are_the_same_after_a_resume(tmp_path, name, small):
    run(short(name, *small), tmp_path / "whole")
    run(short(name, *small, "evaluation.previews=0"), tmp_path / "without")
    assert ends_as(tmp_path / "whole", tmp_path / "without")
    assert not (tmp_path / "without" / "previews").exists()
    with pytest.raises(KeyboardInterrupt):
        run(short(name, *small), tmp_path / "parts", observer=Interrupts())
    late = tmp_path / "parts" / "previews" / "step-00000008.png"
    late.write_bytes((late.parent / "step-00000004.png").read_bytes())  # of what is made again
    run(short(name, *small), tmp_path / "parts")
    assert ends_as(tmp_path / "parts", tmp_path / "whole")
    steps = [f"step-{step:08d}.png" for step in (0, 1, 2, 4, 8)]
    assert sorted(pictures(tmp_path / "whole")) == [*steps, "teacher.png"]
    assert pictures(tmp_path / "parts") == pictures(tmp_path / "whole")


def test_a_preview_is_of_the_average_that_is_evaluated(tmp_path):
    recipe = short(
        "digits.toml", *IMAGES, "training.ema_decay=[0.5, 0.9]", "evaluation.ema_decay=0.9"
    )
    built = build(recipe)
    previews = Previews(tmp_path / "previews", built, recipe, Processes())
    previews.begin()
    for _ in range(4):
        built.distillation.step()
    previews.show(3)  # which is none of those shown
    previews.show(4)
    z, condition = shown_noise(built, 3)
    assert condition.label is not None
    assert condition.label.tolist() == [0, 1, 2]
    expected = {
        "step-00000004": generate(built.distillation.emas[0.9], z, condition),
        "teacher": integrate(
            built.distillation.teacher, z, condition, built.evaluator.measurement.solver
        ),
    }
    assert {path.stem for path in previews.folder.glob("*.png")} == {*expected, "step-00000000"}
    for name, samples in expected.items():
        with Image.open(previews.folder / f"{name}.png") as image:
            assert image.size == (3 * 64 + 2 * 4, 64)
            shown = torch.from_numpy(np.array(image.convert("L"))).float()
        pixels = torch.stack([shown[4::8, 68 * i + 4 : 68 * i + 64 : 8] for i in range(3)])
        assert (pixels / 127.5 - 1 - samples[:, 0].clamp(-1, 1)).abs().max() < 0.01


def test_previews_of_another_noise_are_made_no_more_of(tmp_path):
    recipe = short("mixture.toml", *VECTORS)
    run(recipe, tmp_path)
    run(short("mixture.toml", *VECTORS, "evaluation.seed=5"), tmp_path)
    assert sorted(pictures(tmp_path)) == ["step-00000008.png", "teacher.png"]


def test_a_picture_that_cannot_be_written_ends_the_run_with_the_reason(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(picture, "draw_preview", full)
    with pytest.raises(Unwritable, match=r"previews/teacher\.png could not be written: No space"):
        run(short("mixture.toml", *VECTORS), tmp_path)


def test_large_images_are_shown_small_and_many_in_several_rows(tmp_path):
    images = torch.linspace(-1, 1, 23 * 3 * 512 * 512).reshape(23, 3, 512, 512)
    picture.draw_preview(tmp_path / "preview.png", images, images, "some")
    with Image.open(tmp_path / "preview.png") as found:
        assert found.size == (10 * 132 - 4, 3 * 132 - 4)
        assert found.info[picture.CONDITIONS] == "some"
        assert [found.getpixel(place)[3] for place in ((64, 64), (130, 64), (1000, 380))] == [
            255, 0, 0,
        ]  # fmt: skip


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_vectors_are_shown_where_the_teachers_are(tmp_path, dimensions):
    behind = torch.zeros(2, dimensions)
    behind[:, 0] = torch.tensor([-1.0, 3.0])  # the picture reaches from −1.4 to 3.4
    samples = torch.full((3, dimensions), 1.0)
    samples[1], samples[2, 0] = torch.nan, -1e9
    picture.draw_preview(tmp_path / "preview.png", samples, behind, "some")
    with Image.open(tmp_path / "preview.png") as image:
        assert image.size == (320, 320)
        place = (160, 160 - round(1 / 2.4 * 160) if dimensions > 1 else 160)
        assert image.getpixel(place) == (0x3D, 0x80, 0xD6, 255)
        for x in (160 - round(2 / 2.4 * 160), 160 + round(2 / 2.4 * 160)):
            assert image.getpixel((x, 160)) == (0x9C, 0x9C, 0x9C, 255)
        colours = image.getcolors()
    assert colours is not None
    transparent = sum(count for count, colour in colours if colour[3] == 0)
    assert 320 * 320 - 3 * 25 <= transparent < 320 * 320
