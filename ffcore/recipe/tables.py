"""The tables of a recipe that are ffcore's own; a component's table is its plugin's."""

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
    """How the teacher is guided, for both objectives alike."""

    scale: float = key(
        1.0,
        help=(
            "guidance scale γ in u_γ = γ u(·|c) + (1 − γ) u(·|∅); 1 is unguided. With a range it "
            "is the default of evaluation and sampling"
        ),
        at_least=0,
    )
    range: tuple[float, float] | None = key(
        None,
        help="train one student for all scales in (low, high), drawn uniformly; it then reads γ",
        at_least=0,
        validator=ordered,
    )
    interval: tuple[float, float] = key(
        (0.0, 1.0),
        help="the times t, low and high, between which the teacher is guided",
        at_least=0,
        at_most=1,
        validator=ordered,
    )
    channels: Literal["all"] | int = key(
        "all", help="how many of the first channels are guided, or 'all'", at_least=1
    )

    def __attrs_post_init__(self) -> None:
        if self.range is not None and not self.range[0] <= self.scale <= self.range[1]:
            low, high = self.range
            raise ValueError(
                f"scale {self.scale:g} is outside range [{low:g}, {high:g}]: this scale is "
                "evaluated (1 by default), and must lie in the range"
            )

    @property
    def guides(self) -> bool:
        """Whether any scale is other than 1."""
        return self.scale != 1 or self.range is not None

    def check_recipe(self, recipe: "Recipe") -> None:
        """Raise ValueError where the teacher, as far as its table says, cannot be guided so."""
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
    """Raise ImpossibleValue for an array that is empty or names something twice; a validator."""
    del instance
    if isinstance(value, tuple) and not 0 < len(value) == len(set(value)):
        raise ImpossibleValue(attribute.name, value, "at least one, each named once")


@attrs.frozen(kw_only=True)
class Training:
    """The loop: how long, on how many samples, and how often it reports and saves."""

    seed: int = key(
        0, help="seed that every random draw of training is keyed by", at_least=0, at_most=2**63 - 1
    )
    steps: int = key(help="optimizer steps", at_least=1)
    batch: int = key(BATCH, help="samples per step, over all ranks", at_least=1)
    ema_decay: float | tuple[float, ...] = key(
        EMA_DECAY,
        help=(
            "decay of the exponential moving average (EMA) of the student's weights, at most "
            "(1 + n) / (10 + n) at step n; several decays keep several EMAs, of which "
            "evaluation.ema_decay is measured and becomes the student"
        ),
        at_least=0,
        below=1,
        validator=named_once,
    )
    clip: float | None = key(
        CLIP, help="largest norm of the student's gradient; 'none' leaves it as it is", above=0
    )
    log_every: int = key(LOG_EVERY, help="steps between two lines of metrics", at_least=1)
    checkpoint_every: int = key(CHECKPOINT_EVERY, help="steps between two checkpoints", at_least=1)
    keep_last: int = key(
        KEEP_LAST,
        help="how many of the newest checkpoints are kept; at least 2 outlive damage",
        at_least=1,
    )
    keep_every: int | None = key(
        None, help="checkpoints of steps divisible by it are kept as well", at_least=1
    )
    device: str = key("auto", help="torch device; 'auto' takes an accelerator if there is one")
    precision: Literal["float32", "bfloat16"] = key(
        "float32",
        help=(
            "what the networks compute in; 'bfloat16' by autocast, with weights, gradients and "
            "EMAs in float32. For accelerators: on CPUs it is slower"
        ),
    )
    tf32: bool = key(
        False, help="whether float32 products may be rounded to TF32, on accelerators that have it"
    )
    compile: bool = key(
        False,
        help=(
            "whether the teacher, the student and the auxiliary networks are compiled, their "
            "repeated blocks once; a forward-mode derivative is computed by what is not compiled"
        ),
    )
    on_nonfinite: Literal["abort", "skip"] = key(
        "abort",
        help=(
            "what becomes of a step whose loss or gradient is not finite: no weight changes by it, "
            "and the run ends; with 'skip' it goes on"
        ),
    )
    skip_limit: int = key(
        10,
        help="how many steps in a row 'skip' leaves out; with one more, the run ends",
        at_least=1,
    )
    threads: int | None = key(
        None,
        help="CPU threads of a run; 'none' leaves torch's choice. Small networks do best with 1.",
        at_least=1,
    )

    @property
    def ema_decays(self) -> tuple[float, ...]:
        """The decays of all EMAs."""
        return self.ema_decay if isinstance(self.ema_decay, tuple) else (self.ema_decay,)


@attrs.frozen(kw_only=True)
class Parallel:
    """How the work of a step is shared out: over processes, and over time."""

    strategy: Literal["ddp", "fsdp"] = key(
        "ddp",
        help=(
            "what each process that torchrun starts holds: 'ddp' every network whole, 'fsdp' its "
            "part of every network. Without influence on a run in one process"
        ),
    )
    accumulation: int = key(
        1,
        help=(
            "micro-batches in which a process takes its part of the batch, one after the other: "
            "less memory, the same gradient"
        ),
        at_least=1,
    )
    activation_checkpointing: bool = key(
        False,
        help=(
            "whether the backward pass computes the activations within each block again instead "
            "of storing them: less memory, one more forward pass"
        ),
    )


