"""The Inception network's features, with random weights in the layout of the published ones."""

from pathlib import Path

import pytest
import random_inception
import torch
from inputs import Stream
from torch import Tensor

from ffcore.evaluate.metrics import import_torch_fidelity
from ffcore.flow.exact import Gaussian
from ffcore.interfaces import Context, Features
from ffcore.recipe import RecipeError, load_recipe
from ffcore.system.files import MissingFile, require
from ffcore.system.weights import WeightsError
from ffcore.testing.check import check_tables
from ffcore.testing.small import small_teacher
from ffcore_inception.tables import Inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_inception.write(tmp_path_factory.mktemp("inception") / "weights.pth")


@pytest.fixture(scope="module")
def features(weights: Path) -> Features:
    return Inception(weights=str(weights)).build(Context())


def images(channels: int = 3) -> Tensor:
    return Stream(0).uniform(-1, 1, 2, channels, 16, 16).float()


def test_features_are_what_torch_fidelity_makes_of_8_bit_images(features, weights):
    extractor = import_torch_fidelity("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    network = extractor("x", ["2048"], feature_extractor_weights_path=str(weights))
    pixels = ((images() + 1) * 127.5).round().to(torch.uint8)
    found = features(images())
    assert found.shape == (2, 2048)
    assert found.std() > 1e-3
    assert torch.equal(found, network(pixels)[0])


def test_logits_are_those_that_torch_fidelity_scores(features, weights):
    extractor = import_torch_fidelity("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    layer = extractor.get_default_feature_layer_for_metric("isc")
    network = extractor("x", [layer], feature_extractor_weights_path=str(weights))
    pixels = ((images() + 1) * 127.5).round().to(torch.uint8)
    found = features.logits(features(images()))
    assert features.classes is None
    assert found.shape == (2, 1008)
    assert torch.equal(found, network(pixels)[0])


def test_a_grey_image_is_its_three_equal_channels(features):
    grey = images(1)
    assert torch.equal(features(grey), features(grey.expand(-1, 3, -1, -1)))


@pytest.mark.slow
def test_it_keeps_every_law(weights):
    results = check_tables("features/inception", "features", [Inception(weights=str(weights))])
    assert [each.name for each in results if each.fails] == []
    asked = {each.name for each in results if each.status != "not checked"}
    assert any("distinguishes-samples" in each for each in asked)


def test_an_absent_file_is_told_with_its_origin_and_place(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingFile) as told:
        require(Inception().files)
    text = str(told.value)
    assert f"{tmp_path}/hub/checkpoints/weights-inception-2015-12-05-6726825d.pth" in text
    assert "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/" in text
    assert "Apache-2.0" in text
    assert """'{type="inception",""" in text


def test_the_cache_is_where_torch_keeps_what_its_hub_downloads(monkeypatch, tmp_path):
    for variables in ({}, {"TORCH_HOME": "t"}, {"XDG_CACHE_HOME": "x"}):
        for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(tmp_path / value))
        file = Path(Inception().files[0].reference)
        assert file.parent == Path(torch.hub.get_dir()) / "checkpoints"


def test_weights_of_another_layout_are_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="does not fit torch-fidelity's Inception network"):
        Inception(weights=str(tmp_path / "w.pth")).build(Context())


def test_weights_that_are_no_numbers_are_refused(weights, tmp_path):
    tensors = torch.load(weights)
    tensors["fc.bias"][0] = torch.nan
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"the first is fc\.bias"):
        Inception(weights=str(tmp_path / "w.pth")).build(Context())


def test_samples_that_are_no_images_are_refused(features, weights):
    with pytest.raises(ValueError, match=r"3 channels or 1, found \(4, 8, 8\)"):
        features(torch.zeros(2, 4, 8, 8))
    for teacher in (Gaussian([0.0, 0.0], 1.0), small_teacher((4, 8, 8), 3)):
        with pytest.raises(ValueError, match="measures the decoded images"):
            Inception(weights=str(weights)).build(Context(teacher=teacher))
    with pytest.raises(RecipeError, match="inception reads images"):
        load_recipe("gaussian.toml", ["evaluation.features=[{type='inception'}]"])
