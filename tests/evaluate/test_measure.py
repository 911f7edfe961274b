"""How faithful samples are: known answers, and errors as a person meets them."""

import json
from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from inputs import Stream
from PIL import Image
from scipy import linalg
from torch import Tensor

from ffcore.evaluate import (
    EvaluationError,
    Kept,
    Making,
    Reference,
    check_comparable,
    conditions,
    measure,
    open_reference,
    open_samples,
    read_result,
)
from ffcore.evaluate.metrics import SUBSETS, Statistics, frechet_distance, inception_score
from ffcore.evaluate.stored import open_stored
from ffcore.flow.solver import Solver
from ffcore.interfaces import Context, Features
from ffcore.recipe import component
from ffcore.sample import write_samples
from ffcore.sample.load import load_teacher_sampler
from ffcore.system.weights import fingerprint

SHIPPED = "ffcore_digits:reference.safetensors"


def features(name: str = "digits") -> Features:
    built: Features = component("features", {"type": name}).build(Context())
    return built


def pictures(seed: int, number: int = 300, bright: float = 0.0) -> np.ndarray:
    noise = Stream(seed).normal(number, 8, 8, 1).numpy()
    return (127 + bright + 60 * noise).clip(0, 255).astype(np.uint8)


def npz(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Kept, Reference]:
    """Samples, and others as their reference."""
    samples = npz(tmp_path / "a.npz", arr_0=pictures(0))
    return opened(samples, npz(tmp_path / "b.npz", arr_0=pictures(1, 400, bright=20)))


def opened(samples: str, reference: str, asked: Making | None = None) -> tuple[Kept, Reference]:
    asked = asked or Making(device="cpu")
    found = open_samples(samples, asked)
    return found, open_reference(reference, found, asked)


