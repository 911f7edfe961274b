"""ffcore's own tables of a recipe; a component's table comes from its plugin."""

from collections.abc import Iterator
from typing import Any, Literal

import attrs

from ffcore.flow.solver import Solver
from ffcore.keys import ImpossibleValue, component, key, kind_of, ordered, role_of
from ffcore.training.defaults import (
    BATCH,
    CHECKPOINT_EVERY,
    CLIP,
    EMA_DECAY,
    KEEP_LAST,
    LOG_EVERY,
)
from ffcore.training.optimizer import Optimizer


@attrs.frozen(kw_only=True)
class Guidance:
    """Guidance of the teacher, the same for both objectives."""

    scale: float = key(
        1.0,
        help=(
            "guidance scale γ in u_γ = γ u(·|c) + (1 − γ) u(·|∅); 1 means no guidance. With a "
            "range, the scale of evaluation and the default of sampling"
        ),
        at_least=0,
    )
    range: tuple[float, float] | None = key(
        None,
        help="range (low, high) of scales, drawn uniformly, to train one student for; the student "
        "then reads γ",
        at_least=0,
        validator=ordered,
    )
    interval: tuple[float, float] = key(
        (0.0, 1.0),
        help="interval (low, high) of the times t at which the teacher is guided",
        at_least=0,
        at_most=1,
        validator=ordered,
    )
    channels: Literal["all"] | int = key(
        "all", help="number of leading channels to guide, or 'all'", at_least=1
    )

    def __attrs_post_init__(self) -> None:
        if self.range is not None and not self.range[0] <= self.scale <= self.range[1]:
            low, high = self.range
            raise ValueError(
                f"scale {self.scale:g} is outside range [{low:g}, {high:g}]: evaluation uses this "
                "scale (1 by default), so it must lie in the range"
            )

    @property
    def guides(self) -> bool:
        """Whether any scale is other than 1."""
        return self.scale != 1 or self.range is not None

    def check_recipe(self, recipe: "Recipe") -> None:
        """Raise ValueError if, by its table, the teacher cannot be guided in this way."""
        teacher = recipe.teacher
        if self.guides and not getattr(teacher, "guidable", True):
            name, possible = ("scale", "1") if self.range is None else ("range", "'none'")
            lack = "this teacher has no null condition and cannot be guided"
            raise ImpossibleValue(name, getattr(self, name), f"{possible}, since {lack}")
        shape = getattr(teacher, "sample_shape", None)
        if self.guides and shape and self.channels != "all" and self.channels > shape[0]:
            possible = f"at most {shape[0]}, the channels of the teacher's samples"
            raise ImpossibleValue("channels", self.channels, possible)


