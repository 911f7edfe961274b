"""The student file: the student's weights, and in their metadata how to rebuild it.

Rebuilding needs neither the teacher nor the recipe's files. A run writes its student in this form,
and an export contains such a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from ffcore.draws import Draws
from ffcore.interfaces import (
    UNKNOWN,
    Condition,
    ConditionSource,
    Context,
    Decoder,
    FunctionTeacher,
    Labels,
    Student,
    Teacher,
    Unconditional,
)
from ffcore.keys import StartsFromStudent
from ffcore.plugins import Registry, installed
from ffcore.recipe import (
    Recipe,
    RecipeError,
    check_recorded,
    component,
    digest,
    load_recipe,
    registry_of,
    trusting,
)
from ffcore.recipe.components import (
    BuildError,
    build_component,
    build_teacher,
    errors_of,
    parts,
)
from ffcore.recipe.merge import merge
from ffcore.recipe.plain import NONE, plain
from ffcore.system.faults import enough_memory
from ffcore.system.files import File, parse_json, reference_digest, require
from ffcore.system.weights import WeightsError, identity_of, read_weights, write_weights
from ffcore.training.checkpoint import ema_prefix, restore, step_of, tensors_in
from ffcore.training.network_check import awake

RECIPE, STUDENT, EVALUATION = "recipe.toml", "student.safetensors", "evaluation.json"
"""The names of these files in a run directory and in an export."""
DESCRIPTION = "student.json"
"""The description of a run's student, with which its checkpoints can be sampled."""

_DAMAGED = "Check the sizes in the description; a damaged one may ask for any amount."
SCHEMA = 1


@attrs.frozen(kw_only=True, eq=False)
class StudentFile:
    """The content of a student file."""

    student: Student
    """On the CPU, in eval mode, frozen."""
    sample_shape: tuple[int, ...]
    conditions: ConditionSource
    """The student's conditions."""
    scale: float
    """The guidance scale that it was trained for; of a range, the default."""
    range: tuple[float, float] | None
    """The guidance scales that it was trained for, if more than one."""
    config: dict[str, Any]
    """The student's description; see `describe`."""

    @property
    def context(self) -> Context:
        """The context for the student's other components; its teacher has no velocity."""
        return _context(self.sample_shape, self.conditions, self.range)


def describe(
    recipe: Recipe,
    teacher: Teacher,
    student: Student,
    step: int,
    decoder: Decoder | None = None,
) -> dict[str, Any]:
    """Return the description in a student file, ready for JSON.

    Args:
        recipe: of the run.
        teacher: unguided.
        student: as built; its weights do not matter.
        step: the training step of the weights.
        decoder: the recipe's, on the student's device; without it `decoded_shape` is null.

    `student` and `decoder` are component tables as in a recipe. `student` is null if its table
    needs something of the teacher and has neither a method `alone(student)` nor
    `with_teacher(teacher's table, student)`, which return a table without that need. `starts_at` is
    the student's. `conditions` is the table [conditions], as in a recipe; without one it is {} for
    an unconditional teacher, or has `classes` and `null_label`, and is null if only the teacher
    knows its conditions. `decoded_shape` is the shape of one decoded sample. `sha256`,
    `decoder_sha256` and `conditions_sha256` have the digest of each file of the teacher, the
    decoder and the conditions. The teacher's `fingerprint` and `conditions` are its identity.
    """
    return {
        "schema": SCHEMA,
        "student": _alone(recipe, student),
        "starts_at": student.starts_at,
        "sample_shape": list(teacher.sample_shape),
        "conditions": conditions_tree(recipe, teacher.conditions),
        "conditions_sha256": _digests(recipe.conditions),
        "guidance": attrs.asdict(recipe.guidance),
        "decoder": _tree("decoder", recipe.decoder),
        "decoder_sha256": _digests(recipe.decoder),
        "decoded_shape": None if decoder is None else _decoded_shape(decoder, teacher, student),
        "recipe": digest(recipe),
        "teacher": _teacher_tree(recipe.teacher, teacher),
        "ffcore": version("ffcore"),
        "step": step,
        "ema_decay": recipe.measured_ema,
    }


