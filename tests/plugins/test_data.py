"""Stored latents and the teacher's samples, as data."""

import functools
import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from click.testing import CliRunner
from distillations import ends_as
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ffcore.cli import ExitCode, main
from ffcore.draws import Draws
from ffcore.flow.exact import Gaussian, GaussianMixture
from ffcore.flow.guidance import Guided
from ffcore.flow.ode import integrate
from ffcore.flow.solver import Solver
from ffcore.interfaces import (
    Condition,
    ConditionSource,
    Context,
    DataError,
    DataSource,
    FunctionTeacher,
    Labels,
    Teacher,
    class_condition,
)
from ffcore.recipe import Recipe, RecipeError, load_recipe
from ffcore.recipe.components import BuildError
from ffcore.run.build import build
from ffcore.run.stages import run
from ffcore.system.files import MissingFile
from ffcore.testing.check import check_tables
from ffcore.testing.small import small_teacher
from ffcore.training.loop import Stopped
from ffcore_data.latents import StoredLatents
from ffcore_data.tables import Latents, TeacherSamples
from ffcore_data.teacher_samples import SampledTeacher

SHAPE, CLASSES = (2, 3, 3), 5


def teacher(shape: tuple[int, ...] = SHAPE, conditions: ConditionSource | None = None) -> Teacher:
    return FunctionTeacher(lambda x_t, t, c: x_t, shape, conditions or Labels(CLASSES))


