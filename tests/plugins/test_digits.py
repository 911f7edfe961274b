"""The embedded teacher and classifier, as shipped."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from ffcore.evaluate import Measurement, Reference, identity, prior
from ffcore.features import Statistics, fingerprint, frechet_distance
from ffcore.flow import integrate
from ffcore.interfaces import Context, FrozenTeacher, Labels
from ffcore.recipe import component
from ffcore.solver import Solver
from ffcore.weights import read_weights
from ffcore_digits.classifier import DigitFeatures, accuracy
from ffcore_digits.data import digits

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
    for distances in reference.distances.values():
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
    assert distance == pytest.approx(reference.distances["digits"].euler[1], rel=1e-4)


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
