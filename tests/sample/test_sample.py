"""Samples: from noise that belongs to an index, decoded, and kept whole or to be gone on with."""

import json
import math
import re
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from networks import ExactStudent, FieldTeacher
from PIL import Image
from torch import Tensor

from ffcore.draws import Draws
from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.flow.flow_map import generate
from ffcore.flow.guidance import Guided
from ffcore.flow.ode import integrate
from ffcore.flow.solver import Solver
from ffcore.interfaces import (
    Condition,
    ConditionSource,
    Decoder,
    Labels,
    Student,
    Teacher,
    Unconditional,
)
from ffcore.recipe import load_recipe
from ffcore.run.build import build
from ffcore.sample import (
    Generator,
    NotFinite,
    SampleError,
    Sampler,
    StoppedSampling,
    StudentSampler,
    TeacherSampler,
    to_uint8,
    write_samples,
)
from ffcore.sample.chunks import CHUNK, Chunks
from ffcore.sample.output import GRID_LIMIT, Arrays, grid
from ffcore.sample.partial import Partial
from ffcore.system.distributed import Processes
from ffcore.system.weights import fingerprint

IMAGE = (1, 4, 4)


class Painter(Student):
    """f(z, 1) = z / 4 + label / 10, and it keeps the conditions that it was asked under."""

    starts_at = "prior"

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(0.25))
        self.asked: list[Condition] = []
        self.samples = 0

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        del t, delta
        self.asked.append(condition)
        self.samples += len(x_t)
        label = torch.zeros(len(x_t)) if condition.label is None else condition.label / 10
        return self.factor * x_t + label.view(-1, *[1] * (x_t.ndim - 1)) - x_t


class AsItIs(Decoder):
    """Samples as they are, moved by `offset`."""

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, samples: Tensor) -> Tensor:
        return samples + self.offset


class Enlarging(Decoder):
    """Latents of 4 channels to images of 3, twice as large."""

    def forward(self, samples: Tensor) -> Tensor:
        if samples.ndim != 4 or samples.shape[1] != 4:
            raise ValueError(f"latents have 4 channels, found {tuple(samples.shape)}")
        return samples[:, :3].repeat_interleave(2, 2).repeat_interleave(2, 3)


def painting(
    shape: tuple[int, ...] = IMAGE,
    classes: int | None = 10,
    decoder: Decoder | None = None,
    **options: Any,
) -> Sampler:
    conditions = Unconditional() if classes is None else Labels(classes, classes)
    painter = StudentSampler(Painter().eval(), shape, conditions, **options)
    return Sampler(painter, decoder or AsItIs())


def painter(sampler: Sampler) -> Painter:
    assert isinstance(sampler.generator, StudentSampler)
    assert isinstance(sampler.generator.student, Painter)
    return sampler.generator.student


def labels_of(sampler: Sampler, number: int = 30, **options: Any) -> list[int]:
    painter(sampler).asked.clear()
    sampler(number, **options)
    return [int(label) for asked in painter(sampler).asked for label in asked.label]


# Which samples


def depends_on_the_batch(make: Callable[[int], Tensor]) -> bool:
    return not all(torch.equal(make(7), make(batch)) for batch in (1, 64, 256))


@pytest.mark.parametrize("labels", ["balanced", "random", [3, 1, 4]])
def test_a_sample_depends_on_seed_and_index_alone(labels):
    sampler = painting()
    assert not depends_on_the_batch(lambda batch: sampler(100, labels=labels, batch=batch))
    asked = sampler.request(100, labels=labels)
    assert torch.equal(sampler.images(asked, 41, 43), sampler(100, labels=labels)[41:43])
    assert torch.equal(sampler(5, labels=labels), sampler(100, labels=labels)[:5])


def test_noise_drawn_batch_by_batch_would_be_seen():
    def make(batch: int) -> Tensor:
        streams = (Draws(0, start, 0, min(batch, 100 - start)) for start in range(0, 100, batch))
        return torch.cat([stream.normal("z", IMAGE) for stream in streams])

    assert depends_on_the_batch(make)


def test_another_seed_gives_other_noise_and_other_random_labels():
    sampler = painting()
    assert not torch.equal(sampler(4, seed=0), sampler(4, seed=1))
    first, second = (labels_of(sampler, labels="random", seed=seed) for seed in (0, 1))
    assert first != second
    assert len(set(labels_of(sampler, 200, labels="random"))) == 10


