"""ffcore: data-free distillation of flow and diffusion teachers into one-step students.

Names are handed on when they are first asked for, so that `import ffcore` imports no torch. A
function that bears the name of its module (`train`, `run`, `evaluate`) is imported from there:
`from ffcore.training.loop import train`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ffcore.draws import Draws
    from ffcore.export import load_student
    from ffcore.flow.derivative import Derivative
    from ffcore.flow.exact import Gaussian, GaussianMixture
    from ffcore.flow.flow_map import generate, push
    from ffcore.flow.guidance import Guided
    from ffcore.flow.ode import integrate
    from ffcore.flow.path import interpolate
    from ffcore.flow.solver import Solver
    from ffcore.flow.time_distribution import TimeDistribution
    from ffcore.interfaces import (
        Auxiliary,
        Balancer,
        Batch,
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
        Networks,
        Norms,
        PredictorObjective,
        Student,
        Teacher,
        Tracker,
        Unconditional,
        VelocityField,
        labelled,
    )
    from ffcore.recipe import Recipe, RecipeError, load_recipe, to_toml
    from ffcore.sample.load import load_sampler
    from ffcore.training.distillation import Distillation
    from ffcore.training.optimizer import Optimizer

_NAMES = {
    "ffcore.draws": "Draws",
    "ffcore.export": "load_student",
    "ffcore.flow.derivative": "Derivative",
    "ffcore.flow.exact": "Gaussian GaussianMixture",
    "ffcore.flow.flow_map": "generate push",
    "ffcore.flow.guidance": "Guided",
    "ffcore.flow.ode": "integrate",
    "ffcore.flow.path": "interpolate",
    "ffcore.flow.solver": "Solver",
    "ffcore.flow.time_distribution": "TimeDistribution",
    "ffcore.interfaces": (
        "Auxiliary Balancer Batch Condition ConditionSource Context CorrectorObjective "
        "DataError DataSource Decoder Features FrozenTeacher Gap Gaps Labels Networks Norms "
        "PredictorObjective Student Teacher Tracker Unconditional VelocityField labelled"
    ),
    "ffcore.recipe": "Recipe RecipeError load_recipe to_toml",
    "ffcore.sample.load": "load_sampler",
    "ffcore.training.distillation": "Distillation",
    "ffcore.training.optimizer": "Optimizer",
}
"""What each module hands on."""
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = [
    "Auxiliary",
    "Balancer",
    "Batch",
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
    "generate",
    "integrate",
    "interpolate",
    "labelled",
    "load_recipe",
    "load_sampler",
    "load_student",
    "push",
    "to_toml",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'ffcore' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