def write(path: Path, first: int, count: int, **changes: Any) -> None:
    """Write a shard of samples that are their own numbers, from `first` on."""
    numbers = torch.arange(first, first + count)
    latents = numbers[:, None, None, None].expand(-1, *SHAPE).float()
    tensors = {"latents": latents, "labels": numbers % CLASSES, **changes}
    path.parent.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items() if v is not None}, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty samples in three shards of different lengths, named against the order of writing."""
    for name, first, count in (("c", 18, 12), ("a", 0, 11), ("b", 11, 7)):
        write(tmp_path / "data" / f"{name}.safetensors", first, count)
    return tmp_path / "data"


def latents(folder: Path, of: Teacher | None = None, **keys: Any) -> DataSource:
    return Latents(folder=str(folder), **keys).build(Context(teacher=of or teacher()))


def read(source: DataSource, *indices: int) -> tuple[Tensor, Condition]:
    return source.read(torch.tensor(indices), Draws(0, 0, 0, len(indices)))


# Latents


def test_samples_are_numbered_through_the_shards_in_the_order_of_their_names(folder):
    source = latents(folder)
    assert (len(source), source.sample_shape) == (30, SHAPE)
    order = [29, 0, 10, 11, 17, 18, 0, 5]
    found, condition = read(source, *order)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.tensor(order)[:, None, None, None].expand(-1, *SHAPE).float())
    assert condition.label.tolist() == [each % CLASSES for each in order]
    assert condition.guidance is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_latents_of_16_bits_are_read_as_float32_and_scaled(folder, dtype):
    numbers = torch.randn(4, *SHAPE).to(dtype)
    labels = torch.zeros(4, dtype=torch.uint8)
    write(folder / "z.safetensors", 0, 4, latents=numbers, labels=labels)
    found, condition = read(latents(folder, scale=0.5), 30, 31, 32, 33)
    assert (found.dtype, condition.label.dtype) == (torch.float32, torch.int64)
    assert torch.equal(found, 0.5 * numbers.float())


def test_an_unconditional_teacher_gets_no_labels(folder):
    source = latents(folder, Gaussian(torch.zeros(SHAPE)))
    assert read(source, 3, 4)[1] == Condition(size=2)


class Prompts(ConditionSource):
    """Conditions that are no labels."""

    def draw(self, draws: Draws) -> Condition:
        return Condition(size=len(draws), embedding=torch.zeros(len(draws), 1, 1))

    def null(self, condition: Condition) -> Condition:
        return condition


NUMBERS = torch.zeros(4, *SHAPE)
WRONG: dict[str, dict[str, Any]] = {
    "holds 'latents'; a shard must hold 'labels' and 'latents'": {"labels": None},
    "holds 'flipped' and 'labels' and 'latents'; a shard": {"flipped": NUMBERS},
    r"latents are \(2, 9\), but the teacher's samples are \(2, 3, 3\)": {
        "latents": NUMBERS.flatten(2)
    },
    r"latents are \(\), but the teacher's samples are": {"latents": torch.zeros(())},
    r"has 4 latents, but labels \[3\]": {"labels": torch.zeros(3, dtype=torch.int64)},
    r"has 4 latents, but labels \[4, 1\]": {"labels": torch.zeros(4, 1, dtype=torch.int64)},
    r"latents are F64 \(possible: F32, F16, BF16\)": {"latents": NUMBERS.double()},
    r"labels are F32 \(possible: I64": {"labels": torch.zeros(4)},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_file_that_is_no_shard_of_such_samples_is_refused_by_name(folder, message):
    write(folder / "b.safetensors", 0, 4, **WRONG[message])
    kind = ValueError if "teacher's" in message else DataError
    with pytest.raises(kind, match=rf"b\.safetensors:? {message}"):
        latents(folder)


def test_a_damaged_shard_is_refused(folder):
    whole = (folder / "b.safetensors").read_bytes()
    (folder / "b.safetensors").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"b\.safetensors cannot be read as safetensors"):
        latents(folder)


def test_only_headers_are_read_before_training_and_wrong_rows_when_they_are_read(folder):
    numbers = torch.zeros(4, *SHAPE)
    numbers[2, 0, 1, 1] = torch.nan
    labels = torch.tensor([0, CLASSES, 0, -1])
    write(folder / "b.safetensors", 0, 4, latents=numbers, labels=labels)
    source = latents(folder)
    read(source, 11, 0)
    with pytest.raises(DataError, match=r"b\.safetensors: row 2 of latents is not finite"):
        read(source, 11, 13, 14)
    with pytest.raises(
        DataError,
        match=r"b\.safetensors: the data has label 5, but the teacher's classes are 0 to 4",
    ):
        read(source, 0, 12)
    with pytest.raises(DataError, match="label -1"):
        read(source, 14)


def test_labels_are_for_teachers_of_labels(folder):
    with pytest.raises(ValueError, match="the teacher's conditions are Prompts"):
        latents(folder, teacher(conditions=Prompts()))
    with pytest.raises(ValueError, match="label 1, but the teacher's classes are 0 to 0"):
        class_condition(Labels(1, null_label=1), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="there are no shards"):
        StoredLatents([], teacher())


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_without_shards_is_missing_and_the_run_says_so(tmp_path, monkeypatch, there):
    monkeypatch.chdir(tmp_path)
    if there:
        write(tmp_path / "data" / "x.pt", 0, 1)
    with pytest.raises(MissingFile, match=r"data/\*\.safetensors"):
        latents(Path("data"))
    found = CliRunner().invoke(main, ["run", "gaussian.toml", *_set(*FITTING, LATENTS)])
    assert found.exit_code == ExitCode.ENVIRONMENT
    assert "data.folder: the data: latents and labels in .safetensors" in found.output
    assert "--set data.folder=PATH" in found.output


def resident() -> int:
    """Bytes of memory that this process holds, maps of files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def growth(source: DataSource) -> int:
    """By how many bytes the process grows, at most, while all of the source is read."""
    before, most = resident(), 0
    for indices in torch.randperm(len(source)).split(32):
        source.read(indices, Draws(0, 0, 0, len(indices)))
        most = max(most, resident() - before)
    return most


def test_memory_holds_a_shard_and_not_the_folder(tmp_path, monkeypatch):
    """64 MB in 16 shards, every byte of them read."""
    shape, count = (4, 64, 64), 128
    for number in range(16):
        stored = torch.randn(count, *shape).half()
        labels = torch.zeros(count, dtype=torch.int64)
        write(tmp_path / f"{number:02}.safetensors", 0, 0, latents=stored, labels=labels)
    source = latents(tmp_path, teacher(shape))
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert total > 64_000_000
    assert growth(source) < total / 4

    held = functools.cache(lambda path, kind: safe_open(path, kind).__enter__())
    monkeypatch.setattr("ffcore_data.latents.safe_open", lambda *of: nullcontext(held(*of)))
    assert growth(source) > total / 2  # so it is seen where shards stay open


def test_latents_are_lawful(folder):
    write_small = {"latents": torch.randn(9, 4, 8, 8), "labels": torch.arange(9) % 3}
    for path in folder.iterdir():
        write(path, 0, 0, **write_small)
    results = check_tables("data/latents", "data", [Latents(folder=str(folder))])
    assert {each.status for each in results} <= {"holds", "not checked"}, results