def test_labels_go_round_or_are_as_chosen():
    sampler = painting(classes=3)
    assert labels_of(sampler, 7) == labels_of(sampler, 7, labels="balanced")
    assert labels_of(sampler, 7) == [0, 1, 2, 0, 1, 2, 0]
    assert labels_of(sampler, 5, labels=[2, 0], batch=2) == [2, 0, 2, 0, 2]
    assert labels_of(sampler, 3, labels=1) == [1, 1, 1]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("balancd", "found 'balancd'; did you mean 'balanced'"),
        ([0, 10, -1], "classes from 0 to 9, found 10, -1"),
        ([], "found none"),
        (10, "found 10"),
        (True, "found True"),
        ([0, False], "found False"),
        ([0.7, 1], "found 0.7"),
        (np.array([3, 12]), r"found np.int64\(12\)"),
    ],
)
def test_labels_that_there_are_not_are_refused(labels, said):
    with pytest.raises(SampleError, match=said):
        painting()(4, labels=labels)


def test_where_there_are_no_classes_none_can_be_chosen():
    sampler = painting(classes=None)
    assert sampler(3).shape == (3, *IMAGE)
    assert sampler.record(sampler.request(3))["labels"] is None
    with pytest.raises(SampleError, match="no classes"):
        sampler(3, labels=[0])


def test_conditions_of_another_kind_are_drawn():
    class Prompts(ConditionSource):
        def draw(self, draws: Draws) -> Condition:
            return Condition(size=len(draws), embedding=draws.normal("prompt", (2, 3)))

        def null(self, condition: Condition) -> Condition:
            raise ValueError("none")

    sampler = Sampler(StudentSampler(Painter(), IMAGE, Prompts()), AsItIs())
    sampler(5, batch=2)
    found = torch.cat([asked.embedding for asked in painter(sampler).asked])
    stream = Draws(0, 0, 0, 5).named("sample")
    assert torch.equal(found, stream.normal("prompt", (2, 3)))


@pytest.mark.parametrize("name", ["number", "seed", "batch"])
@pytest.mark.parametrize("found", [-1, 1.5, True, "3", None])
def test_what_is_counted_is_a_whole_number(name, found):
    said = re.escape(f"{name}: must be a whole number, at least ")
    with pytest.raises(SampleError, match=f"^{said}.*found {found!r}$"):
        painting()(**{name: found})


@pytest.mark.parametrize(("name", "found"), [("number", 0), ("batch", 0), ("seed", 2**63)])
def test_what_is_counted_has_its_bounds(name, found):
    with pytest.raises(SampleError, match=rf"{name}: .*(at least 1|at most {2**63 - 1}), found"):
        painting()(**{name: found})


def test_whole_numbers_of_any_library_are_taken():
    sampler = painting()
    found = sampler(np.int64(3), seed=np.int32(5), labels=np.array([1, 2]), batch=torch.tensor(2))
    assert torch.equal(found, sampler(3, seed=5, labels=[1, 2]))


# What a student and a teacher make of noise


