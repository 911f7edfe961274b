"""All live objects of a recipe, as a run uses them."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch

from ffcore.evaluate.evaluator import Evaluator
from ffcore.export import start_from
from ffcore.interfaces import DataSource, Decoder, Student
from ffcore.keys import StartsFromStudent
from ffcore.recipe import Recipe
from ffcore.recipe.components import build_component, errors_of, parts, usable_device
from ffcore.run.timing import PROVISIONAL
from ffcore.system.distributed import own_device
from ffcore.training.distillation import Distillation


@attrs.frozen(kw_only=True, eq=False)
class Built:
    """A recipe's live objects."""

    recipe: Recipe
    """The recipe with every "auto" replaced by what the networks decided."""
    distillation: Distillation
    student: Student
    """The EMA that is measured and saved."""
    decoder: Decoder
    evaluator: Evaluator


def build(
    recipe: Recipe, *, begins: bool = True, say: Callable[[str], None] = lambda sentence: None
) -> Built:
    """Build all components of a recipe, without writing to disk.

    Args:
        recipe: the recipe.
        begins: whether training begins, so that the student needs the weights of an earlier one, if
            the recipe names it. A resumed run has its own.
        say: gets a sentence about these weights, and one about the teacher's data.

    New weights depend only on the recipe's seed; global random state does not change.

    Raises BuildError if parts do not fit together; WeightsError for weights files; SourceError,
    WeightsError or CheckpointError for an earlier student.
    """
    training, guidance = recipe.training, recipe.guidance
    with errors_of("training"):
        device = own_device(usable_device(training.device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        found = parts(recipe)
        if begins and isinstance(recipe.student, StartsFromStudent) and recipe.student.weights:
            say(start_from(found.student, recipe.student.weights))
        elif begins and found.moments:
            say(found.moments)
        decoder = build_component("decoder", recipe.decoder, found.context, Decoder)
        evaluator = Evaluator.of(found.recipe, found.teacher, found.context, device)
        for_data = attrs.evolve(found.context, teacher=found.teacher, guidance=guidance.scale)
        data = build_component("data", recipe.data, for_data, DataSource)
        with errors_of("training"):
            distillation = Distillation(
                teacher=found.teacher,
                student=found.student,
                predictor=found.predictor,
                corrector=found.corrector,
                data=data,
                balancer=found.balancer,
                optimizer=recipe.optimizer,
                steps=training.steps or PROVISIONAL,
                batch=training.batch,
                seed=training.seed,
                ema_decays=training.ema_decays,
                clip=training.clip,
                precision=training.precision,
                accumulation=recipe.parallel.accumulation,
                skip=training.skip_limit if training.on_nonfinite == "skip" else 0,
                guidance=guidance.scale,
                guidance_range=guidance.range,
                device=device,
            )
    return Built(
        recipe=found.recipe,
        distillation=distillation,
        student=distillation.emas[recipe.measured_ema],
        decoder=decoder.to(device),
        evaluator=evaluator,
    )
