"""Transformers of weights files as teachers; and how large the published ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import nn

from ffcore.interfaces import Condition, Context, Labels
from ffcore.nn.size import MODELS, TransformerSize
from ffcore.nn.teacher import stated_network
from ffcore.nn.transformer import Transformer
from ffcore.system.weights import WeightsError, write_weights
from ffcore_dit.tables import DiTTeacher
from ffcore_repa.tables import RepaTeacher
from ffcore_sit.tables import SiTTeacher

TEACHERS: dict[str, Any] = {"sit": SiTTeacher, "repa": RepaTeacher, "dit": DiTTeacher}
SIZE = TransformerSize(
    input_size=4, patch_size=2, channels=2, width=16, depth=2, heads=2, classes=3
)


def written(path: Path, config: dict[str, Any]) -> Transformer:
    torch.manual_seed(1)
    network = Transformer(SIZE)
    with torch.no_grad():
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2)
    write_weights(path, network.state_dict(), config)
    return network


def network_of(teacher: nn.Module) -> Transformer:
    return next(each for each in teacher.modules() if isinstance(each, Transformer))


@pytest.mark.parametrize("family", TEACHERS)
def test_a_file_says_the_sizes_of_its_network(family: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    network = written(path, {family: attrs.asdict(SIZE)})
    built = TEACHERS[family](weights=str(path)).build(Context())
    found = network_of(built).state_dict()
    assert all(torch.equal(found[name], each) for name, each in network.state_dict().items())
    assert built.sample_shape == (2, 4, 4)
    assert built.conditions == Labels(3, null_label=3)
    assert not any(parameter.requires_grad for parameter in built.parameters())
    assert not built.training


def test_a_file_of_another_family_does_not_say_them(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    written(path, {"sit": attrs.asdict(SIZE)})
    with pytest.raises(WeightsError, match="does not state its sizes"):
        RepaTeacher(weights=str(path)).build(Context())


def test_sizes_may_stand_in_the_recipe_instead(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    written(path, {})
    SiTTeacher(weights=str(path), sizes=SIZE).build(Context())
    with pytest.raises(WeightsError, match="does not state its sizes"):
        SiTTeacher(weights=str(path)).build(Context())


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"sit": attrs.asdict(SIZE)}, "but the recipe states"),
        ({}, "another model size"),
        ({"sit": {"a": 1}}, "does not describe a sit"),
    ],
)
def test_sizes_that_contradict_the_file_are_refused(
    stored: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    written(path, stored)
    with pytest.raises(WeightsError, match=message):
        SiTTeacher(weights=str(path), sizes=attrs.evolve(SIZE, depth=3)).build(Context())


def test_a_teacher_has_weights_or_a_size_and_not_two_sizes() -> None:
    with pytest.raises(ValueError, match=r"\(weights\), .* \(model or sizes\)"):
        SiTTeacher()
    with pytest.raises(ValueError, match="contradict"):
        SiTTeacher(model="B/2", sizes=SIZE)
    with pytest.raises(ValueError, match=r"sizes\.qk_norm"):
        SiTTeacher(sizes=SIZE, qk_norm=True)
    for other in ({"sizes": SIZE}, {"weights": "some.pt"}):
        with pytest.raises(ValueError, match=r"image_size needs model: .* sizes\.input_size \(64 "):
            SiTTeacher(image_size=512, **other)
    with pytest.raises(ValueError, match=r"weights: must be a path, package:file or hf://"):
        SiTTeacher(model="B/2", weights="")


@pytest.mark.parametrize("family", TEACHERS)
def test_part_chooses_among_the_networks_of_a_file(family: str, tmp_path: Path) -> None:
    raw, average = (Transformer(SIZE).state_dict() for _ in range(2))
    average = {name: each + 1 for name, each in average.items()}
    path = str(tmp_path / "x.pt")
    torch.save({"net": raw, "net_ema": average}, path)
    for part, expected in ((None, average), ("net", raw), ("net_ema", average)):
        built = TEACHERS[family](weights=path, part=part, sizes=SIZE).build(Context())
        found = network_of(built).state_dict()
        assert all(torch.equal(found[name], each) for name, each in expected.items())


def test_an_average_of_another_size_says_which_part_fits(tmp_path: Path) -> None:
    raw = Transformer(SIZE).state_dict()
    average = Transformer(attrs.evolve(SIZE, depth=1)).state_dict()
    torch.save({"model": raw, "ema": average}, path := tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"\(ema\) holds another network") as caught:
        SiTTeacher(weights=str(path), sizes=SIZE).build(Context())
    assert str(caught.value).count('set part = "model"') == 1


def test_a_list_of_averages_includes_the_fixed_embedding(tmp_path: Path) -> None:
    """Officially it is a parameter, here a buffer: the list is longer than our parameters."""
    network = Transformer(SIZE)
    raw = {"pos_embed": network.pos_embed, **network.state_dict()}
    shadow = [raw["pos_embed"], *(each + 1 for each in network.state_dict().values())]
    torch.save({"model": raw, "ema": {"shadow_params": shadow}}, path := tmp_path / "x.pt")
    built = SiTTeacher(weights=str(path), sizes=SIZE).build(Context())
    found = network_of(built).state_dict()
    assert all(torch.equal(found[name], each + 1) for name, each in network.state_dict().items())


def test_part_needs_weights_and_a_name() -> None:
    with pytest.raises(ValueError, match="part = 'ema' needs weights"):
        SiTTeacher(sizes=SIZE, part="ema")
    with pytest.raises(ValueError, match="part: must be a name"):
        SiTTeacher(weights="a.pt", part="")


def test_a_file_that_predicts_sigma_is_no_repa_s(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = Transformer(SIZE).state_dict()
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        tensors[name] = torch.cat([tensors[name]] * 2)
    write_weights(path, tensors)
    SiTTeacher(weights=str(path), sizes=SIZE).build(Context())
    with pytest.raises(WeightsError, match="predicts σ"):
        RepaTeacher(weights=str(path), sizes=SIZE).build(Context())


@pytest.mark.parametrize(("field", "value"), [("patch_size", 3), ("heads", 3), ("width", 18)])
def test_sizes_that_do_not_go_together_are_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match="is not a multiple"):
        attrs.evolve(SIZE, **{field: value})


def test_without_a_null_label_there_is_nothing_to_guide_towards() -> None:
    built = SiTTeacher(sizes=attrs.evolve(SIZE, null_label=False)).build(Context())
    with pytest.raises(ValueError, match="no null label"):
        built.conditions.null(Condition(size=1, label=torch.zeros(1, dtype=torch.long)))


def test_the_file_is_named_with_what_its_user_must_know() -> None:
    (file,) = RepaTeacher(model="XL/2", weights="a.pt", origin="there", licence="MIT").files
    assert (file.reference, file.key, file.origin, file.licence) == (
        "a.pt", "teacher.weights", "there", "MIT",
    )  # fmt: skip
    assert "XL/2" in file.what
    assert SiTTeacher(sizes=SIZE).files == ()


# The published sizes, on the meta device: no memory, no weights file.

OFFICIAL = {
    "XL/2": 675_129_632, "XL/4": 675_074_432, "XL/8": 675_683_072,
    "L/2": 458_102_816, "L/4": 458_053_760, "L/8": 458_594_816,
    "B/2": 130_512_416, "B/4": 130_475_648, "B/8": 130_881_536,
    "S/2": 32_963_360, "S/4": 32_945_024, "S/8": 33_148_160,
}  # fmt: skip
"""What the official SiT and DiT at 256 print as their parameters: those with `learn_sigma`, and the
fixed position embedding, which is a parameter there and a buffer here."""


def parts(size: TransformerSize) -> tuple[int, int, int]:
    """(our parameters, the position embedding, the σ half of the last layer)."""
    with torch.device("meta"):
        network = Transformer(size)
    rows = size.patch_size**2 * size.channels
    ours = sum(parameter.numel() for parameter in network.parameters())
    return ours, network.pos_embed.numel(), rows * (size.width + 1)


@pytest.mark.parametrize("model", MODELS)
def test_a_published_size_has_the_official_number_of_parameters(model: Any) -> None:
    assert sum(parts(TransformerSize.published(model, 256))) == OFFICIAL[model]


def test_at_512_the_position_embedding_alone_grows() -> None:
    small, large = (parts(TransformerSize.published("XL/2", side)) for side in (256, 512))
    assert (small[0], small[2]) == (large[0], large[2]) == (674_816_272, 18_448)
    assert (small[1], large[1]) == (294_912, 4 * 294_912)
    assert sum(large) == 676_014_368  # the official number at 512


def test_repas_number_is_without_sigma_and_with_its_projectors() -> None:
    ours, position, _ = parts(TransformerSize.published("XL/2", 256))
    linear = lambda a, b: (a + 1) * b  # noqa: E731
    projectors = linear(1152, 2048) + linear(2048, 2048) + linear(2048, 768)
    assert ours + position == 675_111_184
    assert ours + position + projectors == 683_242_512  # what the official REPA prints


def test_normalised_queries_and_keys_add_four_vectors_a_block() -> None:
    plain, _, _ = parts(TransformerSize.published("XL/2", 256))
    normed, _, _ = parts(TransformerSize.published("XL/2", 256, qk_norm=True))
    assert normed - plain == 28 * 4 * 72  # head_dim of XL is 72


@pytest.mark.parametrize("family", TEACHERS)
@pytest.mark.parametrize("side", [256, 512])
def test_a_hollow_teacher_needs_neither_weights_nor_memory(family: str, side: int) -> None:
    table = TEACHERS[family](model="XL/2", image_size=side, weights="not/there.pt")
    teacher = table.build(Context(meta=True))
    assert teacher.sample_shape == (4, side // 8, side // 8)
    assert {each.device.type for each in teacher.parameters()} == {"meta"}
    copied = teacher.trainable_copy(takes_guidance=True)
    assert {each.device.type for each in copied.parameters()} == {"meta"}
    x = torch.zeros(2, *teacher.sample_shape, device="meta")
    t, label = torch.ones(2, device="meta"), torch.zeros(2, dtype=torch.long, device="meta")
    assert copied(x, t, Condition(size=2, label=label)).shape == x.shape


def test_a_file_that_is_not_there_is_told_by_its_name(tmp_path: Path) -> None:
    from ffcore.system.files import MissingFile

    table = SiTTeacher(sizes=SIZE, weights=str(tmp_path / "absent.pt"))
    with pytest.raises(MissingFile, match=r"absent\.pt"):
        stated_network(table, Context(), family="sit")