def noise(number: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return Draws(seed, 0, 0, number).named("sample").normal("z", shape)


def test_a_student_makes_one_step_and_it_is_the_exact_one_of_an_exact_student():
    teacher = Gaussian([0.3, -0.2], 0.5)
    sampler = Sampler(StudentSampler(ExactStudent(teacher), (2,), Unconditional()), AsItIs())
    exact = torch.tensor([0.3, -0.2]) + 0.5 * noise(9, (2,))
    torch.testing.assert_close(sampler(9), exact, atol=1e-6, rtol=0)
    moved = Sampler(
        StudentSampler(ExactStudent(teacher, offset=0.1), (2,), Unconditional()), AsItIs()
    )
    assert not torch.allclose(moved(9), exact, atol=1e-6, rtol=0)


MIXTURE = GaussianMixture([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], 0.3, labels=[0, 1, 2])


def test_a_teacher_is_guided_in_its_interval_as_its_solver_integrates_it():
    solver = Solver("heun", 6, gate="step")
    teacher = TeacherSampler(MIXTURE, solver, scale=1.5, interval=(0.2, 0.7), channels=1)
    found = Sampler(teacher, AsItIs())(6)
    condition = Condition(size=6, label=torch.tensor([0, 1, 2] * 2), guidance=torch.full((6,), 1.5))
    guided = Guided(MIXTURE, (0.2, 0.7), 1)
    assert torch.equal(found, integrate(guided, noise(6, (2,)), condition, solver))
    plain = attrs.evolve(condition, guidance=None)
    assert not torch.equal(found, integrate(MIXTURE, noise(6, (2,)), plain, solver))


@pytest.mark.parametrize("solver", [Solver("heun", 6), Solver("heun", 6, last_step="euler")])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_nfe_in_the_record_is_what_the_network_was_asked(solver, scale):
    watched = FieldTeacher.around(MIXTURE)
    sampler = Sampler(TeacherSampler(watched, solver, scale=scale, interval=(0.0, 0.55)), AsItIs())
    sampler(4)
    asked = sum(len(points) for points, _, _ in watched.calls)
    assert sampler.record(sampler.request(4))["nfe"] == asked / 4


def test_a_student_is_told_its_scale_as_in_training():
    for scale, told in ((1.0, None), (1.5, [1.5, 1.5])):
        sampler = painting(scale=scale)
        sampler(2)
        (asked,) = painter(sampler).asked
        assert (None if asked.guidance is None else asked.guidance.tolist()) == told


@pytest.mark.parametrize(
    ("options", "asked", "said"),
    [
        ({}, 2.0, "trained for scale 1 only, found 2"),
        ({"scale": 1.5}, 1.0, "trained for scale 1.5 only"),
        ({"scale": 2.0, "range": (1.0, 4.0)}, 4.5, "trained for scales from 1 to 4"),
        ({"scale": 2.0, "range": (1.0, 4.0)}, 0.5, "trained for scales from 1 to 4"),
    ],
)
def test_a_scale_that_a_student_was_not_trained_for_is_refused(options, asked, said):
    with pytest.raises(SampleError, match=said):
        painting(**options)(2, guidance=asked)


def test_a_student_of_a_range_takes_every_scale_in_it():
    sampler = painting(scale=2.0, range=(1.0, 4.0))
    for asked, told in ((None, 2.0), (1.0, None), (4.0, 4.0), (2.5, 2.5)):
        sampler(1, guidance=asked)
        found = painter(sampler).asked[-1].guidance
        assert (None if found is None else float(found)) == told


@pytest.mark.parametrize(
    ("teacher", "asked", "said"),
    [
        (Gaussian([0.0]), 2.0, "cannot be guided; its only scale is 1"),
    ],
)
def test_a_teacher_takes_every_scale_that_there_is(teacher: Teacher, asked, said):
    sampler = Sampler(TeacherSampler(teacher, Solver("euler", 2)), AsItIs())
    with pytest.raises(SampleError, match=said):
        sampler(2, guidance=asked)
    assert sampler(2, guidance=1).isfinite().all()


@pytest.mark.parametrize("scale", [-0.5, math.nan, math.inf, 1e39, True, "2"])
@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_a_scale_that_is_none_is_refused(kind, scale):
    teacher = Sampler(TeacherSampler(MIXTURE, Solver("euler", 2)), AsItIs())
    sampler = painting(scale=2.0, range=(1.0, 4.0)) if kind == "student" else teacher
    with pytest.raises(
        SampleError, match=f"at least 0 and finite in float32, found {re.escape(repr(scale))}$"
    ):
        sampler(2, guidance=scale)


# Images


def test_pixels_are_the_nearest_of_256():
    x = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]).view(1, 1, 2, 3)
    assert to_uint8(x).flatten().tolist() == [0, 0, 128, 191, 255, 255]
    every = torch.arange(256)
    back = (every / 127.5 - 1).float().view(1, 1, 16, 16)
    assert torch.equal(to_uint8(back).flatten(), every.to(torch.uint8))
    truncated = ((back + 1) * 127.5).to(torch.uint8)
    assert not torch.equal(truncated.flatten(), every.to(torch.uint8))


def test_channels_of_an_image_come_last():
    x = torch.zeros(1, 3, 2, 2)
    x[0, 1] = 1
    assert to_uint8(x).shape == (1, 2, 2, 3)
    assert to_uint8(x)[0, 0, 0].tolist() == [128, 255, 128]


def test_images_stay_within_their_range_and_vectors_and_latents_are_as_they_are():
    assert painting(decoder=AsItIs(5.0))(3).unique().tolist() == [1.0]
    for shape in ((2,), (4, 2, 2)):
        sampler = painting(shape, decoder=AsItIs(5.0))
        assert not sampler.makes_images
        assert sampler(3).min() > 2


def test_latents_are_decoded():
    sampler = painting((4, 2, 2), decoder=Enlarging())
    assert sampler.makes_images
    assert sampler.shape == (3, 4, 4)
    assert sampler(5).shape == (5, 3, 4, 4)


def test_a_decoder_of_other_samples_is_refused_at_once():
    with pytest.raises(SampleError, match=r"decoder: latents have 4 channels"):
        painting(decoder=Enlarging())


# On disk


def write(sampler: Sampler, path: Path, number: int = 10, **options: Any) -> None:
    request = {k: options.pop(k) for k in ("seed", "labels", "guidance") if k in options}
    write_samples(sampler, sampler.request(number, **request), path, **options)