def digit_features(path: Path) -> np.ndarray:
    """By hand, without anything of the room under test."""
    pixels = torch.from_numpy(np.load(path)["arr_0"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        return features()(pixels.float() / 127.5 - 1).double().numpy()


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """By the eigenvalues of the symmetric Σ_a^½ Σ_b Σ_a^½."""
    values, vectors = linalg.eigh(np.cov(a.T))
    root = (vectors * values.clip(0) ** 0.5) @ vectors.T
    cross = (linalg.eigvalsh(root @ np.cov(b.T) @ root).clip(0) ** 0.5).sum()
    difference = a.mean(0) - b.mean(0)
    spread = np.cov(a.T).trace() + np.cov(b.T).trace()
    return float(difference @ difference + spread - 2 * cross)


def kernel(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimate of the squared MMD of all samples."""

    def values(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: np.ndarray) -> float:
        found = values(x, x)
        return float(found.sum() - found.trace()) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * float(values(a, b).mean())


def covered(points: np.ndarray, balls: np.ndarray) -> float:
    """The share of points within the third-neighbour ball of any other one."""

    def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.linalg.norm(x[:, None] - y[None], axis=2)

    radius = np.sort(distances(balls, balls), axis=1)[:, 3]
    return float((distances(points, balls) <= radius).any(1).mean())


def test_the_numbers_are_what_numpy_and_scipy_make_of_the_features(two, tmp_path):
    found = measure(*two, [features()], ("fd", "kid", "pr")).features["digits"]
    a, b = digit_features(tmp_path / "a.npz"), digit_features(tmp_path / "b.npz")
    assert found.dimension == 64
    # Some of the 64 features are 0 throughout: singular matrices have roots to half the digits.
    assert found.fd == pytest.approx(frechet(a, b), rel=1e-5)
    assert found.precision == pytest.approx(covered(a, b), abs=1e-6)  # a float32 mean
    assert found.recall == pytest.approx(covered(b, a), abs=1e-6)
    assert found.fd > 1
    assert 0 < found.recall < 1
    assert found.kid_subset == 150
    by_hand = [kernel(*each) for each in subsets(a, b, 150)]
    assert found.kid == pytest.approx(np.mean(by_hand), rel=1e-9)
    assert found.kid_spread == pytest.approx(np.std(by_hand), rel=1e-9)
    assert np.mean(by_hand) == pytest.approx(kernel(a, b), abs=np.std(by_hand))


def test_the_inception_score_is_what_numpy_makes_of_the_logits(two, tmp_path):
    """exp of the mean divergence from the mean, in each of ten random parts."""
    found = measure(*two, [features(), features("raw")], ("is",)).features
    assert found["raw"].inception_score is None
    assert found["digits"].fd is None
    rows = digit_features(tmp_path / "a.npz")
    head = features().classifier.head
    logits = rows @ head.weight.double().numpy().T + head.bias.double().numpy()
    p = np.exp(logits - logits.max(1, keepdims=True))
    p = (p / p.sum(1, keepdims=True))[np.random.RandomState(2020).permutation(300)]
    scores = [
        np.exp((part * np.log(part / part.mean(0))).sum(1).mean()) for part in np.split(p, 10)
    ]
    assert 1.2 < np.mean(scores) < 10
    # The features are of float32, and so are the logits of them.
    assert found["digits"].inception_score == pytest.approx(np.mean(scores), rel=1e-5)
    assert found["digits"].inception_score_spread == pytest.approx(np.std(scores), rel=1e-4)


def test_the_score_of_certain_and_even_guesses_is_the_number_of_classes(two):
    """And of guesses that say nothing, or always the same, 1."""
    certain = 1000 * torch.eye(7)[torch.arange(70_000) % 7]
    assert inception_score(certain)[0] == pytest.approx(7, rel=1e-3)
    assert inception_score(certain[:1].expand(50, 7)) == pytest.approx((1, 0))
    assert inception_score(torch.zeros(50, 7)) == pytest.approx((1, 0))


def subsets(a: np.ndarray, b: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The subsets that torch-fidelity draws, with the seed that it has for them."""
    chance = np.random.RandomState(2020)
    for _ in range(SUBSETS):
        yield (
            a[chance.choice(len(a), size, replace=False)],
            b[chance.choice(len(b), size, replace=False)],
        )


def test_a_published_file_gives_the_closed_form_between_gaussians(tmp_path):
    """‖μ_a − μ_b‖² + d (s_a − s_b)²."""
    mu, s = Stream(0).normal(2, 8).numpy(), (0.5, 2.0)
    names = ("a.npz", "b.npz")
    for name, mean, scale in zip(names, mu, s, strict=True):
        npz(
            tmp_path / name,
            mu=mean,
            sigma=scale**2 * np.eye(8),
            mu_s=np.zeros(3),
            sigma_s=np.eye(3),
            arr_0=pictures(0, 5),
        )
    samples = open_samples(npz(tmp_path / "c.npz", arr_0=pictures(1, 5)), Making())
    a, b = (
        open_reference(str(tmp_path / name), samples, Making()).statistics["inception"]
        for name in names
    )
    expected = ((mu[0] - mu[1]) ** 2).sum() + 8 * (s[0] - s[1]) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_the_statistics_of_a_published_file_are_in_no_other_features(tmp_path):
    file = npz(tmp_path / "r.npz", mu=np.zeros(64), sigma=np.eye(64), arr_0=pictures(0, 5))
    samples, reference = opened(npz(tmp_path / "a.npz", arr_0=pictures(1, 5)), file)
    with pytest.raises(EvaluationError, match="only in the features inception, not in digits"):
        measure(samples, reference, [features()])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mu": np.zeros(3)}, "has mu but no sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(2)}, r"mu has shape \(3,\) and sigma \(2, 2\)"),
        ({"mu": np.full(2, np.nan), "sigma": np.eye(2)}, "holds NaN or infinity"),
    ],
)
def test_damaged_statistics_are_refused(tmp_path, arrays, said):
    samples = npz(tmp_path / "a.npz", arr_0=pictures(1, 5))
    with pytest.raises(EvaluationError, match=said):
        opened(samples, npz(tmp_path / "r.npz", **arrays))


def test_a_sampler_its_file_and_its_folder_have_the_same_numbers(tmp_path):
    asked = Making(number=300, seed=3, teacher=True, steps=1, solver="euler", device="cpu")
    made = open_samples("digits.toml", asked)
    sampler = load_teacher_sampler("digits.toml", method="euler", steps=1, device="cpu")
    for name in ("s.npz", "s"):
        write_samples(sampler, sampler.request(300, seed=3), tmp_path / name)
    kept = [open_samples(str(tmp_path / name), Making()) for name in ("s.npz", "s")]
    batches = [torch.cat(list(each)) for each in (made, *kept)]
    assert batches[0].shape == (300, 1, 8, 8)
    assert torch.equal(batches[0], batches[1])
    assert torch.equal(batches[0], batches[2])
    for each in kept:
        assert each.labels == made.labels == [i % 10 for i in range(300)]
        for name in ("fingerprint", "seed", "labels", "guidance", "decoder", "number", "nfe"):
            assert each.record[name] == made.record[name], name
    assert open_samples(str(tmp_path / "s.npz"), Making(number=7)).labels == made.labels[:7]