# The teacher's samples

GAUSSIAN = Gaussian([0.5, -0.3], 0.7)
MIXTURE = GaussianMixture([[2.0, 0.0], [-1.0, 0.5]], 0.4, labels=[0, 1])


def samples(of: Teacher = GAUSSIAN, number: int = 40, **changes: Any) -> SampledTeacher:
    given = {"solver": Solver("rk4", 16), "seed": 3, "batch": 7, **changes}
    return SampledTeacher(of, number, **given)


def all_of(source: DataSource) -> tuple[Tensor, Condition]:
    return read(source, *range(len(source)))


def test_they_are_what_the_exact_flow_carries_noise_to():
    found, _ = all_of(samples(number=5000, batch=5000))
    torch.testing.assert_close(found.mean(0), torch.tensor([0.5, -0.3]), rtol=0, atol=0.03)
    torch.testing.assert_close(found.std(0), torch.full((2,), 0.7), rtol=0, atol=0.03)
    z = Draws(3, 0, 0, 5000).named("teacher's samples").normal("z", (2,))
    torch.testing.assert_close(found, GAUSSIAN.mean + 0.7 * z, rtol=0, atol=1e-4)


def test_they_are_the_same_when_they_are_made_again_whatever_the_batch():
    first, conditions = all_of(samples(MIXTURE))
    for batch in (7, 40, 64):
        again, labels = all_of(samples(MIXTURE, batch=batch))
        torch.testing.assert_close(again, first, rtol=0, atol=1e-6)
        assert torch.equal(labels.label, conditions.label)
    assert torch.equal(all_of(samples(MIXTURE))[0], first)
    assert not torch.equal(all_of(samples(MIXTURE, seed=4))[0], first)


def test_they_are_of_the_guided_teacher_and_their_conditions_carry_no_scale():
    plain, conditions = all_of(samples(Guided(MIXTURE)))
    guided, same = all_of(samples(Guided(MIXTURE), guidance=2.0))
    assert conditions.guidance is None
    assert same.guidance is None
    assert torch.equal(conditions.label, same.label)
    assert set(same.label.tolist()) == {0, 1}
    z = Draws(3, 0, 0, 40).named("teacher's samples").normal("z", (2,))
    scales = attrs.evolve(same, guidance=torch.full((40,), 2.0))
    torch.testing.assert_close(
        guided, integrate(Guided(MIXTURE), z, scales, Solver("rk4", 16)), rtol=0, atol=1e-6
    )
    assert (guided - plain).norm() > 1


def test_they_are_made_once_and_not_before_they_are_read(caplog):
    caplog.set_level(logging.INFO, "ffcore")
    source = samples(number=700)
    assert (len(source), source.sample_shape, caplog.messages) == (700, (2,), [])
    read(source, 3)
    assert caplog.messages[0] == "data: 0 of 700 samples of the teacher"
    assert len(caplog.messages) == 10
    found, _ = read(source, 3, 3)
    found.zero_()
    assert read(source, 3)[0].norm() > 0
    assert len(caplog.messages) == 10


def test_a_runs_precision_does_not_reach_them():
    network = small_teacher((3,), 2)
    wanted, _ = all_of(samples(network))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = all_of(samples(network))
    assert torch.equal(found, wanted)


def test_samples_that_are_not_finite_are_no_data():
    wild = FunctionTeacher(lambda x_t, t, c: x_t / 0.0, (2,))
    with pytest.raises(DataError, match="not finite"):
        read(samples(wild), 0)


def test_teacher_samples_are_lawful():
    results = check_tables("data/teacher-samples", "data", TeacherSamples.examples())
    assert {each.status for each in results} <= {"holds", "not checked"}, results


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("data.number=1000000000",),
            "[data] number: must be at most 500000000: with shape (2,) they fill memory = 4 GB",
        ),
        (
            ("data.number=1000", "data.memory=1e-6"),
            "[data] number: must be at most 125: with shape",
        ),
        (("data.number=0",), "[data] number: must be at least 1, found 0"),
    ],
)
def test_more_samples_than_memory_may_hold_are_refused_before_the_run(overrides, message):
    with pytest.raises(RecipeError) as caught:
        fitting("gaussian.toml", "data={type='teacher-samples'}", *overrides)
    assert message in str(caught.value)