def array(path: Path) -> np.ndarray:
    with np.load(path) as archive:
        assert archive.files == ["arr_0"]
        return archive["arr_0"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_npz_is_laid_out_as_adms_evaluation_reads_it(tmp_path):
    sampler = painting((4, 2, 3), decoder=Enlarging())
    write(sampler, tmp_path / "s.npz", 600)
    found = array(tmp_path / "s.npz")
    assert (found.shape, found.dtype) == ((600, 4, 6, 3), np.uint8)
    assert np.array_equal(found, to_uint8(sampler(600)).numpy())
    with zipfile.ZipFile(tmp_path / "s.npz") as archive:
        (entry,) = archive.infolist()
        assert entry.compress_type == zipfile.ZIP_STORED
        assert archive.testzip() is None
        with archive.open(entry) as file:
            assert np.lib.format.read_magic(file) == (1, 0)
            assert np.lib.format.read_array_header_1_0(file)[:2] == ((600, 4, 6, 3), False)
    assert names(tmp_path) == ["s.npz", "s.npz.json"]


def test_a_grey_images_one_channel_is_kept(tmp_path):
    write(painting(), tmp_path / "s.npz")
    assert array(tmp_path / "s.npz").shape == (10, 4, 4, 1)


@pytest.mark.parametrize("shape", [(2,), (4, 2, 2)])
def test_vectors_and_latents_are_kept_as_numbers(tmp_path, shape):
    sampler = painting(shape)
    write(sampler, tmp_path / "s.npz", 300)
    found = array(tmp_path / "s.npz")
    assert found.dtype == np.float32
    assert np.array_equal(found, sampler(300).numpy())


def test_the_same_samples_make_the_same_bytes(tmp_path):
    for name, batch in (("a", 7), ("b", 64)):
        write(painting(), tmp_path / f"{name}.npz", 300, batch=batch)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_an_npz_is_assembled_in_little_memory(tmp_path):
    chunk = np.zeros((CHUNK, 32, 32, 3), np.uint8)

    def chunks() -> Iterator[np.ndarray]:
        for _ in range(40):
            yield chunk.copy()

    tracemalloc.start()
    Arrays(tmp_path / "s.npz").put(chunks(), 40 * CHUNK, {}, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "s.npz").stat().st_size > 40 * chunk.nbytes
    assert peak < 6 * chunk.nbytes


def test_a_folder_holds_a_picture_of_each_and_the_conditions(tmp_path):
    sampler = painting()
    write(sampler, tmp_path / "s", 12)
    assert names(tmp_path) == ["s"]
    assert names(tmp_path / "s") == [*(f"{i:06}.png" for i in range(12)), "samples.json"]
    with Image.open(tmp_path / "s" / "000011.png") as picture:
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), to_uint8(sampler(12))[11, :, :, 0].numpy())


def test_colours_are_kept_as_rgb(tmp_path):
    sampler = painting((4, 2, 2), decoder=Enlarging())
    write(sampler, tmp_path / "s", 1)
    with Image.open(tmp_path / "s" / "000000.png") as picture:
        assert picture.mode == "RGB"
        assert np.array_equal(np.asarray(picture), to_uint8(sampler(1))[0].numpy())


def test_a_grid_has_its_images_in_rows_on_white():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(64, 1).repeat(64, 2)
    canvas = grid(images)
    assert canvas.shape == (2 * 66 + 2, 3 * 66 + 2, 1)
    cells = [[canvas[2 + 66 * row + 5, 2 + 66 * column + 5, 0] for column in range(3)]
             for row in range(2)]  # fmt: skip
    assert cells == [[0, 1, 2], [3, 4, 255]]
    assert canvas[0].min() == canvas[:, 1].min() == canvas[66:68].min() == 255


def test_a_grid_enlarges_small_images_pixel_by_pixel():
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
    canvas = grid(image)
    assert canvas.shape == (68, 68, 1)
    assert np.array_equal(canvas[2:-2:8, 2:-2:8], image[0])


def test_a_picture_is_of_all_images(tmp_path):
    write(painting(), tmp_path / "s.png", 10)
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (4 * 66 + 2, 3 * 66 + 2)
    assert names(tmp_path) == ["s.png", "s.png.json"]