def test_a_teachers_statistics_serve_their_own_features_and_no_others(tmp_path):
    samples = npz(tmp_path / "a.npz", arr_0=pictures(0))
    judged, reference = opened(samples, SHIPPED)
    found = measure(judged, reference, [features()])
    stored = Reference.read(SHIPPED).statistics["digits"]
    a = digit_features(tmp_path / "a.npz")
    expected = frechet_distance(Statistics.of(torch.from_numpy(a)), stored)
    assert found.features["digits"].fd == pytest.approx(expected, rel=1e-9)
    assert any("were not rounded to 8 bits" in each for each in found.notes)
    other = features()
    with torch.no_grad():
        other.classifier.head.bias += 1
    with pytest.raises(EvaluationError, match="by another network of features digits"):
        measure(judged, reference, [other])
    with pytest.raises(EvaluationError, match=r"kid needs samples as the reference"):
        measure(judged, reference, [features()], ("fd", "kid"))


def test_a_packages_file_of_something_else_is_no_reference(two):
    with pytest.raises(EvaluationError, match=r"teacher\.safetensors is neither statistics nor"):
        open_reference("ffcore_digits:teacher.safetensors", two[0], Making())


def test_a_reference_that_is_made_is_of_the_same_conditions_and_other_noise(tmp_path):
    changes = {"teacher": True, "steps": 2, "solver": "heun", "guidance": 2.0, "labels": [3]}
    judged, reference = opened("digits.toml", "digits.toml", Making(number=8, seed=5, **changes))
    assert reference.samples is not None
    there = reference.record
    assert (there["number"], there["seed"], there["labels"]) == (8, 6, [3])
    assert there["guidance"]["scale"] == 2
    assert there["solver"] == attrs.asdict(Solver())
    assert judged.record["solver"]["steps"] == 2


# Classes


class Reads(Features):
    """Not a classifier."""

    name = "reads"

    def forward(self, samples: Tensor) -> Tensor:
        return samples.flatten(1)


def digits_of(labels: list[int], tmp_path: Path, told: list[int] | None) -> Kept:
    """Samples of the embedded teacher, of which another story may be told."""
    sampler = load_teacher_sampler("digits.toml", steps=8, device="cpu")
    write_samples(sampler, sampler.request(len(labels), labels=labels), tmp_path / "d.npz")
    record = json.loads((tmp_path / "d.npz.json").read_text())
    assert record["label_of_each"] == labels
    record["label_of_each"] = told
    (tmp_path / "d.npz.json").write_text(json.dumps(record))
    found = open_samples(str(tmp_path / "d.npz"), Making())
    assert isinstance(found, Kept)
    return found


def test_modes_that_are_missing_show(tmp_path):
    """Asked for ten digits, a collapsed student makes two."""
    samples = digits_of([3, 7] * 50, tmp_path, told=list(range(10)) * 10)
    reference = open_reference(SHIPPED, samples, Making())
    found = measure(samples, reference, [features()], ("classes",)).features["digits"]
    assert found.fd is None
    assert sum(found.classes.counts) == 100
    assert found.classes.counts[3] + found.classes.counts[7] >= 95
    assert {0, 1, 2, 4, 5, 6, 8, 9} & {*found.classes.missing}
    assert found.classes.as_asked < 0.3
    assert found.classes.recall[0] < 0.2


def test_classes_that_were_not_asked_for_have_no_recall(tmp_path):
    samples = digits_of([3, 7] * 20, tmp_path, told=[3, 7] * 20)
    reference = open_reference(SHIPPED, samples, Making())
    found = measure(samples, reference, [features()], ("classes",)).features["digits"].classes
    assert found.as_asked > 0.9
    assert [c for c, share in enumerate(found.recall) if share is not None] == [3, 7]


def test_without_labels_the_spread_is_told_alone(two):
    found = measure(*two, [features()], ("classes",)).features["digits"].classes
    assert (sum(found.counts), found.as_asked, found.recall) == (300, None, None)