def write_student(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write a student's state with its description, whole or not at all."""
    write_weights(path, state, config)


def read_student(
    path: Path, conditions: Mapping[str, Any] | None = None, *, trust: bool = False
) -> StudentFile:
    """Read a student file and rebuild the student and its conditions.

    If one of them cannot be rebuilt without the teacher, the recipe beside the file rebuilds both.

    Args:
        path: of the file.
        conditions: keys of the table [conditions] to use instead of the file's. Without any, the
            conditions must be those of the training.
        trust: let the file and that recipe name classes outside plugins; see `registry_of`.

    Raises WeightsError if the file is damaged, is not a student file, lacks that recipe, or if its
    conditions have changed; MissingFile if a file of the conditions is missing; RecipeError if the
    student's plugin is not installed, or if it is of code that is not trusted.
    """
    weights = read_weights(str(path))
    return _opened(path, weights.config, conditions, weights.load_into, trust=trust)


def load_earlier(student: Student, path: Path, description: Path) -> str:
    """Load an earlier student's weights into `student`; return a sentence on what they are.

    Args:
        student: of the same names and shapes.
        path: a student file, or any file of weights; or the directory of a whole checkpoint.
        description: the DESCRIPTION of the checkpoint's run.

    Files are data here: no class that they name is imported. Raises WeightsError or CheckpointError
    for tensors that do not fit, with both shapes.
    """
    if path.is_file():
        weights = read_weights(str(path))
        weights.load_into(student)
        config = weights.config
    else:
        config = _read_description(description, path)
        _load_average(student, path, config)
    what = "the weights"
    if "ema_decay" in config and "step" in config:
        what = f"the EMA of decay {config['ema_decay']:g} after step {config['step']}"
    return f"the student starts from {what} in {path}"


def _read_description(description: Path, checkpoint: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = parse_json(description.read_text())
        config["ema_decay"] = float(config["ema_decay"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{description} is damaged: {type(error).__name__} {error}") from None
    return config | {"step": step_of(checkpoint)}


def _load_average(student: Student, checkpoint: Path, config: Mapping[str, Any]) -> None:
    prefix = ema_prefix(config["ema_decay"])
    restore(checkpoint, tensors_in(prefix, student), part=f"{prefix}/")


def read_checkpoint(
    checkpoint: Path,
    description: Path,
    conditions: Mapping[str, Any] | None = None,
    *,
    trust: bool = False,
) -> StudentFile:
    """Rebuild a student and read its EMA from a checkpoint.

    Args:
        checkpoint: the directory of a whole checkpoint.
        description: the DESCRIPTION of its run.
        conditions, trust: see read_student.

    Raises CheckpointError for a checkpoint without this EMA; otherwise as read_student.
    """
    config = _read_description(description, checkpoint)
    return _opened(
        description,
        config,
        conditions,
        lambda student: _load_average(student, checkpoint, config),
        trust=trust,
    )


def _opened(
    path: Path,
    config: dict[str, Any],
    conditions: Mapping[str, Any] | None,
    load: Callable[[Student], None],
    *,
    trust: bool,
) -> StudentFile:
    """Rebuild the student that `path` describes, and load its weights; see read_student."""
    found = _structure(path, config)
    registry = registry_of(path, path.with_name(RECIPE), trust=trust)
    if conditions is not None:
        registry = trusting(registry, conditions)
        config = _with_conditions(path, config, conditions)
    try:
        with enough_memory(str(path), _DAMAGED), torch.random.fork_rng(devices=[]):
            source = _rebuilt_conditions(path, config, registry)
            student = _rebuilt(path, found, source, config, registry)
    except RecipeError as error:
        if error.about == "plugin":
            raise
        raise WeightsError(f"{path} does not describe a student: {error}") from None
    except BuildError as error:
        raise WeightsError(f"{path} describes a student that cannot be built: {error}") from None
    if conditions is None:
        _check_conditions(path, source, config)
    load(student)
    return StudentFile(
        student=student.requires_grad_(False).eval(),
        sample_shape=found.sample_shape,
        conditions=source,
        scale=found.scale,
        range=found.range,
        config=config,
    )


def check_rebuilt(recipe: Recipe, teacher: Teacher, student: Student) -> None:
    """Check that a student can be built again from its description and its tensors.

    Args:
        recipe: of the run.
        teacher: unguided.
        student: as it trains, not yet parallelized, on the device of the teacher.

    Raises ValueError for a student that would have other tensors or other answers: one that makes
    layers in its forward, or reads random numbers that are not stored.
    """
    tree = _alone(recipe, student)
    if tree is None:
        return  # its teacher rebuilds it
    device = next(student.parameters()).device
    context = _context(tuple(teacher.sample_shape), teacher.conditions, recipe.guidance.range)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed + 1)
        table = component("student", tree)
        again = build_component("student", table, context, Student).to(device)
    there, here = student.state_dict(), again.state_dict()
    if changed := sorted(there.keys() ^ here.keys()):
        raise ValueError(
            f"built again, the student has other tensors: {', '.join(changed[:5])}. A layer that "
            "its forward makes is missing then: make it where the student is built"
        )
    again.load_state_dict(there)
    draws = Draws(recipe.training.seed, 0, 0, 4).named("rebuilt")
    condition = teacher.conditions.draw(draws)
    if recipe.guidance.range is not None:
        condition = condition.at(recipe.guidance.range[0])
    z, condition = draws.normal("z", teacher.sample_shape).to(device), condition.to(device)
    delta = draws.uniform("delta").to(device)
    answers = []
    for network in (student, again):
        modes = {each: each.training for each in network.modules()}
        with torch.no_grad(), awake(network.eval()):
            answers.append(network(z, torch.ones_like(delta), delta, condition).double())
        for each, mode in modes.items():
            each.training = mode
    off = float((answers[0] - answers[1]).norm() / answers[0].norm().clamp(min=1e-30))
    if not off <= 1e-3:
        raise ValueError(
            f"built again from its table, with the same tensors, the student answers differently, "
            f"by {off:.1%}: its forward reads something that is not stored. Make random numbers a "
            "persistent buffer, and keep layers in an nn.ModuleList"
        )


@attrs.frozen(kw_only=True)
class _Structured:
    sample_shape: tuple[int, ...]
    scale: float
    range: tuple[float, float] | None


def _structure(path: Path, config: dict[str, Any]) -> _Structured:
    """Parse a student's description; raise WeightsError if it is none."""
    if "schema" not in config:
        raise WeightsError(
            f"{path} is not a student file: it does not say how to rebuild one. If it is "
            "from an older run, the same `ffd run` writes it again."
        )
    if config["schema"] != SCHEMA:
        raise WeightsError(
            f"{path} is of schema {config['schema']!r}, written by ffcore "
            f"{config.get('ffcore')}; this is ffcore {version('ffcore')}, which reads {SCHEMA}"
        )
    try:
        for name in ("decoder", "recipe", "teacher", "ffcore", "step"):
            _ = config[name]
        for name in ("student", "conditions"):
            if not isinstance(config[name], dict | None):
                raise TypeError(f"{name} must be a table or null, found {config[name]!r}")
        guidance = config["guidance"]
        low_high = guidance["range"]
        return _Structured(
            sample_shape=tuple(map(int, config["sample_shape"])),
            scale=float(guidance["scale"]),
            range=None if low_high is None else (float(low_high[0]), float(low_high[1])),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise WeightsError(
            f"{path} is a damaged student file: {type(error).__name__} {error}"
        ) from None


def _rebuilt(
    path: Path,
    found: _Structured,
    conditions: ConditionSource,
    config: Mapping[str, Any],
    registry: Registry,
) -> Student:
    """Return the student with new weights, without its teacher if that is possible."""
    tree = config["student"]
    if tree is not None:
        context = _context(found.sample_shape, conditions, found.range)
        table = component("student", tree, registry=registry)
        student: Student = build_component("student", table, context, Student)
        return student
    return parts(_recipe_beside(path, "a student that", registry)).student


def _rebuilt_conditions(
    path: Path, config: Mapping[str, Any], registry: Registry
) -> ConditionSource:
    """Return the student's conditions, without its teacher if that is possible."""
    tree = config["conditions"]
    if tree is None:
        recipe = _recipe_beside(path, "a student whose conditions", registry)
        return build_teacher(recipe).conditions
    if "type" not in tree:
        try:
            return Labels(int(tree["classes"]), tree["null_label"]) if tree else Unconditional()
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"{path} is a damaged student file: {type(error).__name__} {error}"
            ) from None
    table = component("conditions", tree, registry=registry)
    require(getattr(table, "files", ()))
    source: ConditionSource = build_component("conditions", table, Context(), ConditionSource)
    return source


def _with_conditions(
    path: Path, config: Mapping[str, Any], keys: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a description with other keys of its conditions."""
    here = config["conditions"]
    if "type" not in (here or {}):
        raise WeightsError(
            f"{path} has no table [conditions] whose keys can be set: its teacher brought its own"
        )
    return {**config, **merge({"conditions": here}, {"conditions": keys})}


def _recipe_beside(path: Path, what: str, registry: Registry) -> Recipe:
    """Return the recipe that rebuilds the teacher of a student file."""
    recipe = path.with_name(RECIPE)
    if not recipe.exists():
        raise WeightsError(
            f"{path} holds {what} can be rebuilt only with its teacher, and has no {RECIPE} beside "
            "it"
        )
    return load_recipe(recipe, registry=attrs.evolve(registry, file=registry.file and str(recipe)))


def _check_conditions(path: Path, source: ConditionSource, config: Mapping[str, Any]) -> None:
    """Raise WeightsError if the conditions are known to be others than those of the training."""
    there, here = config["teacher"].get("conditions", UNKNOWN), source.fingerprint()
    if UNKNOWN not in (there, here) and there != here:
        raise WeightsError(
            f"the conditions of {path} have changed since its training, from {there[:12]} to "
            f"{here[:12]}: restore what they were made from. To sample the same student with other "
            "conditions, use `ffd sample --set conditions.KEY=VALUE`. `ffd export` has no --set: "
            "it keeps those of the training"
        )


def _alone(recipe: Recipe, student: Student) -> dict[str, Any] | None:
    table = recipe.student
    if isinstance(table, StartsFromStudent):
        table = attrs.evolve(table, weights=None)
    without = None
    if alone := getattr(table, "alone", None):
        without = alone(student)
    elif with_teacher := getattr(table, "with_teacher", None):
        without = with_teacher(recipe.teacher, student)
    if without is not None:
        with errors_of("student"):
            check_recorded("student", without)
        return _tree("student", without)
    return None if getattr(table, "needs", None) else _tree("student", table)


def _tree(role: str, table: Any) -> dict[str, Any]:
    tree: dict[str, Any] = plain(table, role, registry=installed())
    return tree


def _teacher_tree(table: Any, teacher: Teacher) -> dict[str, Any]:
    known = {name: value for name, value in _tree("teacher", table).items() if value != NONE}
    identity = identity_of(teacher)
    return {
        **known,
        "sha256": _digests(table),
        "fingerprint": identity["teacher"],
        "conditions": identity["conditions"],
    }


def _digests(table: Any) -> dict[str, str]:
    """Return the SHA-256 of each of a component's files, by its reference."""
    files: tuple[File, ...] = getattr(table, "files", ())
    return {file.reference: reference_digest(file.reference) for file in files}


@torch.no_grad()
def _decoded_shape(decoder: Decoder, teacher: Teacher, student: Student) -> list[int]:
    device = next(student.parameters()).device
    return list(decoder(torch.zeros(1, *teacher.sample_shape, device=device)).shape[1:])


def conditions_tree(recipe: Recipe, conditions: ConditionSource) -> dict[str, Any] | None:
    """Return the description of conditions in a student file; None if it cannot have one."""
    if recipe.conditions is not None:
        return _tree("conditions", recipe.conditions)
    if type(conditions) is Unconditional:
        return {}
    return attrs.asdict(conditions) if type(conditions) is Labels else None


def _context(
    shape: tuple[int, ...],
    conditions: ConditionSource,
    guidance_range: tuple[float, float] | None,
) -> Context:
    return Context(
        teacher=FunctionTeacher(_no_velocity, shape, conditions), guidance_range=guidance_range
    )


def _no_velocity(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
    raise AssertionError("a student file has no teacher")