@pytest.mark.parametrize(
    ("shape", "name", "number", "said"),
    [
        (IMAGE, "s.png", GRID_LIMIT + 1, "at most 400 images.* to a folder"),
        (IMAGE, "s.jpg", 1, "not as .jpg"),
        ((2,), "s.png", 1, "vectors of 2 numbers, not images: .*NAME.npz"),
        ((2,), "s", 1, "vectors of 2 numbers"),
        ((4, 2, 2), "s", 1, r"arrays of \(4, 2, 2\), not images: .*name a \[decoder\]"),
    ],
)
def test_what_a_form_cannot_hold_is_refused(tmp_path, shape, name, number, said):
    with pytest.raises(SampleError, match=said):
        write(painting(shape), tmp_path / name, number)
    assert names(tmp_path) == []


def test_the_record_says_what_makes_numbers_comparable(tmp_path):
    sampler = painting(scale=2.0, range=(1.0, 4.0))
    sampler.origin["source"] = "somewhere"
    write(sampler, tmp_path / "s.npz", 3, seed=5, labels=[1, 2], guidance=3)
    found = json.loads((tmp_path / "s.npz.json").read_text())
    assert found == {
        "schema": 1,
        "source": "somewhere",
        "kind": "student",
        "fingerprint": fingerprint(painter(sampler)),
        "guidance": {"scale": 3.0},
        "solver": None,
        "steps": 1,
        "nfe": 1,
        "number": 3,
        "seed": 5,
        "labels": [1, 2],
        "shape": [1, 4, 4],
        "ffcore": "0.1.0",
        "label_of_each": [1, 2, 1],
    }
    teacher = Sampler(TeacherSampler(MIXTURE, Solver("euler", 4), interval=(0.0, 0.5)), AsItIs())
    record = teacher.record(teacher.request(3, guidance=2))
    assert record["kind"] == "teacher"
    assert record["guidance"] == {"scale": 2.0, "interval": [0.0, 0.5], "channels": "all"}
    assert record["solver"]["method"] == "euler"
    assert record["nfe"] == 6
    assert teacher.record(teacher.request(3, guidance=1))["guidance"] == {"scale": 1.0}


@pytest.mark.parametrize("name", ["s.png", "s.npz", "s"])
def test_the_record_holds_the_labels_that_were_drawn(tmp_path, name):
    sampler = painting()
    write(sampler, tmp_path / name, 300, labels="random", seed=5)
    record = tmp_path / (f"{name}.json" if "." in name else "s/samples.json")
    found = json.loads(record.read_text())
    assert found["label_of_each"] == labels_of(sampler, 300, labels="random", seed=5)
    assert len(record.read_text().splitlines()) == len(found) + 2  # not a line for each label


def test_samples_without_labels_have_none_in_their_record(tmp_path):
    write(painting(classes=None), tmp_path / "s.npz", 3)
    assert json.loads((tmp_path / "s.npz.json").read_text())["label_of_each"] is None


class Walker(Student):
    """F = x_t, from anywhere: n equal steps multiply the noise by (1 + 1/n)^n."""

    starts_at = "anywhere"

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        del t, delta, condition
        return x_t


def test_a_student_that_starts_anywhere_makes_as_many_steps_as_are_asked_for(tmp_path):
    sampler = Sampler(StudentSampler(Walker(), (5,), Unconditional()), AsItIs())
    noise = sampler(4) / 2
    assert torch.equal(sampler(4, steps=1), sampler(4))
    torch.testing.assert_close(sampler(4, steps=4), noise * 1.25**4)
    asked = sampler.request(4, steps=4)
    write_samples(sampler, asked, tmp_path / "s.npz")
    record = json.loads((tmp_path / "s.npz.json").read_text())
    assert (record["steps"], record["nfe"]) == (4, 4)
    with np.load(tmp_path / "s.npz") as file:
        assert np.array_equal(file["arr_0"], sampler(4, steps=4).numpy())


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "2"])
def test_steps_are_whole(steps):
    sampler = Sampler(StudentSampler(Walker(), (5,), Unconditional()), AsItIs())
    with pytest.raises(SampleError, match="steps: must be a whole number, at least 1"):
        sampler(4, steps=steps)


def test_steps_are_refused_where_there_are_none():
    with pytest.raises(SampleError, match="steps: this student starts only at the prior"):
        painting()(4, steps=2)
    with pytest.raises(SampleError, match="sets the steps of a student only, found 2"):
        Sampler(TeacherSampler(MIXTURE, Solver("euler", 4)), AsItIs())(4, steps=2)


def test_a_solver_that_looks_at_the_whole_batch_has_it_in_the_record(tmp_path):
    for method, told in (("dopri5", 3), ("euler", None)):
        sampler = Sampler(TeacherSampler(MIXTURE, Solver(method, 2, tolerance=1e-2)), AsItIs())
        write(sampler, tmp_path / f"{method}.npz", 4, batch=3)
        record = json.loads((tmp_path / f"{method}.npz.json").read_text())
        assert record.get("batch") == told
    assert record["nfe"] == 2


