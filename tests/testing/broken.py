"""Components that break a law, each named after what is wrong with it."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from healthy import (
    Flat,
    Follow,
    Halves,
    Numbered,
    Pull,
    PullCorrector,
    PullPredictor,
    Straight,
    Trio,
    Tutor,
    table,
)
from objectives import Even
from torch import Tensor, nn
from trackers import Diary

from ffcore.draws import Draws
from ffcore.flow.exact import Gaussian
from ffcore.flow.flow_map import push
from ffcore.interfaces import (
    Auxiliary,
    Batch,
    Condition,
    ConditionSource,
    Context,
    CorrectorObjective,
    Gap,
    Gaps,
    Labels,
    Networks,
    Norms,
    Objective,
    PredictorObjective,
    Student,
    Teacher,
)
from ffcore.keys import key
from ffcore.recipe.needs import ANYWHERE, COPY
from ffcore.testing.small import SmallStudent, SmallVelocity


@attrs.frozen(eq=False)
class Mutant:
    """A component that breaks a law, and what the law says of it."""

    role: str
    name: str
    table: Any
    breaks: str
    says: str
    also: frozenset[str] = frozenset()
    """Other laws that such a component cannot but break."""


MUTANTS: list[Mutant] = []


def breaks(
    law: str, says: str, *, role: str, also: tuple[str, ...] = (), **declared: Any
) -> Callable[[type], type]:
    """Note a class, of a live object or of a table, as one that breaks a law of `role`."""

    def note(kind: type) -> type:
        found = kind() if hasattr(kind, "build") else table(role, kind, **declared)
        MUTANTS.append(Mutant(role, kind.__name__, found, law, says, frozenset(also)))
        return kind

    return note


def objective_breaks(
    law: str, says: str, *, also: tuple[str, ...] = (), **declared: Any
) -> Callable[[type], type]:
    """Note what goes wrong in an objective, as a predictor and as a corrector."""

    def note(fault: type) -> type:
        for role, base in (("predictor", PredictorObjective), ("corrector", CorrectorObjective)):
            kind = type(fault.__name__, (fault, base), {})
            breaks(law, says, role=role, also=also, **declared)(kind)
        return fault

    return note


# All components


breaks("is-of-its-role", "PullPredictor, not a CorrectorObjective", role="corrector")(PullPredictor)


@breaks("answers-as-its-role-does", "raised TypeError: .* missing 1 required", role="balancer")
class AsksForMoreThanItGets(Even):
    def scale(self, norms: Mapping[Objective, Norms], step: int) -> Mapping[Objective, Tensor]:
        return super().scale(norms)


@breaks("answers-as-its-role-does", "not a tensor: output", role="features")
class AnswersInAList(Flat):
    def forward(self, samples: Tensor) -> Any:
        return samples.flatten(1).tolist()


def flat(context: Context) -> Flat:
    del context
    return Flat()


@breaks("is-a-frozen-table", "not frozen", role="features")
@attrs.define
class TableThatCanBeWrittenTo:
    """A table."""

    width: int = key(1, help="a number")

    def build(self, context: Context) -> Flat:
        return flat(context)


@breaks("is-a-frozen-table", "not frozen", role="features")
@attrs.define
class TableWithoutKeysThatCanBeWrittenTo:
    """A table."""

    def build(self, context: Context) -> Flat:
        return flat(context)


@breaks("survives-a-recipe", "came back as", role="features")
@attrs.frozen
class KeyThatGrowsWhenItIsRead:
    """A table."""

    width: int = key(1, help="a number")

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "width", 2 * self.width)

    def build(self, context: Context) -> Flat:
        return flat(context)


@breaks("survives-a-recipe", "type that recipes cannot hold", role="features")
@attrs.frozen
class KeyThatNoRecipeHolds:
    """A table."""

    width: dict[str, int] = key(factory=lambda: {"a": 1}, help="numbers")

    def build(self, context: Context) -> Flat:
        return flat(context)


@breaks("explains-its-keys", "KeyWithoutHelp.width", role="features")
@attrs.frozen
class KeyWithoutHelp:
    """A table."""

    width: int = 1

    def build(self, context: Context) -> Flat:
        return flat(context)


@attrs.frozen
class Inner:
    width: int = 1


@breaks("explains-its-keys", "Inner.width", role="features")
@attrs.frozen
class KeyOfATableWithinWithoutHelp:
    """A table."""

    inner: Inner | None = key(None, help="a table within")

    def build(self, context: Context) -> Flat:
        return flat(context)


@breaks("explains-its-keys", "no docstring", role="features")
@attrs.frozen
class TableWithoutADocstring:
    __doc__ = ""

    def build(self, context: Context) -> Flat:
        return flat(context)


HONEST = "is-honest-about-its-needs"


@breaks(HONEST, "must be a frozenset", role="corrector", needs=COPY)
class NeedsInAString(PullCorrector):
    pass


@breaks(HONEST, "must be a frozenset", role="features", offers=frozenset({1}))
class OffersThatAreNoWords(Flat):
    pass


@breaks(HONEST, "does offer 'trainable copy', but the teacher does not", role="teacher")
class CopyOfferedAndNotGiven(Tutor):
    def trainable_copy(self, *, takes_guidance: bool = False) -> None:
        del takes_guidance


@breaks(HONEST, "does not offer 'trainable copy'", role="teacher", offers=frozenset())
class CopyGivenAndNotOffered(Tutor):
    pass


@breaks(HONEST, "does not offer 'student starts anywhere'", role="student", offers=frozenset())
class StartNotOffered(SmallStudent):
    pass


@breaks(HONEST, "does not need data, but the objective does", role="predictor")
class DataNeededByTheObjectiveAlone(PullPredictor):
    needs = frozenset({"data"})


@breaks(HONEST, "cannot be copied", role="corrector", needs=frozenset())
class CopyNeededInSecret(PullCorrector):
    pass


@breaks("builds-the-same-twice", "differs between two builds", role="features")
class WeightsFromNowhere(Flat):
    def __init__(self) -> None:
        super().__init__()
        weights = np.random.default_rng().random()
        self.register_buffer("weights", torch.tensor(weights))

    def forward(self, samples: Tensor) -> Tensor:
        return self.weights * samples.flatten(1)


@breaks("builds-the-same-twice", "seeds torch", role="features")
class SeedsTorchWhenItIsBuilt(Flat):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)


@breaks("is-deterministic", "differs between two calls", role="features")
class CountsItsCalls(Flat):
    def __init__(self) -> None:
        super().__init__()
        self.calls = itertools.count()

    def forward(self, samples: Tensor) -> Tensor:
        return samples.flatten(1) + 1e-6 * next(self.calls)


ALONE = "leaves-the-process-alone"


@breaks(
    ALONE,
    "a call changes the default dtype",
    role="features",
    also=("builds-the-same-twice", "is-deterministic", "saves-and-loads"),  # other inputs
)
class SetsTheDefaultDtype(Flat):
    def forward(self, samples: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        return super().forward(samples)


@breaks(ALONE, "a call changes the grad mode", role="features")
class TurnsGradientsOff(Flat):
    def forward(self, samples: Tensor) -> Tensor:
        torch.set_grad_enabled(not torch.is_grad_enabled())
        return super().forward(samples)


@breaks(ALONE, "a call changes torch's random state", role="features")
class SeedsTorchInACall(Flat):
    def forward(self, samples: Tensor) -> Tensor:
        torch.manual_seed(3)
        return super().forward(samples)


@breaks(ALONE, "build changes numpy's random state", role="features")
class DrawsFromNumpyWhenItIsBuilt(Flat):
    def __init__(self) -> None:
        super().__init__()
        np.random.standard_normal(3)


@breaks(ALONE, "build changes the number of threads", role="features")
class SetsTheNumberOfThreads(Flat):
    def __init__(self) -> None:
        super().__init__()
        torch.set_num_threads(torch.get_num_threads() + 1)


@breaks("saves-and-loads", "differs after saving", role="student")
class KeepsFrequenciesOutOfItsState(SmallStudent):
    def __init__(self, shape: tuple[int, ...], labels: int) -> None:
        super().__init__(shape, labels)
        self.frequency = torch.randn(1)

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t, t, delta, condition) * (2 + torch.sin(self.frequency))


@breaks("has-the-same-shapes-meta", "other parameters", role="student")
@attrs.frozen
class SmallerWhereMeta:
    """A table."""

    offers = frozenset({ANYWHERE})

    def build(self, context: Context) -> Student:
        assert context.teacher is not None
        student = SmallStudent.of(context.teacher)
        if context.meta:
            del student.slope.leave
        return student


# Teachers


@breaks("is-frozen", "require a gradient: field.enter.weight", role="teacher")
class AsksForGradients(Tutor):
    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(True)


@breaks("is-frozen", "training mode", role="teacher")
class StillInTraining(Tutor):
    def __init__(self) -> None:
        super().__init__()
        self.train()

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t, t, condition) * (0.99999 if self.training else 1.0)


@breaks("is-frozen", "training mode", role="teacher", also=("is-independent-of-the-batch",))
class NormalisesAsInTraining(Tutor):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2, affine=False)  # after eval()

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        extra: Tensor = self.norm(x_t)
        return super().forward(x_t, t, condition) + 1e-5 * extra


@breaks("states-its-sample-shape", r"sample_shape is \[2\]", role="teacher")
class ShapeInAList(Tutor):
    def __init__(self) -> None:
        super().__init__()
        self.sample_shape = [2]


@breaks(
    "keeps-shape-and-dtype",
    "returns torch.bfloat16",
    role="teacher",
    also=("copies-itself-to-train",),
)
class AnswersInBfloat16(Tutor):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        found = super().forward(x_t, t, condition)
        return found.bfloat16()


@breaks(
    "keeps-shape-and-dtype",
    "for points",
    role="teacher",
    also=("copies-itself-to-train", "points-from-noise-to-data"),
)
class AnswersWithOneNumberMore(Tutor):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        found = super().forward(x_t, t, condition)
        return torch.cat([found, found[:, :1]], 1)


@breaks("is-finite-at-both-ends", "at 0, 12 of 12 numbers", role="teacher")
class InfiniteAtTheData(Tutor):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t, t, condition) / (t > 0)[:, None].to(x_t)


@breaks(
    "is-independent-of-the-batch",
    "without the rest",
    role="teacher",
    also=("copies-itself-to-train",),
)
class NormalisesOverTheBatch(Tutor):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t - x_t.mean(0), t, condition)


@breaks("leaves-its-inputs-alone", "it changed an input", role="teacher")
class ClampsItsInput(Tutor):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t.clamp_(-0.5, 0.5), t, condition)


READS = "reads-what-it-is-given"


@breaks(READS, "its time", role="teacher", also=("copies-itself-to-train",))
class IgnoresItsTime(Tutor):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t, torch.ones_like(t), condition)


@breaks(READS, "its label", role="teacher", also=("copies-itself-to-train",))
class IgnoresItsLabel(Tutor):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        label = torch.zeros_like(condition.label)
        return super().forward(x_t, t, attrs.evolve(condition, label=label))


NULLED = Labels(2, null_label=2).null


def labels(
    draw: Callable[[Condition], Condition] = lambda drawn: drawn,
    null: Callable[[Condition], Condition] = NULLED,
) -> ConditionSource:
    """Two classes, with what is drawn changed, or the null condition made otherwise."""

    class Changed(Labels):
        def draw(self, draws: Draws) -> Condition:
            return draw(super().draw(draws))

        def null(self, condition: Condition) -> Condition:
            return null(condition)

    return Changed(2, null_label=2)


DRAWS = "draws-conditions-from-the-draws"


@breaks(DRAWS, "another label for samples drawn alone", role="teacher")
class DrawsLabelsOfItsOwn(Tutor):
    def __init__(self) -> None:
        super().__init__()

        def draw(drawn: Condition) -> Condition:
            generator = torch.Generator().manual_seed(drawn.size)
            return attrs.evolve(drawn, label=torch.randint(2, (drawn.size,), generator=generator))

        self.conditions = labels(draw)


@breaks(DRAWS, "draw returned a condition with guidance", role="teacher")
class DrawsGuidedConditions(Tutor):
    def __init__(self) -> None:
        super().__init__()
        self.conditions = labels(lambda drawn: attrs.evolve(drawn, guidance=torch.ones(drawn.size)))


@breaks(DRAWS, "must return a Condition of size 12", role="teacher")
class DrawsNoMoreThanTen(Tutor):
    def __init__(self) -> None:
        super().__init__()
        self.conditions = labels(lambda drawn: drawn[:10])


NULL = "has-a-null-condition-or-says-not"


@breaks(NULL, "null returned a Condition of size 1", role="teacher")
class OneNullForAll(Tutor):
    def __init__(self) -> None:
        super().__init__()
        self.conditions = labels(null=lambda given: Condition(size=1, label=torch.tensor([2])))


@breaks(NULL, "null returned a condition with guidance", role="teacher")
class NullThatKeepsItsGuidance(Tutor):
    def __init__(self) -> None:
        super().__init__()
        self.conditions = labels(
            null=lambda given: attrs.evolve(given, label=torch.full_like(given.label, 2))
        )


@breaks(NULL, "IndexError", role="teacher")
class NullBeyondTheLabels(Tutor):
    def __init__(self) -> None:
        super().__init__()
        self.conditions = Labels(2, null_label=3)


COPIES = "copies-itself-to-train"


@breaks(COPIES, "gradients are off", role="teacher")
class CopyThatIsFrozen(Tutor):
    def trainable_copy(self, *, takes_guidance: bool = False) -> Any:
        return super().trainable_copy(takes_guidance=takes_guidance).requires_grad_(False)


@breaks(COPIES, "training the copy changes the teacher", role="teacher")
class CopyThatIsTheTeacherItself(Tutor):
    def trainable_copy(self, *, takes_guidance: bool = False) -> Any:
        copied = super().trainable_copy(takes_guidance=takes_guidance)
        copied.enter.weight.data = self.field.enter.weight.data
        return copied


@breaks(COPIES, "the copy is off by", role="teacher")
class CopyWithNewWeights(Tutor):
    def trainable_copy(self, *, takes_guidance: bool = False) -> Any:
        generator = torch.Generator().manual_seed(0)
        copied = super().trainable_copy(takes_guidance=takes_guidance)
        copied.enter.weight.data = torch.randn(copied.enter.weight.shape, generator=generator)
        return copied


@breaks(COPIES, "parameters in torch.float64", role="teacher")
class CopyInAnotherPrecision(Tutor):
    def trainable_copy(self, *, takes_guidance: bool = False) -> Any:
        copied = super().trainable_copy(takes_guidance=takes_guidance)
        copied.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        return copied


INPUT = "gives-its-copy-an-input-for-guidance"


@breaks(INPUT, "does not read γ", role="teacher")
class CopyThatIgnoresGuidance(Tutor):
    def trainable_copy(self, *, takes_guidance: bool = False) -> Any:
        del takes_guidance
        return super().trainable_copy()


@breaks(INPUT, "before training, γ has an effect", role="teacher")
class CopyThatStartsGuided(Tutor):
    def trainable_copy(self, *, takes_guidance: bool = False) -> Any:
        copied = super().trainable_copy(takes_guidance=takes_guidance)
        if copied.guidance is not None:
            nn.init.ones_(copied.guidance.weight)
        return copied


SAYS = "keeps-what-its-table-says"


@breaks(SAYS, r"table is \(3,\), but the teacher's is \(2,\)", role="teacher", sample_shape=(3,))
class SaysAnotherShape(Tutor):
    pass


@breaks(SAYS, "guidable of the table is False, but the teacher has", role="teacher", guidable=False)
class SaysThatItCannotBeGuided(Tutor):
    pass


class Exact(Gaussian):
    def __init__(self) -> None:
        super().__init__([0.5, -0.3], 0.7)


@breaks(
    SAYS,
    "is True, but there is no null condition",
    role="teacher",
    guidable=True,
    offers=frozenset(),
)
class SaysThatItCanBeGuided(Exact):
    pass


POINTS = "points-from-noise-to-data"


@breaks(POINTS, r"by \+1\.00, .* the time direction", role="teacher", offers=frozenset())
class PointsFromDataToNoise(Exact):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return -super().forward(x_t, t, condition)


@breaks(POINTS, r"by \+1\.00, .* the time direction", role="teacher", offers=frozenset())
class RunsFromDataToNoise(Exact):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t, 1 - t, condition)


@breaks(POINTS, "its sign and its time were the opposite", role="teacher", offers=frozenset())
class RunsFromDataToNoiseAndPointsBack(Exact):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return -super().forward(x_t, 1 - t, condition)


# Students and networks


@breaks("says-where-it-starts", "'prior', but it reads t", role="student", offers=frozenset())
class SaysPriorAndReadsTheTime(SmallStudent):
    starts_at = "prior"


@breaks("says-where-it-starts", "'anywhere', but it does not read t", role="student")
class SaysAnywhereAndIgnoresTheTime(SmallStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t, torch.ones_like(t), delta, condition)


@breaks("says-where-it-starts", "starts_at is 'noise'", role="student", offers=frozenset())
class SaysAWordOfItsOwn(SmallStudent):
    starts_at = "noise"


@breaks("keeps-shape-and-dtype", "returns torch.bfloat16", role="student")
class StudentInBfloat16(SmallStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        found = super().forward(x_t, t, delta, condition)
        return found.bfloat16()


@breaks("is-the-identity-at-no-duration", "not the identity", role="student")
class DividesByItsDuration(SmallStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        found = super().forward(x_t, t, delta, condition)
        return found * (delta / delta).view(-1, *[1] * (x_t.ndim - 1))


@breaks("is-finite-at-every-duration", "at 1, ", role="student")
class StudentInfiniteAtTheData(SmallStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        found = super().forward(x_t, t, delta, condition)
        return found / (delta < 1).view(-1, *[1] * (x_t.ndim - 1)).to(found)


@breaks("is-finite-at-every-duration", "from t = 1e-06 over δ = 1e-06", role="student")
class StudentInfiniteNearTheData(SmallStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        found = super().forward(x_t, t, delta, condition)
        return found / (t > 1e-3).view(-1, *[1] * (x_t.ndim - 1)).to(found)


@breaks("is-independent-of-the-batch", "without the rest", role="student")
class CentresTheBatch(SmallStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t - x_t.mean(0), t, delta, condition)


@breaks("leaves-its-inputs-alone", "it changed an input", role="student")
class ClampsWhatItIsGiven(SmallStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t.clamp_(-0.5, 0.5), t, delta, condition)


@breaks("answers-the-same-in-training", "in training mode it differs", role="student")
class AnswersLessInTraining(SmallStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t, t, delta, condition) * (0.9 if self.training else 1.0)


@breaks(
    "answers-the-same-in-training",
    "in training mode it differs",
    role="student",
    also=(  # random numbers from the process, others at every call
        "builds-the-same-twice",
        "is-deterministic",
        "leaves-the-process-alone",
        "is-independent-of-the-batch",
        "is-differentiable-in-the-duration",
    ),
)
class DropsOut(SmallStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        found = super().forward(x_t, t, delta, condition)
        return nn.functional.dropout(found, training=self.training)


@breaks("is-differentiable-in-the-duration", "may round", role="student")
class TakesItsDurationInJumps(SmallStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t, t, (5 * delta).round() / 5, condition)


@breaks("is-differentiable-in-the-duration", "not be differentiable in δ", role="student")
class DetachesItsDuration(SmallStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t, t, delta.detach(), condition)


@breaks("trains-every-parameter", "reaches idle", role="student")
class StudentWithAParameterToSpare(SmallStudent):
    def __init__(self, shape: tuple[int, ...], labels: int, features: int = 0) -> None:
        super().__init__(shape, labels, features)
        self.idle = nn.Parameter(torch.zeros(1))


@breaks(READS, "its duration", role="student")
class IgnoresItsDuration(SmallStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t, t, torch.ones_like(delta), condition)


@breaks(READS, "its label", role="student")
class StudentOfOneClass(SmallStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        label = None if condition.label is None else torch.zeros_like(condition.label)
        return super().forward(x_t, t, delta, attrs.evolve(condition, label=label))


@breaks(READS, "γ", role="student")
class StudentOfOneScale(SmallStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t, t, delta, attrs.evolve(condition, guidance=None))


@breaks("takes-no-guidance-for-one", "without γ it differs from γ = 1", role="student")
class StudentThatTakesNoGuidanceForZero(SmallStudent):
    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        guidance = torch.zeros_like(t) if condition.guidance is None else condition.guidance
        return super().forward(x_t, t, delta, attrs.evolve(condition, guidance=guidance))


@breaks("can-be-rebuilt-without-its-teacher", "`alone", role="student")
@attrs.frozen
class NeedsItsTeacherForEver:
    """A table."""

    needs = frozenset({COPY})
    offers = frozenset({ANYWHERE})

    def build(self, context: Context) -> Student:
        assert context.teacher is not None
        if context.teacher.trainable_copy() is None:
            raise ValueError("this teacher cannot be copied")
        return SmallStudent.of(context.teacher)


@breaks("can-be-rebuilt-without-its-teacher", "other weights", role="student")
@attrs.frozen
class RebuildsAnotherNetwork:
    """A table."""

    offers = frozenset({ANYWHERE})

    def alone(self, student: Student) -> Any:
        del student
        return table("student", StudentWithAParameterToSpare)

    def build(self, context: Context) -> Student:
        assert context.teacher is not None
        return SmallStudent.of(context.teacher)


@breaks("keeps-shape-and-dtype", "returns torch.bfloat16", role="network")
class NetworkInBfloat16(SmallVelocity):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        found = super().forward(x_t, t, condition)
        return found.bfloat16()


@breaks("is-finite-at-both-ends", "at 1, ", role="network")
class InfiniteAtThePrior(SmallVelocity):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        found = super().forward(x_t, t, condition)
        return found / (t < 1).view(-1, *[1] * (x_t.ndim - 1)).to(found)


@breaks("is-independent-of-the-batch", "without the rest", role="network")
class NetworkThatCentresTheBatch(SmallVelocity):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t - x_t.mean(0), t, condition)


@breaks("leaves-its-inputs-alone", "it changed an input", role="network")
class NetworkThatClampsItsInput(SmallVelocity):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t.clamp_(-0.5, 0.5), t, condition)


@breaks("trains-every-parameter", "reaches idle", role="network")
class NetworkWithAParameterToSpare(SmallVelocity):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.idle = nn.Parameter(torch.zeros(1))


@breaks(READS, "its time", role="network")
class NetworkThatIgnoresItsTime(SmallVelocity):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t, torch.ones_like(t), condition)


@breaks(READS, "γ", role="network")
class NetworkOfOneScale(SmallVelocity):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return super().forward(x_t, t, attrs.evolve(condition, guidance=None))


@breaks("takes-no-guidance-for-one", "without γ it differs from γ = 1", role="network")
class NetworkThatTakesNoGuidanceForZero(SmallVelocity):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        guidance = torch.zeros_like(t) if condition.guidance is None else condition.guidance
        return super().forward(x_t, t, attrs.evolve(condition, guidance=guidance))


# Objectives

TRAINS = "draws-the-student-to-the-teacher"
RESTS = "rests-at-the-flow-map"
GRADIENT = "sends-its-gradient-to-the-student-alone"


@objective_breaks("answers-as-its-role-does", "at least one Gap")
class NoGap(Pull):
    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        return attrs.evolve(super().gaps(networks, batch), gaps=())


@objective_breaks("answers-as-its-role-does", "detach it")
class KeepsTheGraphOfItsGap(Pull):
    def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
        return super().gap(networks, batch, samples) + self.output(networks, batch)


@objective_breaks("answers-with-gaps", "a gap is .3, 2., not .6, 2.")
class AnswersForHalfTheBatch(Pull):
    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        half = len(batch.z) // 2
        found = super().gaps(networks, batch)
        gaps = (Gap(output=each.output[:half], gap=each.gap[:half]) for each in found.gaps)
        return attrs.evolve(found, gaps=tuple(gaps))


@objective_breaks("answers-with-gaps", "a gap is not finite", also=(TRAINS, RESTS))
class GapThatIsNoNumber(Pull):
    def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
        return super().gap(networks, batch, samples) / 0


@objective_breaks(GRADIENT, "has no gradient", also=(TRAINS,))
class DetachesItsOutput(Pull):
    def output(self, networks: Networks, batch: Batch) -> Tensor:
        return super().output(networks, batch).detach()


@objective_breaks(GRADIENT, "flows through the teacher")
class GradientThroughTheTeacher(Pull):
    def output(self, networks: Networks, batch: Batch) -> Tensor:
        found, ones = super().output(networks, batch), torch.ones(len(batch.z))
        velocity: Tensor = networks.teacher(found, ones, batch.condition)
        return found + 1e-6 * velocity


@objective_breaks(GRADIENT, "flows through the auxiliary network 'online'")
class GradientThroughTheAuxiliary(Pull):
    def output(self, networks: Networks, batch: Batch) -> Tensor:
        found, ones = super().output(networks, batch), torch.ones(len(batch.z))
        velocity: Tensor = networks.auxiliaries["online"](found.detach(), ones, batch.condition)
        return found + 1e-6 * velocity


DOMAIN = "calls-within-the-domain"


@objective_breaks(DOMAIN, "at t < 1, but the table does not need")
class StartsAnywhereUnasked(Pull):
    def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
        t = batch.draws.uniform("t").clamp(min=0.5)
        networks.student(batch.z, t, t, batch.condition)
        return super().gap(networks, batch, samples)


@objective_breaks(DOMAIN, "outside \\(0, 1\\]")
class TimesFromDataToNoise(Pull):
    def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
        zeros = torch.zeros(len(batch.z))
        networks.student(batch.z, zeros, zeros, batch.condition)
        return super().gap(networks, batch, samples)


@objective_breaks(DOMAIN, "over δ outside")
class DurationsBeyondTheData(Pull):
    def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
        ones = torch.ones(len(batch.z))
        networks.student(batch.z, ones, ones + 1e-3, batch.condition)
        return super().gap(networks, batch, samples)


@objective_breaks(DOMAIN, "a velocity is called at t outside")
class TimesInThousandths(Pull):
    def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
        r = 1000 * batch.draws.uniform("r")
        networks.teacher(samples, r, batch.condition)
        return super().gap(networks, batch, samples)


CHANGES = "changes-no-network"


@objective_breaks(CHANGES, "gaps changes the student")
class PutsTheStudentInEvalMode(Pull):
    def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
        networks.student.eval()
        return super().gap(networks, batch, samples)


@objective_breaks(CHANGES, "gaps changes the auxiliary network 'online'")
class MovesItsAuxiliary(Pull):
    def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
        found = super().gap(networks, batch, samples)
        next(networks.auxiliaries["online"].parameters()).mul_(1 + 1e-6)
        return found

    gap = torch.no_grad()(gap)


@objective_breaks(CHANGES, "self_check changes the student")
class MovesTheStudentInItsSelfCheck(Pull):
    def self_check(self, networks: Networks, batch: Batch) -> None:
        with torch.no_grad():
            next(networks.student.parameters()).add_(0.05)


@objective_breaks(CHANGES, "prepare changes the teacher")
class MovesTheTeacherWhenItPrepares(Pull):
    def prepare(self, teacher: Teacher, draw: Callable[[int, int], Batch]) -> dict[str, float]:
        with torch.no_grad():
            next(teacher.parameters()).add_(0.05)
        return {}


FREE = "is-data-free-unless-it-says"


@objective_breaks(FREE, "reads data")
class ReadsDataInSecret(Pull):
    def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
        found = super().gap(networks, batch, samples)
        return found if batch.data is None else found + samples - batch.data


@objective_breaks(FREE, "opens /dev/null")
class OpensAFileForIt(Pull):
    def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
        with open("/dev/null", "rb") as file:  # noqa: PTH123 - as a stranger does
            file.read()
        return super().gap(networks, batch, samples)


@objective_breaks(FREE, "prepare opens /dev/null")
class OpensAFileToPrepare(Pull):
    def prepare(self, teacher: Teacher, draw: Callable[[int, int], Batch]) -> dict[str, float]:
        with open("/dev/null", "rb") as file:  # noqa: PTH123 - as a stranger does
            file.read()
        return {}


@objective_breaks("owns-its-auxiliaries", "'online' and .* 'other' share a parameter")
class NamesOneAuxiliaryTwice(Pull):
    def auxiliaries(self, student: Student, teacher: Teacher) -> Mapping[str, Auxiliary]:
        found = super().auxiliaries(student, teacher)
        return {"online": found["online"], "other": found["online"]}


LEARNS = "trains-its-auxiliaries-alone"


@objective_breaks(LEARNS, "returns no samples", also=(TRAINS,))
class NoSamplesToLearnFrom(Pull):
    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        return attrs.evolve(super().gaps(networks, batch), samples=None)


@objective_breaks(LEARNS, "detach them")
class KeepsTheGraphOfItsSamples(Pull):
    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        found = super().gaps(networks, batch)
        samples = push(batch.z, found.gaps[0].output, torch.ones(len(batch.z)))
        return attrs.evolve(found, samples=samples)


@objective_breaks(LEARNS, "the loss of 'online' is \\(\\)")
class OneLossForAllSamples(Pull):
    def loss(
        self, network: nn.Module, samples: Tensor, condition: Condition, draws: Draws
    ) -> Tensor:
        return super().loss(network, samples, condition, draws).mean()


@objective_breaks(LEARNS, "gets no gradient", also=(TRAINS,))
class LossOfSomethingElse(Pull):
    def loss(
        self, network: nn.Module, samples: Tensor, condition: Condition, draws: Draws
    ) -> Tensor:
        found = super().loss(network, samples, condition, draws).detach()
        return found + 0 * sum(each.sum() for each in network.parameters())


@objective_breaks(LEARNS, "sends a gradient to the student")
class LossThatTrainsTheStudentToo(Pull):
    def auxiliaries(self, student: Student, teacher: Teacher) -> Mapping[str, Auxiliary]:
        self.student = student
        return super().auxiliaries(student, teacher)

    def loss(
        self, network: nn.Module, samples: Tensor, condition: Condition, draws: Draws
    ) -> Tensor:
        ones = torch.ones(len(samples))
        extra = self.student(samples, ones, ones, condition).flatten(1).mean(1)
        return super().loss(network, samples, condition, draws) + 1e-6 * extra


CHECK = "passes-its-own-check"


@objective_breaks(CHECK, "self_check fails: no")
class RefusesEveryStudent(Pull):
    def self_check(self, networks: Networks, batch: Batch) -> None:
        raise ValueError("no")


@objective_breaks(CHECK, "returns bool")
class SaysTrue(Pull):
    def self_check(self, networks: Networks, batch: Batch) -> bool:
        return True


@objective_breaks(TRAINS, "steps moved a student")
class WrongSign(Pull):
    def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
        return -super().gap(networks, batch, samples)


@breaks(TRAINS, "steps moved a student", role="predictor", needs=frozenset())
class FollowsTheOtherWay(Follow):
    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        found = super().gaps(networks, batch)
        gaps = (Gap(output=each.output, gap=-each.gap) for each in found.gaps)
        return Gaps(gaps=tuple(gaps))


BY_ITSELF, COUPLED = (
    "answers-to-each-sample-by-itself",
    "differ if these are the whole batch",
)


class CentresItsSamples(Pull):
    def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
        found = super().gap(networks, batch, samples)
        return found + 0.01 * (samples - samples.mean(0))


@breaks(BY_ITSELF, COUPLED, role="corrector")
class CorrectorThatCentresItsSamples(CentresItsSamples, CorrectorObjective):
    pass


@breaks(BY_ITSELF, COUPLED, role="predictor", also=("rests-at-the-flow-map",))
class PredictorThatCentresItsSamples(CentresItsSamples, PredictorObjective):
    pass


@breaks(
    HONEST,
    "does need whole batch, but the objective does not",
    role="corrector",
    needs=frozenset({"whole batch"}),
)
class SaysThatItCouples(PullCorrector):
    pass


@objective_breaks("calls-networks-whatever-was-drawn", "batches of one sample call .*, and others ")
class AsksTheTeacherWhereItMatters(Pull):
    def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
        found = super().gap(networks, batch, samples)
        if bool((batch.draws.uniform("matters") > 0.5).any()):
            with torch.no_grad():
                networks.teacher(samples, torch.ones(len(samples)), batch.condition)
        return found


@objective_breaks("calls-networks-whatever-was-drawn", "batches of one sample call .*, and others ")
class AsksTheTeacherWhereSamplesArePositive(Pull):
    def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
        found = super().gap(networks, batch, samples)
        if bool(samples.sum() > 0):
            with torch.no_grad():
                networks.teacher(samples, torch.ones(len(samples)), batch.condition)
        return found


@breaks(RESTS, "gaps of the exact flow map are", role="predictor")
class AsksTheTeacherAtTheDuration(Follow):
    def time(self, delta: Tensor) -> Tensor:
        return delta


# Conditions


@breaks("draws-from-the-draws", "another pooled for samples drawn alone", role="conditions")
class DrawnByPlace(Trio):
    def draw(self, draws: Draws) -> Condition:
        return self.of([self.names[place % 3] for place in range(len(draws))])


@breaks("draws-from-the-draws", "every step draws the same", role="conditions")
class DrawnFromTheIndexAlone(Trio):
    def draw(self, draws: Draws) -> Condition:
        return super().draw(attrs.evolve(draws, step=0))


@breaks("draws-from-the-draws", "draw returned a condition with guidance", role="conditions")
class DrawnWithGuidance(Trio):
    def draw(self, draws: Draws) -> Condition:
        return super().draw(draws).at(1.5)


NULL = "has-a-null-condition-or-says-not"


@breaks(NULL, "null returned no fields", role="conditions")
class NullWithoutFields(Trio):
    def null(self, condition: Condition) -> Condition:
        return Condition(size=condition.size)

    def texts(self, condition: Condition) -> list[str]:
        return [""] * condition.size if condition.pooled is None else [*super().texts(condition)]


@breaks(NULL, "null returned a Condition of size 1", role="conditions")
class OneNull(Trio):
    def null(self, condition: Condition) -> Condition:
        return super().null(condition[:1])


@breaks(NULL, "null returned a condition with guidance", role="conditions")
class GuidedNull(Trio):
    def null(self, condition: Condition) -> Condition:
        return attrs.evolve(super().null(condition), guidance=condition.guidance)


@breaks(NULL, "null writes into the pooled", role="conditions")
class NullInPlace(Trio):
    def null(self, condition: Condition) -> Condition:
        assert condition.pooled is not None
        condition.pooled.zero_()
        return super().null(condition)


BY_NAME = "finds-conditions-by-name"


@breaks(BY_NAME, "raises KeyError", role="conditions")
class KeyErrors(Trio):
    def of(self, names: Any) -> Condition:
        for name in names:
            dict.fromkeys(self.names)[name]
        return super().of(names)


@breaks(BY_NAME, "of returned label", role="conditions", also=("tells-each-condition",))
class NamedOfOtherFields(Trio):
    def of(self, names: Any) -> Condition:
        return Condition(size=super().of(names).size, label=torch.zeros(len(names)).long())

    def texts(self, condition: Condition) -> list[str]:
        return [""] * condition.size


@breaks(BY_NAME, "another pooled for .* alone than beside others", role="conditions")
class NamedInTheOrderOfTheList(Trio):
    def of(self, names: Any) -> Condition:
        return super().of(sorted(names))


@breaks("tells-each-condition", "texts returned 1 for 6 samples", role="conditions")
class OneText(Trio):
    def texts(self, condition: Condition) -> list[str]:
        return [*super().texts(condition)][:1]


@breaks("tells-each-condition", "it must return a sequence of 6 strings", role="conditions")
class NumbersForTexts(Trio):
    def texts(self, condition: Condition) -> list[str]:
        return [0] * condition.size  # type: ignore[list-item]


@breaks("tells-each-condition", "are told as", role="conditions")
class EmptyTexts(Trio):
    def texts(self, condition: Condition) -> list[str]:
        return [""] * condition.size


@breaks("knows-its-identity", "two builds of a table", role="conditions")
class IdentityOfTheObject(Trio):
    def __init__(self) -> None:
        super().__init__()
        self.number = next(_COUNT)

    def fingerprint(self) -> str:
        return str(self.number)


_COUNT = itertools.count()


@breaks("knows-its-identity", "have the same fingerprint", role="conditions")
@attrs.frozen(kw_only=True)
class TableWhoseKeyIsForgotten:
    """A table whose conditions do not say what they depend on."""

    shift: float = key(0.0, help="number to add")

    @classmethod
    def examples(cls) -> Any:
        return cls(), cls(shift=1.0)

    def build(self, context: Context) -> Any:
        del context
        made = Trio()
        rows = made.conditions.pooled
        assert rows is not None
        made.conditions = attrs.evolve(made.conditions, pooled=rows + self.shift)
        made.fingerprint = lambda: "poses"  # type: ignore[method-assign]
        return made


# Data


@breaks("states-its-size", r"sample_shape is \[", role="data")
class DataWithItsShapeInAList(Numbered):
    def __init__(self, teacher: Teacher) -> None:
        super().__init__(teacher)
        self.sample_shape = list(self.sample_shape)


@breaks("gives-samples", "samples are torch.float64", role="data")
class DataInAnotherPrecision(Numbered):
    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        found, condition = super().read(indices, draws)
        return found.double(), condition


@breaks("gives-samples", "samples are .*, not", role="data")
class DataWithoutItsFirstDimension(Numbered):
    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        found, condition = super().read(indices, draws)
        return found[:, 0], condition


UNDERSTANDS = "gives-conditions-that-the-teacher-understands"


@breaks(UNDERSTANDS, "there are no labels", role="data")
class DataWithoutLabels(Numbered):
    def labels(self, indices: Tensor) -> None:
        del indices


@breaks(UNDERSTANDS, "is not a class", role="data")
class DataOfOtherClasses(Numbered):
    def labels(self, indices: Tensor) -> Tensor:
        return indices


@breaks(UNDERSTANDS, "guidance scale", role="data")
class DataWithGuidance(Numbered):
    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        found, condition = super().read(indices, draws)
        return found, attrs.evolve(condition, guidance=torch.ones(len(indices)))


ITSELF = "reads-a-sample-by-its-index-alone"


@breaks(ITSELF, "a sample depends", role="data")
class DataNormalisedOverTheBatch(Numbered):
    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        found, condition = super().read(indices, draws)
        return found - found.mean(0), condition


@breaks(ITSELF, "a condition depends", role="data")
class LabelsByPlace(Numbered):
    def labels(self, indices: Tensor) -> Tensor | None:
        return super().labels(torch.arange(len(indices)))


@breaks("leaves-its-inputs-alone", "it changed the indices", role="data")
class WritesToTheIndices(Numbered):
    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        return super().read(indices.remainder_(10), draws)


@breaks("leaves-its-inputs-alone", "it changed samples that were read before", role="data")
class ReadsIntoOneBuffer(Numbered):
    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        found, condition = super().read(indices, draws)
        self.buffer = getattr(self, "buffer", torch.empty(32, *found.shape[1:]))
        into = self.buffer[: len(found)]
        return into.copy_(found), condition


@breaks("has-more-than-one-sample", "are the same", role="data")
class OneSampleForAllIndices(Numbered):
    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        found, condition = super().read(0 * indices, draws)
        return found, attrs.evolve(condition, label=self.labels(indices))


# Balancers

SPLITS = "splits-the-whole-batch"


@breaks(SPLITS, "at step 0 a batch of 1 is split into", role="balancer")
class LosesTheRest(Even):
    def split(self, batch: int, step: int) -> tuple[int, int]:
        return batch // 2, batch // 2


@breaks(SPLITS, "is split into", role="balancer")
class SplitsBelowZero(Even):
    def split(self, batch: int, step: int) -> tuple[int, int]:
        return batch + 1, -1


@breaks(SPLITS, "a batch of 256 is refused", role="balancer")
class RefusesWhatIsNotAThousand(Even):
    def split(self, batch: int, step: int) -> tuple[int, int]:
        if 8 < batch < 1000:
            raise ValueError("no")
        return batch, 0


WEIGHS = "weighs-every-sample"


@breaks(WEIGHS, "weights are \\(\\)", role="balancer", also=("weighs-a-sample-by-itself",))
class OneWeightForAll(Even):
    def weights(self, objective: Objective, gap: Gap) -> Tensor:
        return torch.tensor(1.0)


@breaks(WEIGHS, "weights are", role="balancer")
class WeighsBelowZero(Even):
    def weights(self, objective: Objective, gap: Gap) -> Tensor:
        return -gap.norm()


@breaks(WEIGHS, "weights have a gradient", role="balancer")
class WeighsWithAGradient(Even):
    def weights(self, objective: Objective, gap: Gap) -> Tensor:
        return gap.output.square().mean(1)


@breaks("weighs-a-sample-by-itself", "rest of the batch", role="balancer")
class DividesByTheMeanOfTheBatch(Even):
    def weights(self, objective: Objective, gap: Gap) -> Tensor:
        return 1 / (gap.norm().mean() + 1).expand(len(gap.gap))


@breaks("weighs-a-sample-by-itself", "order of the batch", role="balancer")
class WeighsByPlace(Even):
    def weights(self, objective: Objective, gap: Gap) -> Tensor:
        return torch.arange(len(gap.gap)) / len(gap.gap)


SCALES = "scales-every-objective"


@breaks(SCALES, "KeyError", role="balancer")
class ScalesBothOrNone(Even):
    def scale(self, norms: Mapping[Objective, Norms]) -> Mapping[Objective, Tensor]:
        ratio = norms["prediction"].raw / (norms["correction"].raw + 1)
        return {"prediction": torch.tensor(1.0), "correction": ratio + 1}


@breaks(SCALES, "has shape", role="balancer")
class ScalesByAVector(Even):
    def scale(self, norms: Mapping[Objective, Norms]) -> Mapping[Objective, Tensor]:
        return {name: torch.ones(1) for name in norms}


@breaks(SCALES, "the factor of prediction is -1", role="balancer")
class ScalesBelowZero(Even):
    def scale(self, norms: Mapping[Objective, Norms]) -> Mapping[Objective, Tensor]:
        return {name: torch.tensor(-1.0) for name in norms}


@breaks("scales-alike-on-every-rank", "a rank that saw the first half", role="balancer")
class ScalesByWhatItSaw(Even):
    def weights(self, objective: Objective, gap: Gap) -> Tensor:
        self.seen = gap.norm().mean()
        return super().weights(objective, gap)

    def scale(self, norms: Mapping[Objective, Norms]) -> Mapping[Objective, Tensor]:
        return {name: 1 + getattr(self, "seen", each.raw) for name, each in norms.items()}


VANISH = "bears-gaps-that-vanish"


@breaks(VANISH, "weights of prediction are not finite", role="balancer")
class WeighsByTheInverse(Even):
    def weights(self, objective: Objective, gap: Gap) -> Tensor:
        return 1 / gap.norm()


@breaks(VANISH, "factor of correction is not finite", role="balancer")
class ScalesByTheRatio(Even):
    def scale(self, norms: Mapping[Objective, Norms]) -> Mapping[Objective, Tensor]:
        found = dict(super().scale(norms))
        if len(norms) == 2:
            found["correction"] = norms["prediction"].raw / norms["correction"].raw
        return found


# Features and decoders


@breaks("has-a-name", "name is ''", role="features")
class FeaturesWithoutAName(Flat):
    name = ""


@breaks("gives-vectors", "for 6 samples", role="features")
class FeaturesInTheShapeOfSamples(Flat):
    def forward(self, samples: Tensor) -> Tensor:
        return samples[:, None]


@breaks("gives-vectors", "features are torch.int64", role="features")
class FeaturesThatAreWholeNumbers(Flat):
    def forward(self, samples: Tensor) -> Tensor:
        return (10 * samples.flatten(1)).round().long()


@breaks("gives-vectors", "not finite", role="features")
class FeaturesThatAreNoNumbers(Flat):
    def forward(self, samples: Tensor) -> Tensor:
        return samples.flatten(1).log()


@breaks("is-independent-of-the-batch", "without the rest", role="features")
class FeaturesNormalisedOverTheBatch(Flat):
    def forward(self, samples: Tensor) -> Tensor:
        return super().forward(samples - samples.mean(0))


@breaks("leaves-its-inputs-alone", "it changed an input", role="features")
class FeaturesThatClampTheSamples(Flat):
    def forward(self, samples: Tensor) -> Tensor:
        return super().forward(samples.clamp_(-0.5, 0.5))


@breaks("distinguishes-samples", "the same features", role="features")
class FeaturesOfNothing(Flat):
    def forward(self, samples: Tensor) -> Tensor:
        return torch.ones(len(samples), 3)


@breaks("reads-one-of-its-classes", "classes is 0", role="features")
class FeaturesOfNoClasses(Halves):
    classes = 0


@breaks("reads-one-of-its-classes", "for 6 samples", role="features")
class FeaturesThatReadOneClassForAll(Halves):
    def logits(self, features: Tensor) -> Tensor:
        return super().logits(features)[:1]


@breaks("reads-one-of-its-classes", "logits are torch.int64", role="features")
class FeaturesThatReadWholeNumbers(Halves):
    def logits(self, features: Tensor) -> Tensor:
        return super().logits(features).long()


@breaks("reads-one-of-its-classes", "3 for 2 classes", role="features")
class FeaturesThatCountClassesFromOne(Halves):
    def logits(self, features: Tensor) -> Tensor:
        return nn.functional.pad(super().logits(features), (1, 0))


@breaks("reads-one-of-its-classes", "logits are not finite", role="features")
class FeaturesWithoutTheRestOfTheClasses(Halves):
    def logits(self, features: Tensor) -> Tensor:
        return super().logits(features).log()


@breaks("reads-one-of-its-classes", "not its largest logit", role="features")
class FeaturesThatReadTheLeastLikelyClass(Halves):
    def classify(self, samples: Tensor) -> Tensor:
        return 1 - super().classify(samples)


@breaks("gives-images", "images are torch.float64", role="decoder")
class ImagesInAnotherPrecision(Straight):
    def forward(self, samples: Tensor) -> Tensor:
        return samples.double()


@breaks("gives-images", "images are .6, 1", role="decoder")
class ImagesInOneDimension(Straight):
    def forward(self, samples: Tensor) -> Tensor:
        return samples.flatten(1)[:, None]


@breaks("is-independent-of-the-batch", "without the rest", role="decoder")
class ImagesScaledOverTheBatch(Straight):
    def forward(self, samples: Tensor) -> Tensor:
        return samples.float() / samples.abs().max()


@breaks("leaves-its-inputs-alone", "it changed an input", role="decoder")
class DecoderThatClampsTheSamples(Straight):
    def forward(self, samples: Tensor) -> Tensor:
        return super().forward(samples.clamp_(-0.5, 0.5))


@breaks("distinguishes-samples", "the same image", role="decoder")
class GreyImages(Straight):
    def forward(self, samples: Tensor) -> Tensor:
        return torch.zeros_like(samples)


@breaks("refuses-what-it-cannot-decode", "RuntimeError for samples of shape", role="decoder")
class FailsWithinOnOtherShapes(Straight):
    def forward(self, samples: Tensor) -> Tensor:
        return super().forward(samples.permute(0, 1, 2, 3))


# Trackers


@breaks("stays-in-its-folder", "outside its folder it wrote diary.jsonl", role="tracker")
class WritesIntoTheRunsDirectory(Diary):
    def open(self, folder: Path, run: str, recipe: Mapping[str, Any], step: int) -> None:
        super().open(folder, run, recipe, step)
        self.path = folder.parent / "diary.jsonl"


@breaks("stays-in-its-folder", "outside its folder it wrote elsewhere/diary.jsonl", role="tracker")
class WritesWhereTheProcessWorks(Diary):
    def close(self, *, finished: bool) -> None:
        super().close(finished=finished)
        Path("diary.jsonl").touch()


@breaks("leaves-what-it-is-given-alone", "the recipe became", role="tracker")
class TakesOutOfTheRecipe(Diary):
    def open(self, folder: Path, run: str, recipe: Mapping[str, Any], step: int) -> None:
        dict.pop(recipe, "training")  # type: ignore[arg-type]
        super().open(folder, run, recipe, step)


@breaks("leaves-what-it-is-given-alone", "the numbers became", role="tracker")
class AddsToTheNumbers(Diary):
    def track(self, step: int, numbers: Mapping[str, float]) -> None:
        numbers |= {"step": step}  # type: ignore[operator]
        super().track(step, numbers)


@breaks("says-nothing-on-stdout", "it printed 'step 1", role="tracker")
class PrintsItsSteps(Diary):
    def track(self, step: int, numbers: Mapping[str, float]) -> None:
        print("step", step)  # noqa: T201
        super().track(step, numbers)


@breaks("goes-on-with-what-it-kept", "truncated: diary.jsonl", role="tracker")
class BeginsAnewWhereARunGoesOn(Diary):
    def open(self, folder: Path, run: str, recipe: Mapping[str, Any], step: int) -> None:
        (folder / "diary.jsonl").unlink(missing_ok=True)
        super().open(folder, run, recipe, step)


@breaks("takes-whatever-is-measured", "raised KeyError: 'loss'", role="tracker")
class WantsTheSameNamesEachTime(Diary):
    def track(self, step: int, numbers: Mapping[str, float]) -> None:
        super().track(step, {"loss": numbers["loss"]})


@breaks("takes-whatever-is-measured", "raised OverflowError", role="tracker")
class TakesFiniteNumbersAlone(Diary):
    def track(self, step: int, numbers: Mapping[str, float]) -> None:
        super().track(step, {name: round(1000 * number) for name, number in numbers.items()})


@breaks("closes-at-any-time", "raised AttributeError", role="tracker")
class ClosesWithTheLastStep(Diary):
    def track(self, step: int, numbers: Mapping[str, float]) -> None:
        self.last = step
        super().track(step, numbers)

    def close(self, *, finished: bool) -> None:
        self.write({"last": self.last, "finished": finished})