@attrs.frozen(kw_only=True)
class Evaluation:
    """What is measured after training, and against what."""

    enabled: bool = key(True, help="whether to evaluate at the end of a run")
    samples: int = key(5000, help="samples per Fréchet distance", at_least=2)
    features: tuple[Any, ...] = component(
        "features",
        (),
        many=True,
        help="the spaces in which distances are measured; a recipe that names none gets 'raw'",
    )
    solver: Solver = key(factory=Solver, help="how the teacher's converged samples are made")
    euler: tuple[int, ...] = key(
        (1, 2, 4, 8, 16), help="step counts of the teacher's Euler baselines", at_least=1
    )
    student_steps: tuple[int, ...] = key(
        (1,),
        help=(
            "step counts in which the student is measured, 1 in any case; more is for one that "
            "starts anywhere"
        ),
        at_least=1,
    )
    batch: int = key(500, help="samples generated at a time", at_least=1)
    ema_decay: float | None = key(
        None,
        help=(
            "decay of the EMA that is measured and becomes the student, where "
            "training.ema_decay keeps several; 'none': the first"
        ),
    )
    seed: int = key(
        1_000_000,
        help="seed of evaluation noise, apart from the training seed",
        at_least=0,
        at_most=2**63 - 1,
    )
    reference: str | None = key(
        None, help="file of stored teacher statistics and baselines, instead of sampling again"
    )
    rows: int = key(10, help="samples shown in each row of a picture", at_least=1)
    previews: int = key(
        8,
        help=(
            "how often samples from the same noise are shown while the student trains, evaluated "
            "or not: before the first step, at the end, after a half of all steps, a quarter, …"
        ),
        at_least=0,
    )

    def check_recipe(self, recipe: "Recipe") -> None:
        """Raise ValueError where the same features are named twice, for too many steps, and for
        an EMA that training does not keep."""
        kept = recipe.training.ema_decays
        if self.ema_decay is not None and self.ema_decay not in kept:
            possible = " or ".join(f"{each:g}" for each in kept)
            raise ImpossibleValue("ema_decay", self.ema_decay, f"{possible}, as training keeps")
        if any(self.features.count(each) > 1 for each in self.features):
            raise ImpossibleValue("features", self.features, "named once each")
        anywhere = "student starts anywhere" in getattr(recipe.student, "offers", ())
        if not anywhere and any(steps > 1 for steps in self.student_steps):
            possible = "1 alone, since the student starts at the prior alone"
            raise ImpossibleValue("student_steps", self.student_steps, possible)


@attrs.frozen(kw_only=True)
class Recipe:
    """A resolved recipe: which components, and everything a run may depend on.

    Components are the tables of their plugins; their `build` gives the live objects. In Python
    every component is given; `load_recipe` fills in what a file leaves out.
    """

    teacher: Any = component("teacher", help="the velocity field to distil, a component table")
    student: Any = component("student", help="the flow map to train, a component table")
    predictor: Any = component("predictor", None, help="the objective on the generating velocity")
    corrector: Any = component("corrector", None, help="the objective on the noising velocity")
    data: Any = component(
        "data", None, help="where samples come from, for an objective that needs data"
    )
    balancer: Any = component(
        "balancer", help="how gaps become one loss; a recipe that names none gets 'adaptive'"
    )
    decoder: Any = component(
        "decoder", help="how samples become images; a recipe that names none gets 'identity'"
    )
    guidance: Guidance = key(factory=Guidance, help="how the teacher is guided")
    optimizer: Optimizer = key(factory=Optimizer, help="the student's optimizer")
    training: Training = key(help="the loop")
    parallel: Parallel = key(
        factory=Parallel, help="how the work of a step is shared out, over processes and in time"
    )
    evaluation: Evaluation = key(factory=Evaluation, help="what is measured after training")
    trackers: tuple[Any, ...] = component(
        "tracker", (), many=True, help="where metrics go, beside the run's own metrics.jsonl"
    )

    def __attrs_post_init__(self) -> None:
        if any(self.trackers.count(each) > 1 for each in self.trackers):
            raise ImpossibleValue("trackers", self.trackers, "named once each")
        if self.predictor is None and self.corrector is None:
            raise ValueError("at least one of [predictor] and [corrector] is needed, found neither")

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
"""The components that a recipe need not name: a tree below every recipe."""


def components(value: Any, role: str | None = None) -> Iterator[tuple[str, Any]]:
    """Every component table within `value`, itself included, with the role it plays."""
    if isinstance(value, tuple):
        for item in value:
            yield from components(item, role)
    elif attrs.has(type(value)):
        if role:
            yield role, value
        for field in attrs.fields(attrs.resolve_types(type(value))):
            yield from components(getattr(value, field.name), role_of(kind_of(field)))