# Interrupted


class Times:
    """Answers yes when it has been asked so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


NUMBER = 600  # two chunks, and a part of one


@pytest.mark.parametrize("batches", [0, 1, 4, 5, 9, 10, 11])
@pytest.mark.parametrize("name", ["s.npz", "s"])
def test_a_stopped_sampling_goes_on_and_makes_nothing_twice(tmp_path, batches, name):
    sampler = painting()
    with pytest.raises(StoppedSampling, match=f"of {NUMBER} samples; the same command resumes it"):
        write(sampler, tmp_path / name, NUMBER, stop=Times(batches))
    assert names(tmp_path) == [f".{name}.partial"]
    first = painter(sampler).samples
    told: list[tuple[int, int]] = []
    again = painting()
    write(again, tmp_path / name, NUMBER, progress=lambda *now: told.append(now))
    assert first + painter(again).samples == NUMBER
    assert told[0] == (first, NUMBER)
    assert told[-1] == (NUMBER, NUMBER)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    if name == "s.npz":
        assert np.array_equal(array(tmp_path / name), to_uint8(sampler(NUMBER)).numpy())
    else:
        assert len(names(tmp_path / name)) == NUMBER + 1
    assert not any(found.startswith(".") for found in names(tmp_path))


class Crash(BaseException):
    """What ends a process on the spot here."""


def test_a_crash_at_any_moment_loses_at_most_a_chunk(tmp_path, monkeypatch):
    write(painting(), tmp_path / "whole.npz", NUMBER)
    replace, calls = Path.replace, 0

    def crashing(self: Path, target: Path) -> Path:
        nonlocal calls
        calls -= 1
        if calls < 0:
            raise Crash
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", crashing)
    for moment in range(100):  # the renaming at which it crashes
        calls = moment
        folder = tmp_path / str(moment)
        folder.mkdir()
        try:
            write(painting(), folder / "s.npz", NUMBER)
        except Crash:
            calls = 100
            write(painting(), folder / "s.npz", NUMBER)
        else:
            break
        assert names(folder) == ["s.npz", "s.npz.json"]
        assert (folder / "s.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert moment == 6  # the conditions, three chunks, the archive, the record


@pytest.mark.parametrize("name", ["s.npz", "s"])
def test_a_crash_before_the_chunks_are_taken_away_leaves_the_same_command_to_do_it(
    tmp_path, monkeypatch, name
):
    def crash(self: Partial) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Partial, "remove", crash)
        with pytest.raises(Crash):
            write(painting(), tmp_path / name)
    write(painting(), tmp_path / name)
    assert not any(found.startswith(".") for found in names(tmp_path))


def test_what_another_put_in_its_place_meanwhile_is_not_overwritten(tmp_path):
    with pytest.raises(StoppedSampling):
        write(painting(), tmp_path / "s.npz", NUMBER, stop=Times(5))
    (tmp_path / "s.npz").write_text("mine")
    with pytest.raises(SampleError, match="exists"):
        write(painting(), tmp_path / "s.npz", NUMBER)
    assert (tmp_path / "s.npz").read_text() == "mine"


def test_other_conditions_are_refused_with_what_differs(tmp_path):
    with pytest.raises(StoppedSampling):
        write(painting(), tmp_path / "s.npz", NUMBER, stop=Times(5))
    with pytest.raises(SampleError, match="seed: 0 there, 1 here") as caught:
        write(painting(), tmp_path / "s.npz", NUMBER, seed=1)
    assert "labels" not in str(caught.value)
    other = painting()
    painter(other).factor.data += 1
    with pytest.raises(SampleError, match="fingerprint"):
        write(other, tmp_path / "s.npz", NUMBER)
    write(painting(), tmp_path / "s.npz", NUMBER, seed=1, overwrite=True)
    expected = to_uint8(painting()(NUMBER, seed=1)).numpy()
    assert np.array_equal(array(tmp_path / "s.npz"), expected)


def test_a_source_by_another_name_is_the_same_sampling(tmp_path):
    first, second = painting(), painting()
    first.origin["source"], second.origin["source"] = "run", "./run"
    with pytest.raises(StoppedSampling):
        write(first, tmp_path / "s.npz", NUMBER, stop=Times(5))
    write(second, tmp_path / "s.npz", NUMBER)


@pytest.mark.parametrize("name", ["s.npz", "s.png", "s"])
def test_what_is_there_is_kept_until_it_is_to_be_overwritten_and_the_new_one_is_whole(
    tmp_path, name
):
    write(painting(), tmp_path / name, 300)
    record = tmp_path / ("s/samples.json" if name == "s" else f"{name}.json")
    before = record.read_bytes()
    with pytest.raises(SampleError, match="exists: choose another path, or use --overwrite"):
        write(painting(), tmp_path / name, 300, seed=1)
    with pytest.raises(StoppedSampling):
        write(painting(), tmp_path / name, 300, seed=1, overwrite=True, stop=Times(2))
    assert record.read_bytes() == before
    write(painting(), tmp_path / name, 300, seed=1, overwrite=True)
    assert json.loads(record.read_text())["seed"] == 1
    assert not any(found.startswith(".") for found in names(tmp_path))


def test_overwriting_goes_on_with_an_interrupted_overwriting(tmp_path):
    write(painting(), tmp_path / "s.npz", NUMBER)
    with pytest.raises(StoppedSampling):
        write(painting(), tmp_path / "s.npz", NUMBER, seed=1, overwrite=True, stop=Times(8))
    sampler = painting()
    write(sampler, tmp_path / "s.npz", NUMBER, seed=1, overwrite=True)
    assert painter(sampler).samples < NUMBER - CHUNK


def test_a_folder_of_other_things_is_never_overwritten(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.tex").write_text("years of work")
    with pytest.raises(SampleError, match=r"thesis\.tex"):
        write(painting(), tmp_path / "s", overwrite=True)
    (tmp_path / "s.npz").mkdir()
    with pytest.raises(SampleError, match="is not a file"):
        write(painting(), tmp_path / "s.npz", overwrite=True)
    (tmp_path / "t").write_text("a file")
    with pytest.raises(SampleError, match="is a file"):
        write(painting(), tmp_path / "t", overwrite=True)
    assert names(tmp_path) == ["s", "s.npz", "t"]


def test_an_empty_folder_is_free(tmp_path):
    (tmp_path / "s").mkdir()
    write(painting(), tmp_path / "s")
    assert len(names(tmp_path / "s")) == 11


def test_an_output_that_another_process_works_on_is_refused(tmp_path):
    refused = []

    def intrude(done: int, number: int) -> None:
        with pytest.raises(SampleError, match="in use by another process"):
            write(painting(), tmp_path / "s.npz")
        refused.append(done)

    write(painting(), tmp_path / "s.npz", progress=intrude)
    assert refused
    assert names(tmp_path) == ["s.npz", "s.npz.json"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_sample_that_is_not_finite_is_named_and_nothing_is_put_in_place(tmp_path, value):
    class Broken(Decoder):
        def forward(self, samples: Tensor) -> Tensor:
            spoilt = samples.clone()
            spoilt[samples.amax((1, 2, 3)) > 0.9] = value
            return spoilt

    sampler = painting(decoder=Broken())
    bad = int((painting()(10).amax((1, 2, 3)) > 0.9).nonzero()[0])
    with pytest.raises(NotFinite, match=f"sample {bad} is not finite"):
        write(sampler, tmp_path / "s.npz")
    with pytest.raises(NotFinite, match=f"sample {bad} is not finite"):
        sampler(10, batch=3)
    assert names(tmp_path) == [".s.npz.partial"]


def test_a_batch_is_at_most_a_chunk(tmp_path):
    with pytest.raises(SampleError, match="at most 256"):
        write(painting(), tmp_path / "s.npz", batch=257)


def test_generate_is_what_a_student_does():
    sampler = painting()
    z, label = noise(4, IMAGE), torch.arange(4)
    expected = generate(Painter(), z, Condition(size=4, label=label)).clamp(-1, 1)
    assert torch.equal(sampler(4), expected.detach())


# The networks of a recipe


def of_digits(kind: str) -> Generator:
    """The teacher of the digits recipe, or its student as training begins."""
    built = build(load_recipe("digits.toml", ["training.steps=2"])).distillation
    if kind == "teacher":
        return TeacherSampler(built.teacher, Solver("heun", 2), scale=2.0)
    teacher = built.teacher
    return StudentSampler(built.student.eval(), teacher.sample_shape, teacher.conditions)


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_images_are_the_same_to_rounding_at_any_batch_size(kind):
    sampler = Sampler(of_digits(kind), AsItIs())
    whole = sampler(65, seed=3)
    assert not torch.allclose(whole[:-1], whole[1:], atol=0.1, rtol=0)
    for batch in (1, 7):
        torch.testing.assert_close(sampler(65, seed=3, batch=batch), whole, atol=5e-5, rtol=0)


# Many samples, processes, and stops at other moments


def test_fifty_thousand_samples_are_made_a_batch_at_a_time_and_kept_in_order(tmp_path):
    sampler = painting(shape=(1, 2, 2))
    told: list[tuple[int, int]] = []
    asked = sampler.request(50_000)
    write_samples(
        sampler, asked, tmp_path / "s.npz", batch=250, progress=lambda *now: told.append(now)
    )
    assert max(each.size for each in painter(sampler).asked) == 250
    found = array(tmp_path / "s.npz")
    assert found.shape == (50_000, 2, 2, 1)
    assert np.array_equal(found[-9:], to_uint8(sampler.images(asked, 49_991, 50_000)).numpy())
    counts = torch.cat([each.label for each in painter(sampler).asked[:-1]]).bincount()
    assert counts.tolist() == [5000] * 10
    assert told[0] == (0, 50_000)
    assert told[-1] == (50_000, 50_000)


def test_samples_are_kept_in_little_memory(tmp_path):
    """Of numpy, which keeps them; there are 15 MB here."""
    sampler = painting(shape=(3, 32, 32))
    tracemalloc.start()
    try:
        write_samples(sampler, sampler.request(5000), tmp_path / "s.npz", batch=250)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert len(array(tmp_path / "s.npz")) == 5000
        at_once = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5e6 < 15e6 < at_once


class Second(Processes):
    """The second of two processes, to which the first one's answer is known."""

    def agree(self, value: Any) -> Any:
        return [0, 1, 2]

    def wait(self) -> None:
        pass


