"""Open a sampler: of the student of a run, an export or a file, or of a recipe's teacher."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from os import PathLike
from pathlib import Path
from typing import Any

import attrs
import torch

from ffcore.export.sources import SourceError, is_export, is_run, open_student
from ffcore.export.student_file import RECIPE
from ffcore.flow.solver import Method, Solver
from ffcore.interfaces import Context, Decoder
from ffcore.plugins import installed
from ffcore.recipe import (
    Recipe,
    component,
    digest,
    load_recipe,
    load_stored,
    registry_of,
    trusting,
)
from ffcore.recipe.components import build_component, build_teacher, errors_of, usable_device
from ffcore.recipe.merge import merge, parse_override
from ffcore.recipe.plain import plain
from ffcore.sample.sampler import SampleError, Sampler, StudentSampler, TeacherSampler, whole_number
from ffcore.system.distributed import own_device
from ffcore.system.files import require


def load_sampler(
    source: str | PathLike[str],
    *,
    device: str = "auto",
    overrides: Iterable[str] = (),
    trust: bool = False,
) -> Sampler:
    """Return a sampler of the student of a run, a checkpoint, an export or a student file.

        sampler = load_sampler("exported")
        images = sampler(16, seed=0)  # Float[16, C, H, W] in [−1, 1]

    Args:
        source: a run directory, one of its checkpoints, an export or a student file; of an
            unfinished run, the newest whole checkpoint is sampled.
        device: a torch device; "auto" takes a GPU if there is one.
        overrides: of the keys of the decoder and of the conditions, as in
            "decoder.weights=vae.safetensors".
        trust: let the source name classes outside plugins, which runs their code. The runs of this
            user may always.

    Raises SourceError if there is no student, RecipeError if it names a missing plugin, or code
    that is not trusted; WeightsError if its file is damaged or its conditions
    have changed, MissingFile if a file of the decoder or the conditions is missing, BuildError or
    SampleError if it does not fit.
    """
    changed = _overrides(overrides)
    opened = open_student(source, conditions=changed.get("conditions"), trust=trust)
    found = opened.file
    tree = merge({"decoder": found.config["decoder"]}, {"decoder": changed.get("decoder", {})})
    registry = registry_of(opened.path, opened.folder / RECIPE, trust=trust)
    decoder = component("decoder", tree["decoder"], registry=trusting(registry, changed))
    require(getattr(decoder, "files", ()))
    return Sampler(
        StudentSampler(
            found.student,
            found.sample_shape,
            found.conditions,
            scale=found.scale,
            range=found.range,
        ),
        _built_decoder(decoder, found.context),
        device=_device(device),
        origin=_origin(source, found.config.get("recipe"), decoder),
    )


def load_teacher_sampler(
    source: str | PathLike[str],
    *,
    method: Method | None = None,
    steps: int | None = None,
    device: str = "auto",
    overrides: Iterable[str] = (),
    trust: bool = False,
) -> Sampler:
    """Return a sampler of the teacher of a recipe or a run directory.

    Args:
        source: a recipe's file, the name of a packaged one, or a run directory.
        method, steps: of the solver; by default those of `evaluation.solver`.
        device: a torch device; "auto" takes a GPU if there is one.
        overrides: of the recipe's keys, as in "guidance.scale=2.0".
        trust: as of `load_sampler`, for a run directory. A recipe is always trusted.

    Raises RecipeError, MissingFile, WeightsError, BuildError; SourceError for an export or a
    student file, which have no teacher; SampleError for an unknown solver.
    """
    recipe = _recipe_of(source, overrides, trust=trust)
    for table in (recipe.conditions, recipe.teacher, recipe.decoder):
        require(getattr(table, "files", ()))
    guidance = recipe.guidance
    solver = _solver(recipe.evaluation.solver, method, steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        teacher = build_teacher(recipe)
    context = Context(teacher=teacher, guidance_range=guidance.range)
    decoder = _built_decoder(recipe.decoder, context)
    with errors_of("guidance"):
        generator = TeacherSampler(
            teacher,
            solver,
            scale=guidance.scale,
            interval=guidance.interval,
            channels=guidance.channels,
        )
    origin = _origin(source, digest(recipe), recipe.decoder)
    return Sampler(generator, decoder, device=_device(device), origin=origin)


def _recipe_of(source: str | PathLike[str], overrides: Iterable[str], *, trust: bool) -> Recipe:
    """Return the recipe that names the teacher of a source."""
    path = Path(source)
    if path.is_dir() and is_run(path):
        return load_stored(path / RECIPE, overrides, trust=trust)
    if path.is_dir() and not is_export(path):
        raise SourceError(f"{path} is not a run directory: it has no {RECIPE}")
    if path.is_dir() or (path.is_file() and path.suffix != ".toml"):
        raise SourceError(
            f"{path} holds a student without its teacher: name the recipe or the run directory "
            "that has the teacher"
        )
    return load_recipe(source, overrides)


def _overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Return overrides as a tree; only keys of the decoder and of the conditions are possible."""
    layers = []
    for text in overrides:
        try:
            layer = parse_override(text)
        except ValueError as error:
            raise SourceError(f"--set {text}: {error}") from None
        if not layer.keys() <= {"decoder", "conditions"} or not all(
            isinstance(each, dict) for each in layer.values()
        ):
            raise SourceError(
                f"--set {text}: training fixed the student's keys; only keys of its decoder and "
                "its conditions can be set, as in decoder.weights=PATH"
            )
        layers.append(layer)
    return reduce(merge, layers, {})


def _solver(solver: Solver, method: Method | None, steps: int | None) -> Solver:
    method = solver.method if method is None else method
    if method == "dopri5" and steps is not None:
        raise SampleError("steps: dopri5 chooses its own; leave them out, or use another solver")
    steps = solver.steps if steps is None else whole_number("steps", steps, 1)
    try:
        return attrs.evolve(solver, method=method, steps=steps)
    except ValueError as error:
        raise SampleError(f"solver: {error}") from None


def _built_decoder(table: Any, context: Context) -> Decoder:
    with torch.random.fork_rng(devices=[]):
        decoder: Decoder = build_component("decoder", table, context, Decoder)
    return decoder


def _device(name: str) -> str:
    try:
        return usable_device(own_device(usable_device(name)))
    except ValueError as error:
        raise SampleError(str(error)) from None


def _origin(source: str | PathLike[str], recipe: str | None, decoder: Any) -> dict[str, Any]:
    return {
        "source": str(source),
        "recipe": recipe,
        "decoder": plain(decoder, "decoder", registry=installed()),
    }