def test_labels_stand_beside_the_samples_as_adm_has_them(tmp_path):
    digits = digits_of([3, 7] * 20, tmp_path, told=None)
    with np.load(tmp_path / "d.npz") as file:
        pixels = file["arr_0"]
    path = npz(tmp_path / "adm.npz", arr_0=pixels, arr_1=np.array([3, 7] * 20))
    samples = open_samples(path, Making())
    assert (digits.labels, samples.labels) == (None, [3, 7] * 20)
    reference = open_reference(SHIPPED, samples, Making())
    found = measure(samples, reference, [features()], ("classes",)).features["digits"].classes
    assert found.as_asked > 0.9
    others = open_samples(npz(tmp_path / "o.npz", arr_0=pixels, arr_1=np.ones(40, int)), Making())
    assert samples.record["labels"].startswith("arr_1 ")
    assert others.record["labels"] != samples.record["labels"]
    assert open_samples(path, Making(number=4)).labels == [3, 7, 3, 7]


@pytest.mark.parametrize("wrong", [np.arange(39), np.arange(40) - 1, np.zeros((40, 1), int)])
def test_whole_numbers_beside_samples_that_are_no_labels_are_refused(tmp_path, wrong):
    path = npz(tmp_path / "a.npz", arr_0=pictures(0, 40), arr_1=wrong)
    with pytest.raises(
        EvaluationError, match=r"arr_1 is int64 of shape .* Leave out anything else"
    ):
        open_samples(path, Making())
    floats = npz(tmp_path / "b.npz", arr_0=pictures(0, 40), arr_1=np.zeros(3))
    assert open_samples(floats, Making()).labels is None


def test_labels_that_the_features_do_not_tell_are_refused(two, tmp_path):
    path = npz(tmp_path / "c.npz", arr_0=pictures(0, 40), arr_1=np.arange(40))
    with pytest.raises(
        EvaluationError, match="label 39, but the features digits know only the classes 0 to 9"
    ):
        measure(open_samples(path, Making()), two[1], [features()], ("classes",))


def test_a_part_of_samples_is_that_part(tmp_path):
    vectors = Stream(0).normal(1000, 2).numpy().astype(np.float32)
    asked = Making(number=600, teacher=True, steps=1, solver="euler", device="cpu", batch=100)
    write_samples(
        (sampler := load_teacher_sampler("digits.toml", method="euler", steps=1, device="cpu")),
        sampler.request(600),
        tmp_path / "s",
    )
    for samples in (
        open_samples(npz(tmp_path / "v.npz", arr_0=vectors), Making()),
        open_samples(str(tmp_path / "s"), Making()),
        open_samples("digits.toml", asked),
    ):
        whole = torch.cat(list(samples))
        part = list(samples.between(256, 600))
        assert torch.equal(torch.cat(part), whole[256:600])
        assert max(map(len, part)) <= 256
        assert 512 in 256 + torch.tensor(list(map(len, part))).cumsum(0)


def test_classes_need_a_classifier(two):
    with pytest.raises(
        EvaluationError,
        match="needs features of a classifier for the samples' labels, which reads is not",
    ):
        measure(*two, [Reads()], ("classes",))
    with pytest.raises(
        EvaluationError, match="is: needs features of a classifier, but reads has no"
    ):
        measure(*two, [Reads()], ("is",))


# What is refused, and what is warned of


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((5, 8, 8, 1), np.float32), r"Convert floats in \[0, 1\] by \(255"),
        (np.zeros((5, 3, 8, 8)), "images are uint8 from 0 to 255"),
        (np.zeros((5, 3, 8, 8), np.uint8), r"transpose it, arr_0\.transpose\(0, 2, 3, 1\)"),
        (np.zeros((5, 8, 8, 4), np.uint8), "with 1 or 3 channels$"),
        (np.zeros((5, 8, 8), np.uint8), "with 1 or 3 channels$"),
        (np.zeros((5, 8, 8, 1), np.int64), "images are uint8, anything else float32"),
        (np.zeros((1, 8, 8, 1), np.uint8), "at least 2"),
        (np.zeros(5), "at least 2"),
        (np.array([[{}], [{}]]), "an array of Python objects"),
    ],
)
def test_arrays_that_are_no_samples_are_refused(tmp_path, array, said):
    with pytest.raises(EvaluationError, match=said):
        open_samples(npz(tmp_path / "a.npz", arr_0=array), Making())


def test_a_sample_that_is_not_finite_is_named(tmp_path):
    vectors = np.zeros((600, 2), np.float32)
    vectors[417, 1] = np.nan
    samples = open_samples(npz(tmp_path / "a.npz", arr_0=vectors), Making())
    with pytest.raises(EvaluationError, match="sample 417 holds NaN or infinity"):
        list(samples)