def test_each_process_makes_its_own_chunks(tmp_path):
    write(painting(), tmp_path / "one.npz", NUMBER)
    second = painting()
    chunks = Chunks.beside(tmp_path / "two.npz", NUMBER)
    with chunks.partial.hold():
        chunks.partial.begin(second.record(second.request(NUMBER)))
        write(second, tmp_path / "two.npz", NUMBER, processes=Second(1, 2))
    assert painter(second).samples == CHUNK
    assert chunks.missing() == [0, 2]
    first = painting()
    write(first, tmp_path / "two.npz", NUMBER)
    assert painter(first).samples == NUMBER - CHUNK
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_a_stop_keeps_count_of_all_samples_that_there_are(tmp_path):
    with pytest.raises(StoppedSampling, match=f"after 448 of {NUMBER}"):
        write(painting(), tmp_path / "s.npz", NUMBER, stop=Times(7))
    with pytest.raises(StoppedSampling, match=f"after 512 of {NUMBER}"):
        write(painting(), tmp_path / "s.npz", NUMBER, stop=Times(1))


def test_a_sampling_goes_on_at_another_batch_size(tmp_path):
    first, second = painting(), painting()
    for sampler, batch, stop in ((first, 7, Times(3)), (second, 64, Times(1000))):
        asked = sampler.request(NUMBER)
        try:
            write_samples(sampler, asked, tmp_path / "s.npz", batch=batch, stop=stop)
        except StoppedSampling:
            assert sampler is first
    assert (painter(first).samples, painter(second).samples) == (21, NUMBER - 21)
    assert np.array_equal(array(tmp_path / "s.npz"), to_uint8(painting()(NUMBER)).numpy())


