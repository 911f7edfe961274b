"""The networks that the benchmarks of speed measure, by name."""

from __future__ import annotations

from typing import Any

from timing import wake

from ffcore.flow.guidance import remove_guidance
from ffcore.nn.size import TransformerSize
from ffcore.recipe import load_recipe
from ffcore.run.build import build
from ffcore.training.distillation import Distillation

WIDTHS = {"S/2": (384, 12, 6), "B/2": (768, 12, 12), "XL/2": (1152, 28, 16)}
"""Width, depth and heads of the published sizes."""


def distillation(case: str, *overrides: str) -> Distillation:
    """Return networks to train as FreeFlow does, with guidance.

    A case is "digits", or a published size and the side of the images, "S/2@128": random weights,
    of a thousand classes, none of them zero.
    """
    if case == "digits":
        return _built("digits_guided.toml", *overrides)
    model, _, side = case.partition("@")
    width, depth, heads = WIDTHS[model]
    return of_size(int(side) // 8, width, depth, heads, *overrides)


def of_size(input_size: int, width: int, depth: int, heads: int, *overrides: str) -> Distillation:
    """Return the same of any size: 4 channels, in patches of 2 × 2, and a batch of 32."""
    sizes = (
        f"{{input_size={input_size}, patch_size=2, channels=4, width={width}, "
        f"depth={depth}, heads={heads}, classes=1000}}"
    )
    random = (
        "teacher.model='none'",
        "teacher.image_size='none'",
        "teacher.weights='none'",
        f"teacher.sizes={sizes}",
        "decoder={type='identity'}",
        "training.batch=32",
    )
    return _built("sit_b_256.toml", *random, *overrides)


def sit_arguments(size: TransformerSize) -> dict[str, Any]:
    """Return what the constructors of the SiT family's published code call our sizes."""
    return {
        "input_size": size.input_size,
        "patch_size": size.patch_size,
        "in_channels": size.channels,
        "hidden_size": size.width,
        "depth": size.depth,
        "num_heads": size.heads,
        "num_classes": size.classes,
    }


def _built(recipe: str, *overrides: str) -> Distillation:
    run = build(load_recipe(recipe, ["training.steps=100000", *overrides])).distillation
    auxiliaries = [each.network for each in run.auxiliaries.values()]
    wake(remove_guidance(run.teacher), run.student, *run.emas.values(), *auxiliaries)
    return run
