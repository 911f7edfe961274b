"""The embedded teacher and classifier, as shipped."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffcore.draws import Draws
from ffcore.evaluate.metrics import Statistics, frechet_distance
from ffcore.evaluate.prior import Measurement, identity, prior
from ffcore.evaluate.reference import Reference
from ffcore.flow.exact import Gaussian
from ffcore.flow.ode import integrate
from ffcore.flow.solver import Solver
from ffcore.interfaces import (
    Condition,
    Context,
    DataSource,
    FrozenTeacher,
    FunctionTeacher,
    Labels,
    Teacher,
)
from ffcore.recipe import RecipeError, component, load_recipe
from ffcore.system.files import MissingFile
from ffcore.system.weights import fingerprint, read_weights
from ffcore.testing.check import check_tables
from ffcore_digits import verifiers
from ffcore_digits.classifier import DigitFeatures, accuracy
from ffcore_digits.data import digits
from ffcore_digits.tables import DigitsAsData
from ffcore_digits.warp import HALF_ANGLE, warp

FOLDER = Path(next(iter(find_spec("ffcore_digits").submodule_search_locations)))
CARD = json.loads((FOLDER / "card.json").read_text())
SHIPPED = Measurement()


@pytest.fixture(scope="module")
def teacher() -> FrozenTeacher:
    weights = "ffcore_digits:teacher.safetensors"
    return component("teacher", {"type": "sit", "weights": weights}).build(Context())


@pytest.fixture(scope="module")
def features() -> DigitFeatures:
    return component("features", {"type": "digits"}).build(Context())


def raw():
    return component("features", {"type": "raw"}).build(Context())


@pytest.mark.parametrize("name", ["teacher", "classifier", "reference"])
def test_no_shipped_file_is_larger_than_three_megabytes(name):
    assert (FOLDER / f"{name}.safetensors").stat().st_size <= 3_000_000


def test_the_split_keeps_every_digit_once():
    (train, _), (held_out, _), (every, labels) = map(digits, ("train", "held out", "all"))
    assert len(train) + len(held_out) == len(every) == 1797
    assert torch.equal(torch.cat([held_out, train]), every)
    assert every.min() == -1
    assert every.max() == 1
    assert labels.bincount().min() > 170


def test_the_classifier_reads_digits_that_it_did_not_train_on(features):
    found = accuracy(features.classifier, *digits("held out"))
    assert found >= 0.97
    assert found == CARD["classifier"]["accuracy_held_out"]


def test_a_classifier_with_shuffled_weights_would_not_pass(features):
    weights = read_weights("ffcore_digits:classifier.safetensors")
    broken = DigitFeatures(weights)
    broken.classifier.head.weight.copy_(broken.classifier.head.weight.roll(1, 0))
    assert accuracy(broken.classifier, *digits("held out")) < 0.5


def test_the_teacher_draws_ten_classes_and_has_a_null_label(teacher):
    assert teacher.sample_shape == (1, 8, 8)
    assert teacher.conditions == Labels(10, null_label=10)


def test_the_teachers_samples_are_read_as_their_class(teacher, features):
    z, condition = next(prior(teacher, Measurement(seed=7), "test", 300))
    samples = integrate(teacher, z, condition, Solver("heun", 16))
    agreement = (features.classify(samples) == condition.label).double().mean()
    assert agreement >= 0.97


def test_the_shipped_reference_belongs_to_the_shipped_teacher(teacher, features):
    reference = Reference.read("ffcore_digits:reference.safetensors")
    reference.check(identity(teacher, [features, raw()], SHIPPED))
    assert set(reference.statistics) == {"digits", "raw"}
    for distances in reference.baselines.values():
        ladder = [*distances.euler.values(), distances.floor]
        assert ladder == sorted(ladder, reverse=True)


def test_the_reference_notices_another_teacher(teacher, features):
    reference = Reference.read("ffcore_digits:reference.safetensors")
    other = FrozenTeacher(teacher.trainable_copy(), (1, 8, 8), teacher.conditions)
    next(other.parameters()).mul_(1.001)
    assert fingerprint(other) != fingerprint(teacher)
    with pytest.raises(ValueError, match="teacher: the reference has"):
        reference.check(identity(other, [features, raw()], SHIPPED))


def test_the_reference_is_what_sampling_gives(teacher, features):
    """One Euler step from the noise that the baseline used gives the stored distance again."""
    reference = Reference.read("ffcore_digits:reference.safetensors")
    found = [
        features(integrate(teacher, z, condition, Solver("euler", 1)))
        for z, condition in prior(teacher, SHIPPED, "student")
    ]
    distance = frechet_distance(Statistics.of(torch.cat(found)), reference.statistics["digits"])
    assert distance == pytest.approx(reference.baselines["digits"].euler[1], rel=1e-4)


def test_the_card_meets_the_bar_that_the_teacher_was_frozen_at():
    card = CARD["reference"]
    assert card["distance_to_data"] <= 0.03 * card["distance_to_data_of_one_euler_step"]
    assert card["read_as_their_class"] >= 0.97
    near = card["nearest_training_digit"]
    assert near["samples"]["50%"] >= 0.9 * near["held_out_digits"]["50%"]  # not memorised


@pytest.mark.slow
def test_the_teachers_converged_samples_are_close_to_the_data(teacher, features):
    data = Statistics.of(features(digits("all")[0]))

    def distance(steps: int, method: str) -> float:
        found = [
            features(integrate(teacher, z, condition, Solver(method, steps)))
            for z, condition in prior(teacher, SHIPPED, "card")
        ]
        return frechet_distance(Statistics.of(torch.cat(found)), data)

    assert distance(64, "heun") <= 0.03 * distance(1, "euler")


# Digits as data


def source(of: Teacher, **keys: Any) -> DataSource:
    return component("data", {"type": "digits", **keys}).build(Context(teacher=of))


@pytest.mark.parametrize("part", ["train", "all"])
def test_as_data_they_are_the_digits_with_their_labels(teacher, part):
    images, labels = digits(part)
    data = source(teacher, part=part)
    order = torch.tensor([3, 0, 3, len(images) - 1])
    found, condition = data.read(order, Draws(0, 0, 0, 4))
    assert (len(data), data.sample_shape) == (len(images), (1, 8, 8))
    assert torch.equal(found, images[order])
    assert torch.equal(condition.label, labels[order])
    alone = source(FunctionTeacher(lambda x_t, t, c: x_t, (1, 8, 8)), part=part)
    assert alone.read(order, Draws(0, 0, 0, 4))[1] == Condition(size=4)


def test_augmentation_grows_with_its_strength_and_stays_in_range(teacher):
    draws, indices = Draws(0, 0, 0, 200), torch.arange(200)
    plain, _ = source(teacher).read(indices, draws)
    changes = []
    for strength in (0.0, 0.25, 0.5, 1.0, 2.0):
        found, _ = source(teacher, augment=strength).read(indices, draws)
        assert found.min() >= -1
        assert found.max() <= 1
        changes.append(float((found - plain).norm()))
    assert changes == sorted(changes)
    assert changes[0] == 0
    again, _ = source(teacher, augment=1.0).read(indices, attrs.evolve(draws, step=1))
    assert (again - source(teacher, augment=1.0).read(indices, draws)[0]).norm() > 10


@given(st.integers(0, 10_000), st.integers(0, 96), st.integers(1, 97))
def test_an_augmented_digit_is_the_same_in_a_slice_of_its_batch(teacher, step, start, size):
    data, indices = source(teacher, augment=1.0), torch.arange(97)
    draws, part = Draws(0, step, 0, 97), slice(start, min(97, start + size))
    whole, _ = data.read(indices, draws)
    assert torch.equal(data.read(indices[part], draws[part])[0], whole[part])


class Fixed(Draws):
    """Draws in which all amounts are in the middle, save one that is the greatest."""

    def uniform(self, purpose: str) -> torch.Tensor:
        return torch.full((len(self),), 1.0 if purpose in self.scope else 0.5)


IMAGE = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
RIGHT, DOWN = IMAGE.roll(-1, -1), IMAGE.roll(-1, -2)
RIGHT[..., -1], DOWN[..., -1, :] = -1, -1


@pytest.mark.parametrize(
    ("amount", "strength", "wanted"),
    [
        ("columns", 1.0, RIGHT),
        ("rows", 1.0, DOWN),
        ("rotation", 1 / HALF_ANGLE, IMAGE.rot90(1, (-2, -1))),
        ("none of them", 1.0, IMAGE),
    ],
)
def test_a_warp_of_whole_pixels_or_a_right_angle_moves_them_as_they_are(amount, strength, wanted):
    found = warp(IMAGE, strength, Fixed(0, 0, 0, 1).named(amount))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("strength", "scale"), [(0.5, 1.075), (1.0, 1.15), (-1.0, 1 / 1.15)])
def test_a_warp_zooms_in_as_strongly_as_out(strength, scale):
    ramp = (torch.arange(8.0) - 3.5).expand(1, 1, 8, 8) / 10
    found = warp(ramp, strength, Fixed(0, 0, 0, 1).named("zoom"))
    assert float(found[0, 0, 4, 4] - found[0, 0, 4, 3]) == pytest.approx(0.1 * scale, rel=1e-5)


def test_digits_are_data_for_teachers_of_digits():
    with pytest.raises(RecipeError, match=r"\[data\] digits are \(1, 8, 8\), but the teacher's"):
        load_recipe("gaussian.toml", ["data.type=digits", "predictor.type=objectives:TowardsData"])
    with pytest.raises(ValueError, match=r"digits are \(1, 8, 8\), but the teacher's samples \(2,"):
        source(Gaussian([0.0, 0.0]))
    few = FunctionTeacher(lambda x_t, t, c: x_t, (1, 8, 8), Labels(9))
    with pytest.raises(ValueError, match="label 9, but the teacher's classes are 0 to 8"):
        source(few)


def test_without_scikit_learn_the_machine_lacks_something(monkeypatch, teacher):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingFile, match=r"pip install 'ffcore\[digits\]'"):
        source(teacher)


def test_the_digits_are_lawful_data():
    tables = list(DigitsAsData.examples())
    results = check_tables("data/digits", "data", tables)
    assert {each.status for each in results} <= {"holds", "not checked"}, results
    assert sum(each.status == "holds" for each in results) > 8


# The verifiers of a search


def asked(labels):
    return Condition(size=len(labels), label=labels)


def test_confidence_is_the_classifiers_log_probability_of_the_class_asked_for():
    images, labels = digits("held out")
    right = verifiers.confidence(images, asked(labels))
    wrong = verifiers.confidence(images, asked((labels + 1) % 10))
    assert right.shape == (360,)
    assert (right <= 0).all()
    assert (right > wrong).double().mean() > 0.99
    each = [verifiers.confidence(images[:4], asked(torch.full((4,), c))) for c in range(10)]
    torch.testing.assert_close(torch.stack(each).exp().sum(0), torch.ones(4))


def test_nearness_is_largest_for_what_the_teacher_makes_of_that_class(monkeypatch):
    monkeypatch.setattr(verifiers, "SAMPLES", 20)
    monkeypatch.setattr(verifiers, "_teachers_samples", verifiers._teachers_samples.__wrapped__)
    samples, labels = verifiers._teachers_samples()
    assert labels.tolist() == list(range(10)) * 2
    images = samples.view(-1, 1, 8, 8)
    torch.testing.assert_close(
        verifiers.nearness(images, asked(labels)), torch.zeros(20), rtol=0, atol=1e-3
    )
    assert verifiers.agreement(images, asked(labels)).tolist() == [1] * 20
    other = (labels + 3) % 10
    assert verifiers.agreement(images, asked(other)).tolist() == [0] * 20
    distance = [
        min((samples[i] - samples[j]).square().mean().sqrt() for j in range(20) if labels[j] == c)
        for i, c in enumerate(other)
    ]
    found = verifiers.nearness(images, asked(other))
    torch.testing.assert_close(-found, torch.stack(distance), rtol=1e-4, atol=1e-4)


def test_digits_without_classes_are_not_judged():
    with pytest.raises(ValueError, match="these have no classes"):
        verifiers.confidence(torch.zeros(2, 1, 8, 8), Condition(size=2))