def test_an_adaptive_solver_goes_on_at_its_own_batch_size_alone(tmp_path):
    """Its steps suit a whole batch, so that the batch size counts."""
    sampler = Sampler(TeacherSampler(MIXTURE, Solver("dopri5", tolerance=1e-2)), AsItIs())
    asked = sampler.request(24)
    with pytest.raises(StoppedSampling):
        write_samples(sampler, asked, tmp_path / "s.npz", batch=8, stop=Times(2))
    with pytest.raises(SampleError, match="batch: 8 there, 16 here"):
        write_samples(sampler, asked, tmp_path / "s.npz", batch=16)
    write_samples(sampler, asked, tmp_path / "s.npz", batch=8)
    assert array(tmp_path / "s.npz").shape == (24, 2)


def test_a_crash_while_tidying_up_gives_no_other_sampling_the_right_to_the_place(
    tmp_path, monkeypatch
):
    empty = Partial._empty

    def crash_at_the_end(partial: Partial) -> None:
        if Chunks(partial, 0).placing:
            raise Crash
        empty(partial)

    with monkeypatch.context() as patch:
        patch.setattr(Partial, "_empty", crash_at_the_end)
        with pytest.raises(Crash):
            write(painting(), tmp_path / "s.npz")
    before = (tmp_path / "s.npz").read_bytes()
    with pytest.raises(SampleError, match="exists: choose another path"):
        write(painting(), tmp_path / "s.npz", seed=1)
    assert (tmp_path / "s.npz").read_bytes() == before