def test_other_files_are_told_for_what_they_are(tmp_path):
    (tmp_path / "no.npz").write_text("no")
    with pytest.raises(EvaluationError, match=r"cannot be read as an \.npz"):
        open_samples(str(tmp_path / "no.npz"), Making())
    other = npz(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(EvaluationError, match="has no arr_0, only x"):
        open_samples(other, Making())
    with pytest.raises(EvaluationError, match="holds no pictures"):
        open_samples(str(tmp_path), Making())
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(EvaluationError, match="is a single picture"):
        open_samples(str(tmp_path / "a.png"), Making())
    Image.new("L", (9, 8)).save(tmp_path / "b.png")
    with pytest.raises(
        EvaluationError, match=r"b\.png in .* is 9 × 8 of 1 channel, but a\.png is 8"
    ):
        list(open_samples(str(tmp_path), Making()))
    Image.new("RGBA", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(EvaluationError, match="mode RGBA"):
        open_samples(str(tmp_path), Making())


def test_a_file_that_is_cut_short_is_told(tmp_path):
    path = tmp_path / "a.npz"
    npz(path, arr_0=pictures(0, 5))
    stored = open_stored(path)
    npz(path, arr_0=pictures(0, 4))
    with pytest.raises(EvaluationError, match="cut short"):
        list(stored.between(0, 5))


@pytest.mark.parametrize("number", [5, 3000])
def test_a_damaged_file_is_told(tmp_path, number):
    path = tmp_path / "a.npz"
    npz(path, arr_0=pictures(0, number), mu=np.zeros(9), sigma=np.eye(9))
    whole = bytearray(path.read_bytes())
    for name in (b"arr_0.npy", b"mu.npy"):
        whole[whole.index(name) + 200] ^= 255
    path.write_bytes(whole)
    with pytest.raises(EvaluationError, match="is damaged: Bad CRC-32"):
        list(open_samples(str(path), Making()))
    samples = open_samples(npz(tmp_path / "b.npz", arr_0=pictures(0, 5)), Making())
    with pytest.raises(EvaluationError, match="mu cannot be read: Bad CRC-32"):
        open_reference(str(path), samples, Making())


def test_images_of_ones_are_wondered_at(tmp_path):
    cut = (pictures(0) > 127).astype(np.uint8)
    dark = opened(npz(tmp_path / "a.npz", arr_0=cut), npz(tmp_path / "b.npz", arr_0=pictures(1)))
    notes = measure(*dark, [features()]).notes
    assert notes == ("no pixel of the samples is above 1 of 255: were floats in [0, 1] rounded?",)


def test_vectors_are_measured_in_float32_whatever_their_kind(tmp_path):
    vectors = Stream(0).normal(40, 3).numpy()
    a = npz(tmp_path / "a.npz", arr_0=vectors.astype(">f8"))
    b = npz(tmp_path / "b.npz", arr_0=1 + vectors.astype(np.float32))
    found = measure(*opened(a, b), [features("raw")]).features["raw"]
    assert found.fd == pytest.approx(3, rel=1e-5)


def test_the_record_of_other_samples_is_refused(tmp_path):
    path = npz(tmp_path / "a.npz", arr_0=pictures(0, 5))
    (tmp_path / "a.npz.json").write_text(json.dumps({"number": 6, "shape": [1, 8, 8]}))
    with pytest.raises(EvaluationError, match="Remove it; the conditions then count as unknown"):
        open_samples(path, Making())
    labels = {"number": 5, "shape": [1, 8, 8], "label_of_each": [1, 2]}
    (tmp_path / "a.npz.json").write_text(json.dumps(labels))
    with pytest.raises(EvaluationError, match="Remove it; the conditions then count as unknown"):
        open_samples(path, Making())
    (tmp_path / "a.npz.json").write_text("[]")
    with pytest.raises(EvaluationError, match="is not a record of a sampling"):
        open_samples(path, Making())


def test_what_does_not_fit_together_is_refused(two, tmp_path):
    wide = open_samples(npz(tmp_path / "w.npz", arr_0=np.zeros((5, 9, 8, 1), np.uint8)), Making())
    with pytest.raises(
        EvaluationError, match=r"have shape \(1, 9, 8\), and those of the reference"
    ):
        measure(wide, two[1], [features()])
    with pytest.raises(EvaluationError, match=r"features digits cannot take samples of shape"):
        measure(wide, open_reference(SHIPPED, wide, Making()), [features()])
    few = open_samples(str(tmp_path / "a.npz"), Making(number=3))
    with pytest.raises(EvaluationError, match="3 samples are too few"):
        measure(few, two[1], [features()])
    few = open_samples(str(tmp_path / "a.npz"), Making(number=9))
    with pytest.raises(EvaluationError, match="is: 9 samples cannot be split into 10 parts"):
        measure(few, two[1], [features()], ("is",))
    with pytest.raises(EvaluationError, match="holds only 300 samples, fewer than 301"):
        open_samples(str(tmp_path / "a.npz"), Making(number=301))
    with pytest.raises(EvaluationError, match=r"^teacher, steps: "):
        open_samples(str(tmp_path / "a.npz"), Making(steps=2, teacher=True))
    with pytest.raises(EvaluationError, match="unknown 'fid'; possible: fd, is, kid, pr, classes"):
        measure(*two, [features()], ("fid",))
    with pytest.raises(EvaluationError, match="name each once"):
        measure(*two, [features(), features()])
    of_other = Reference(
        record={"source": "x"}, statistics={"digits": Statistics(np.zeros(3), np.eye(3))}
    )
    with pytest.raises(
        EvaluationError, match="have 64 dimensions, but the stored statistics have 3"
    ):
        measure(two[0], of_other, [features()])


@pytest.mark.parametrize(("number", "warned"), [(64, True), (65, False)])
def test_fewer_samples_than_dimensions_are_warned_of(two, tmp_path, number, warned):
    few = open_samples(str(tmp_path / "a.npz"), Making(number=number))
    found = measure(few, two[1], [features()])
    assert any("covariance is singular" in each for each in found.notes) == warned


# Comparing


def told(samples: Kept, reference: Reference, spaces: list[Features]) -> dict:
    found: dict = json.loads(json.dumps(conditions(samples, reference, spaces)))
    return found


def test_the_conditions_name_every_network(two):
    found = told(*two, [features(), features("raw")])
    assert found["features"] == {
        "digits": fingerprint(features()),
        "raw": fingerprint(features("raw")),
    }
    assert found["samples"]["seed"] is None
    assert found["versions"].keys() == {"ffcore", "torch", "torch-fidelity"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Making(number=6), "samples' number: 5 there, 6 here"),
        (Making(seed=1), "samples' seed: 0 there, 1 here"),
        (Making(labels="random"), "samples' labels: balanced there, random here"),
        (Making(guidance=2.0), r"samples' guidance: 1\.0 there, 2\.0 here"),
    ],
)
def test_numbers_of_other_conditions_are_not_compared(change, said):
    first = Making(number=5, teacher=True, device="cpu")
    given = attrs.asdict(change, filter=lambda a, v: v is not None and v != a.default)
    old, new = (
        told(*opened("digits.toml", SHIPPED, asked), [features()])
        for asked in (first, attrs.evolve(first, **given))
    )
    with pytest.raises(EvaluationError, match=said):
        check_comparable(old, new, Path("old.json"))
    check_comparable(old, old, Path("old.json"))