def named_once(instance: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    """Raise ImpossibleValue for an array that is empty or has duplicates; a validator."""
    del instance
    if isinstance(value, tuple) and not 0 < len(value) == len(set(value)):
        raise ImpossibleValue(attribute.name, value, "at least one, each named once")


@attrs.frozen(kw_only=True)
class Training:
    """The training loop: its length, its batch, its logs and checkpoints."""

    seed: int = key(0, help="seed of every random draw in training", at_least=0, at_most=2**63 - 1)
    steps: int | None = key(None, help="number of optimizer steps", at_least=1)
    minutes: float | None = key(
        None,
        help=(
            "minutes of training instead of steps: a run times a step at its start and records the "
            "number of steps that fit. Evaluation comes on top"
        ),
        above=0,
    )
    batch: int = key(BATCH, help="number of samples per step, over all processes", at_least=1)
    ema_decay: float | tuple[float, ...] = key(
        EMA_DECAY,
        help=(
            "decay of the exponential moving average (EMA) of the student's weights, at most "
            "(1 + n) / (10 + n) at step n; several decays keep several EMAs, and "
            "evaluation.ema_decay selects the one that is measured and becomes the student"
        ),
        at_least=0,
        below=1,
        validator=named_once,
    )
    clip: float | None = key(
        CLIP, help="largest norm of the student's gradient; 'none' disables clipping", above=0
    )
    log_every: int = key(LOG_EVERY, help="number of steps between two lines of metrics", at_least=1)
    checkpoint_every: int = key(
        CHECKPOINT_EVERY, help="number of steps between two checkpoints", at_least=1
    )
    keep_last: int = key(
        KEEP_LAST,
        help="number of newest checkpoints to keep; with 2 or more, a damaged one does not end a "
        "run",
        at_least=1,
    )
    keep_every: int | None = key(
        None,
        help="number of steps whose multiples also keep their checkpoint, beyond keep_last",
        at_least=1,
    )
    device: str = key("auto", help="torch device; 'auto' takes a GPU if there is one")
    precision: Literal["float32", "bfloat16"] = key(
        "float32",
        help=(
            "data type in which the networks compute; 'bfloat16' uses autocast and keeps weights, "
            "gradients and EMAs in float32. Use it on GPUs: on CPUs it is slower"
        ),
    )
    tf32: bool = key(False, help="allow TF32 in float32 matrix products, on GPUs that support it")
    compile: bool = key(
        False,
        help=(
            "compile the teacher, the student and the auxiliary networks, a repeated block only "
            "once; forward-mode derivatives use the networks uncompiled"
        ),
    )
    on_nonfinite: Literal["abort", "skip"] = key(
        "abort",
        help=(
            "action after a step with a non-finite loss or gradient, which changes no weight: "
            "'abort' ends the run, 'skip' continues it"
        ),
    )
    skip_limit: int = key(
        10,
        help="largest number of consecutive steps that 'skip' leaves out; one more ends the run",
        at_least=1,
    )
    threads: int | None = key(
        None,
        help="number of CPU threads; 'none' leaves it to torch. Small networks are fastest with 1",
        at_least=1,
    )

    def __attrs_post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            found = "neither" if self.steps is None else "both"
            raise ValueError(f"training needs steps or minutes, found {found}")

    @property
    def ema_decays(self) -> tuple[float, ...]:
        """The decays of all EMAs."""
        return self.ema_decay if isinstance(self.ema_decay, tuple) else (self.ema_decay,)


@attrs.frozen(kw_only=True)
class Parallel:
    """Distribution of a step's work over processes and over time."""

    strategy: Literal["ddp", "fsdp"] = key(
        "ddp",
        help=(
            "parallel strategy under torchrun: with 'ddp' each process holds every network whole, "
            "with 'fsdp' its shard of every network. No effect on a run in one process"
        ),
    )
    accumulation: int = key(
        1,
        help=(
            "number of micro-batches into which each process splits its part of the batch: less "
            "memory, the same gradient"
        ),
        at_least=1,
    )
    activation_checkpointing: bool = key(
        False,
        help=(
            "recompute the activations within each block in the backward pass instead of storing "
            "them: less memory, one more forward pass"
        ),
    )


Kept = Literal[
    "frechet", "energy", "sharpness", "coverage", "class", "class_coverage", "accuracy"
]  # fmt: skip
"""The measures that may choose the student; those of ffcore/evaluate/verdict.py."""
FEWEST_DURING = 200
"""Fewest samples of an evaluation that leave enough for one during training."""


@attrs.frozen(kw_only=True)
class Evaluation:
    """The evaluation after training, its reference, and measurements during training."""

    enabled: bool = key(True, help="evaluate at the end of a run")
    samples: int = key(
        5000,
        help="number of samples to measure; the verdict uses at most 5,000, and needs 100",
        at_least=2,
    )
    features: tuple[Any, ...] = component(
        "features",
        (),
        many=True,
        help="feature spaces in which to measure distances; a recipe without any gets 'raw'",
    )
    solver: Solver = key(factory=Solver, help="solver for the teacher's converged samples")
    euler: tuple[int, ...] = key(
        (1, 2, 4, 8, 16),
        help="numbers of steps of the teacher's Euler baselines; the verdict needs some",
        at_least=1,
    )
    student_steps: tuple[int, ...] = key(
        (1,),
        help=(
            "numbers of steps in which to measure the student, besides 1; more than 1 needs a "
            "student that starts anywhere"
        ),
        at_least=1,
    )
    batch: int = key(500, help="number of samples generated at a time", at_least=1)
    ema_decay: float | None = key(
        None,
        help=(
            "decay of the EMA that is measured and becomes the student, if training.ema_decay has "
            "several; 'none' takes the first"
        ),
    )
    seed: int = key(
        1_000_000,
        help="seed of evaluation noise; independent of the training seed",
        at_least=0,
        at_most=2**63 - 1,
    )
    reference: str | None = key(
        None,
        help="file of stored teacher statistics and baselines; 'none' samples the teacher",
    )
    rows: int = key(10, help="number of samples in each row of a figure", at_least=1)
    previews: int = key(
        8,
        help=(
            "number of previews, which show samples from the same noise before the first step, at "
            "the end, after a half of all steps, a quarter, …; drawn even without evaluation"
        ),
        at_least=0,
    )

    every: int | None = key(
        None,
        help=(
            "number of training steps between two small measurements of the EMA, on half as many "
            "samples as the evaluation and at most 1,000; 'none' measures at the end only"
        ),
        at_least=1,
    )
    keep_best: Kept | None = key(
        None,
        help=(
            "measure by which to keep the best EMA of those measured during training as the "
            "student; 'none' keeps the last EMA. Needs every"
        ),
    )

    def check_recipe(self, recipe: "Recipe") -> None:
        """Raise ValueError for duplicate features, too many steps, an EMA that training does not
        keep, or measurements during training that are not possible."""
        if self.keep_best is not None and self.every is None:
            possible = "'none', since evaluation.every sets no measurement to choose by"
            raise ImpossibleValue("keep_best", self.keep_best, possible)
        if self.every is not None and not self.features:
            possible = "'none', since evaluation.features names nothing to measure in"
            raise ImpossibleValue("every", self.every, possible)
        if self.every is not None and self.samples < FEWEST_DURING:
            possible = f"'none', or with evaluation.samples of at least {FEWEST_DURING}"
            raise ImpossibleValue("every", self.every, possible)
        kept = recipe.training.ema_decays
        if self.ema_decay is not None and self.ema_decay not in kept:
            possible = " or ".join(f"{each:g}" for each in kept)
            possible += ", a decay of training.ema_decay"
            raise ImpossibleValue("ema_decay", self.ema_decay, possible)
        if any(self.features.count(each) > 1 for each in self.features):
            raise ImpossibleValue("features", self.features, "named once each")
        anywhere = "student starts anywhere" in getattr(recipe.student, "offers", ())
        if not anywhere and any(steps > 1 for steps in self.student_steps):
            possible = "only 1, since the student starts at the prior only"
            raise ImpossibleValue("student_steps", self.student_steps, possible)


@attrs.frozen(kw_only=True)
class Recipe:
    """A resolved recipe: the components, and everything else that a run depends on.

    Components are the tables of their plugins; their `build` returns the live objects. In Python
    you pass every component; `load_recipe` fills in the defaults that a file leaves out.
    """

    conditions: Any = component(
        "conditions",
        None,
        help="source of the teacher's conditions, for a teacher that does not bring its own",
    )
    teacher: Any = component("teacher", help="velocity field to distil, a component table")
    student: Any = component("student", help="flow map to train, a component table")
    predictor: Any = component("predictor", None, help="objective on the generating velocity")
    corrector: Any = component("corrector", None, help="objective on the noising velocity")
    data: Any = component("data", None, help="source of samples, for an objective that needs data")
    balancer: Any = component(
        "balancer", help="rule that turns gaps into one loss; a recipe without one gets 'adaptive'"
    )
    decoder: Any = component(
        "decoder", help="map from samples to images; a recipe without one gets 'identity'"
    )
    guidance: Guidance = key(factory=Guidance, help="guidance of the teacher")
    optimizer: Optimizer = key(factory=Optimizer, help="optimizer of the student")
    training: Training = key(help="training loop")
    parallel: Parallel = key(
        factory=Parallel, help="distribution of a step's work over processes and over time"
    )
    evaluation: Evaluation = key(factory=Evaluation, help="evaluation after training")
    trackers: tuple[Any, ...] = component(
        "tracker", (), many=True, help="destinations of metrics, besides the run's metrics.jsonl"
    )

    def __attrs_post_init__(self) -> None:
        if any(self.trackers.count(each) > 1 for each in self.trackers):
            raise ImpossibleValue("trackers", self.trackers, "named once each")
        if self.predictor is None and self.corrector is None:
            raise ValueError("a recipe needs [predictor], [corrector] or both, found neither")

    @property
    def measured_ema(self) -> float:
        """The decay of the EMA that is measured and becomes the student."""
        asked = self.evaluation.ema_decay
        return self.training.ema_decays[0] if asked is None else asked


DEFAULTS: dict[str, Any] = {
    "balancer": {"type": "adaptive"},
    "decoder": {"type": "identity"},
    "evaluation": {"features": [{"type": "raw"}]},
}
"""The components that a recipe may leave out: a tree below every recipe."""


def components(value: Any, role: str | None = None) -> Iterator[tuple[str, Any]]:
    """Yield every component table within `value`, itself included, with its role."""
    if isinstance(value, tuple):
        for item in value:
            yield from components(item, role)
    elif attrs.has(type(value)):
        if role:
            yield role, value
        for field in attrs.fields(attrs.resolve_types(type(value))):
            yield from components(getattr(value, field.name), role_of(kind_of(field)))