def test_samples_of_one_scale_are_no_data_for_a_range_of_them():
    sampled = "data={type='teacher-samples', number=8, solver={steps=1}}"
    with pytest.raises(
        RecipeError, match=r"\[data\] guided: must be false: the samples have one guid"
    ):
        fitting("digits_guided.toml", sampled, "corrector=none")
    fitting("digits_guided.toml", sampled, "corrector=none", "data.guided=false")
    with pytest.raises(ValueError, match="must be false"):
        TeacherSamples().build(Context(teacher=GAUSSIAN, guidance_range=(1.0, 2.0)))


# Runs

FITTING = (
    "predictor={type='objectives:TowardsData'}",
    "training.steps=6",
    "training.batch=16",
    "training.log_every=1",
    "training.checkpoint_every=1",
    "evaluation.enabled=false",
)
LATENTS = "data={type='latents', folder='data'}"
SAMPLES = "data={type='teacher-samples', number=30, solver={method='euler', steps=4}}"


def _set(*overrides: str) -> list[str]:
    return [word for each in overrides for word in ("--set", each)]


def fitting(name: str = "gaussian.toml", *overrides: str) -> Recipe:
    """A small recipe whose predictor needs data."""
    return load_recipe(name, [*FITTING, *overrides])


@pytest.fixture
def vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder `data` of 30 vectors of two numbers in two shards."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("a", 11), ("b", 19)):
        labels = torch.zeros(count, dtype=torch.int64)
        write(
            Path("data") / f"{name}.safetensors", 0, 0, latents=torch.randn(count, 2), labels=labels
        )


@pytest.mark.parametrize("data", [LATENTS, SAMPLES])
@pytest.mark.usefixtures("vectors")
def test_a_run_that_stopped_within_an_epoch_goes_on_to_the_same_weights(data):
    """An epoch of 30 samples ends in the second step of 16, and in the fourth."""
    recipe = fitting("gaussian.toml", data)
    run(recipe, Path("whole"))
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        run(recipe, Path("parts"), stop=lambda: next(asked))
    run(recipe, Path("parts"))
    assert ends_as(Path("whole"), Path("parts"))


@pytest.mark.usefixtures("vectors")
def test_a_folder_that_has_grown_is_not_gone_on_with():
    recipe = fitting("gaussian.toml", LATENTS)
    with pytest.raises(Stopped):
        run(recipe, Path("run"), stop=lambda: True)
    labels = torch.zeros(3, dtype=torch.int64)
    write(Path("data/c.safetensors"), 0, 0, latents=torch.randn(3, 2), labels=labels)
    with pytest.raises(Exception, match="was made with other data"):
        run(recipe, Path("run"))


@pytest.mark.parametrize(("data", "said"), [(LATENTS, "latents"), (SAMPLES, "teacher-samples")])
@pytest.mark.usefixtures("vectors")
def test_a_run_says_which_data_its_training_opened(data, said):
    run(fitting("gaussian.toml", data, "training.steps=1"), Path("run"))
    manifest = json.loads(Path("run/provenance.json").read_text())
    assert manifest["data_source_opened_by_training"] == said
    assert said in {each["type"] for each in manifest["components"] if each["role"] == "data"}


@pytest.mark.usefixtures("vectors")
def test_data_of_another_shape_is_an_error_of_the_recipe():
    with pytest.raises(BuildError, match=r"\[data\] .*latents are \(2,\), but the teacher's"):
        build(fitting("gaussian.toml", LATENTS, "teacher.mean=[0.0]"))
    found = CliRunner().invoke(
        main, ["run", "gaussian.toml", *_set(*FITTING, LATENTS, "teacher.mean=[0.0]")]
    )
    assert found.exit_code == ExitCode.USAGE
    assert "a.safetensors: latents are (2,)" in found.output


def test_an_objective_that_leaves_its_data_unread_is_an_error(monkeypatch):
    monkeypatch.setattr("objectives.TowardsData.needs", frozenset())
    recipe = fitting("gaussian.toml")
    with pytest.raises(BuildError, match="there is data, but no objective needs it"):
        build(attrs.evolve(recipe, data=TeacherSamples(number=3)))


def test_a_dry_run_needs_no_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["run", "gaussian.toml", "--dry-run", "--json", *_set(*FITTING, LATENTS)]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == ExitCode.OK, found.output
    passes = json.loads(found.stdout)["step"]["passes"]
    assert [(each["network"], each["rows"]) for each in passes] == [("student", 16.0)]