def test_other_steps_and_other_names_may_be_compared():
    first = Making(number=5, teacher=True, device="cpu", steps=4)
    old, new = (
        told(*opened("digits.toml", SHIPPED, asked), [features()])
        for asked in (first, attrs.evolve(first, steps=8))
    )
    assert old["samples"]["nfe"] != new["samples"]["nfe"]
    new["reference"]["source"] = "elsewhere"
    check_comparable(old, new, Path("old.json"))


def test_another_reference_network_or_space_is_not_compared(two, tmp_path):
    old = told(*two, [features()])
    path = Path("old.json")
    other = open_reference(npz(tmp_path / "c.npz", arr_0=pictures(2)), two[0], Making())
    with pytest.raises(EvaluationError, match="reference's content: "):
        check_comparable(old, told(two[0], other, [features()]), path)
    changed = features()
    with torch.no_grad():
        changed.classifier.head.bias += 1
    with pytest.raises(EvaluationError, match="network of digits: "):
        check_comparable(old, told(*two, [changed]), path)
    with pytest.raises(EvaluationError, match="no number to compare with"):
        check_comparable(old, told(*two, [features("raw")]), path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no", "cannot be read as a result"),
        ("{}", "is not a result of ffd evaluate"),
        ('{"schema": 9, "conditions": {}, "metrics": {}}', "has schema 9"),
    ],
)
def test_a_file_that_is_no_result_is_told(tmp_path, text, said):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(EvaluationError, match=said):
        read_result(tmp_path / "r.json")
