"""ffcore: data-free distillation of flow and diffusion teachers into one-step students.

Public: the names of this module, the modules `ffcore.interfaces`, `ffcore.keys`, `ffcore.plugins`,
`ffcore.search` and `ffcore.testing`, the recipe keys, the command line and its exit codes. All else
may change from version to version. Names are imported on first use, so `import ffcore` does not
import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ffcore.draws import Draws
    from ffcore.export import load_student
    from ffcore.flow.convert import convert
    from ffcore.flow.derivative import Derivative
    from ffcore.flow.exact import Gaussian, GaussianMixture
    from ffcore.flow.flow_map import generate, push
    from ffcore.flow.guidance import Guided
    from ffcore.flow.ode import integrate
    from ffcore.flow.path import expand_like, interpolate
    from ffcore.flow.solver import Solver
    from ffcore.flow.time_distribution import TimeDistribution
    from ffcore.interfaces import (
        Auxiliary,
        Balancer,
        Batch,
        ClassFeatures,
        Condition,
        ConditionSource,
        Context,
        CorrectorObjective,
        DataError,
        DataSource,
        Decoder,
        Features,
        FrozenTeacher,
        Gap,
        Gaps,
        Labels,
        NamedConditions,
        Networks,
        Norms,
        PredictorObjective,
        Student,
        Teacher,
        Tracker,
        Unconditional,
        VelocityField,
        class_condition,
        digest_of,
    )
    from ffcore.nn.conditions import read_fields
    from ffcore.recipe import Recipe, RecipeError, load_recipe, to_toml
    from ffcore.sample.load import load_sampler, load_teacher_sampler
    from ffcore.system.files import MissingFile
    from ffcore.training.distillation import Distillation
    from ffcore.training.loop import train
    from ffcore.training.optimizer import Optimizer

_HOMES = {
    "Auxiliary": "ffcore.interfaces",
    "Balancer": "ffcore.interfaces",
    "Batch": "ffcore.interfaces",
    "ClassFeatures": "ffcore.interfaces",
    "Condition": "ffcore.interfaces",
    "ConditionSource": "ffcore.interfaces",
    "Context": "ffcore.interfaces",
    "CorrectorObjective": "ffcore.interfaces",
    "DataError": "ffcore.interfaces",
    "DataSource": "ffcore.interfaces",
    "Decoder": "ffcore.interfaces",
    "Derivative": "ffcore.flow.derivative",
    "Distillation": "ffcore.training.distillation",
    "Draws": "ffcore.draws",
    "Features": "ffcore.interfaces",
    "FrozenTeacher": "ffcore.interfaces",
    "Gap": "ffcore.interfaces",
    "Gaps": "ffcore.interfaces",
    "Gaussian": "ffcore.flow.exact",
    "GaussianMixture": "ffcore.flow.exact",
    "Guided": "ffcore.flow.guidance",
    "Labels": "ffcore.interfaces",
    "MissingFile": "ffcore.system.files",
    "NamedConditions": "ffcore.interfaces",
    "Networks": "ffcore.interfaces",
    "Norms": "ffcore.interfaces",
    "Optimizer": "ffcore.training.optimizer",
    "PredictorObjective": "ffcore.interfaces",
    "Recipe": "ffcore.recipe",
    "RecipeError": "ffcore.recipe",
    "Solver": "ffcore.flow.solver",
    "Student": "ffcore.interfaces",
    "Teacher": "ffcore.interfaces",
    "TimeDistribution": "ffcore.flow.time_distribution",
    "Tracker": "ffcore.interfaces",
    "Unconditional": "ffcore.interfaces",
    "VelocityField": "ffcore.interfaces",
    "expand_like": "ffcore.flow.path",
    "generate": "ffcore.flow.flow_map",
    "integrate": "ffcore.flow.ode",
    "interpolate": "ffcore.flow.path",
    "class_condition": "ffcore.interfaces",
    "convert": "ffcore.flow.convert",
    "digest_of": "ffcore.interfaces",
    "load_recipe": "ffcore.recipe",
    "load_sampler": "ffcore.sample.load",
    "load_student": "ffcore.export",
    "load_teacher_sampler": "ffcore.sample.load",
    "push": "ffcore.flow.flow_map",
    "read_fields": "ffcore.nn.conditions",
    "to_toml": "ffcore.recipe",
    "train": "ffcore.training.loop",
}

__all__ = [
    "Auxiliary",
    "Balancer",
    "Batch",
    "ClassFeatures",
    "Condition",
    "ConditionSource",
    "Context",
    "CorrectorObjective",
    "DataError",
    "DataSource",
    "Decoder",
    "Derivative",
    "Distillation",
    "Draws",
    "Features",
    "FrozenTeacher",
    "Gap",
    "Gaps",
    "Gaussian",
    "GaussianMixture",
    "Guided",
    "Labels",
    "MissingFile",
    "NamedConditions",
    "Networks",
    "Norms",
    "Optimizer",
    "PredictorObjective",
    "Recipe",
    "RecipeError",
    "Solver",
    "Student",
    "Teacher",
    "TimeDistribution",
    "Tracker",
    "Unconditional",
    "VelocityField",
    "class_condition",
    "convert",
    "digest_of",
    "expand_like",
    "generate",
    "integrate",
    "interpolate",
    "load_recipe",
    "load_sampler",
    "load_student",
    "load_teacher_sampler",
    "push",
    "read_fields",
    "to_toml",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'ffcore' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
