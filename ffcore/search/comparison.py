"""Best-of-N against the teacher alone at the same number of evaluations.

NFE counts evaluations of the base networks per image: one of the student for each candidate, and
the solver's for the teacher, doubled where guidance acts. The verifier's own score is biased by the
selection, so independent judges and feature spaces are reported beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from ffcore.evaluate import Reference, Samples, Working, knows_classes, measure
from ffcore.evaluate.measure import Scores, feature_statistics
from ffcore.evaluate.samples import from_uint8, pieces
from ffcore.evaluate.stream import Progress, silent
from ffcore.flow.solver import Solver
from ffcore.interfaces import UNKNOWN, ConditionSource, Features, Labels
from ffcore.sample import Request, SampleError, Sampler, TeacherSampler, to_uint8
from ffcore.search.best_of import search
from ffcore.search.verifier import Function, Verifier


@attrs.frozen(kw_only=True)
class Score:
    """The score of samples by one verifier."""

    mean: float
    error: float | None
    """Standard error of the mean; None for a single sample."""

    @staticmethod
    def of(scores: Tensor) -> Score:
        """Return the mean of Float[n] and its standard error."""
        error = float(scores.std() / len(scores) ** 0.5) if len(scores) > 1 else None
        return Score(mean=float(scores.mean()), error=error)


@attrs.frozen(kw_only=True)
class Arm:
    """One way to spend evaluations, with its results."""

    nfe: int
    """NFE per sample, including the search for its noise."""
    steps: int
    """Number of steps: the student's, or the teacher's solver's."""
    scores: Mapping[str, Score]
    """By the name of the verifier, then of the judges."""
    features: Mapping[str, Scores]
    """By the name of the feature space."""


@attrs.frozen(kw_only=True)
class Row:
    """The results of N candidates. With N = 1 there is no search, and both teachers are equal."""

    candidates: int
    searched: Arm
    """The teacher, from the noise of the student's best."""
    teacher: Arm
    """The teacher alone, in as many steps as the same NFE allows."""
    student: Arm
    """The student's best candidate."""


@attrs.frozen(kw_only=True)
class Comparison:
    """The results for each number of candidates, and notes about them."""

    rows: tuple[Row, ...]
    chosen: Mapping[int, Request]
    """The noise of the best, by the number of candidates."""
    notes: tuple[str, ...]


def compare(
    student: Sampler,
    teacher: Sampler,
    verifier: Verifier | Function,
    asked: Request,
    candidates: Sequence[int],
    *,
    judges: Sequence[Verifier | Function] = (),
    features: Sequence[Features] = (),
    reference: Reference | None = None,
    batch: int = 64,
    progress: Progress = silent,
) -> Comparison:
    """Search and render; compare with the teacher alone and with the student alone.

    Args:
        student: searches.
        teacher: renders, with a fixed-step solver.
        verifier, asked, candidates, batch: as in `search`; one candidate, which needs no search, is
            always compared too.
        judges: verifiers that do not choose.
        features: for Fréchet distances to the reference, and for class accuracy if they classify;
            on the teacher's device.
        reference: required with features.
        progress: gets the evaluations after each batch.

    Raises SampleError if student and teacher do not fit together, or if the solver's NFE is
    adaptive; the errors of `search` and `ffcore.evaluate.measure`.
    """
    check_alike(student, teacher, asked)
    verifiers = [v if isinstance(v, Verifier) else Verifier(v) for v in (verifier, *judges)]
    names = [each.name for each in verifiers]
    if len({*names}) < len(names):
        raise SampleError(f"judges: name each once, and not the verifier; found {names}")
    numbers = [1, *candidates]
    chosen = search(student, verifiers[0], asked, numbers, batch=batch, progress=progress)
    plan = [_Planned.of(student, teacher, asked, size, request) for size, request in chosen.items()]
    if reference is not None:
        reference = _with_statistics(reference, features, teacher.device)
    judging = _Judging(verifiers, features, reference, batch, progress, sum(p.cost for p in plan))
    rows = tuple(each.row(student, teacher, judging) for each in plan)
    return Comparison(rows=rows, chosen=chosen, notes=tuple(dict.fromkeys(judging.notes)))


def check_alike(student: Sampler, teacher: Sampler, asked: Request) -> None:
    """Raise SampleError unless the teacher can render the student's noise at a known cost."""
    ours, theirs = student.generator, teacher.generator
    if not isinstance(theirs, TeacherSampler):
        raise SampleError("search: the renderer must be a sampler from load_teacher_sampler")
    here, there = ((each.sample_shape, _kind(each.conditions)) for each in (ours, theirs))
    if here != there:
        raise SampleError(
            f"search: student and teacher do not fit: the student's samples are {here[0]} of "
            f"{here[1]}, the teacher's {there[0]} of {there[1]}"
        )
    theirs.check(asked.guidance, None)
    if theirs.nfe(asked.guidance, None) is None:
        raise SampleError(
            f"solver: {theirs.solver.method} is adaptive, but a search needs its number of "
            "evaluations in advance: use a fixed-step solver"
        )


def _kind(conditions: ConditionSource) -> str:
    if isinstance(conditions, Labels):
        return f"{conditions.classes} classes"
    known = conditions.fingerprint()
    identity = "" if known == UNKNOWN else f" {known[:12]}"
    return f"conditions {type(conditions).__name__}{identity}"


def affordable(solver: Solver, budget: int, interval: tuple[float, float] | None) -> int:
    """Return the largest number of steps of a fixed-step solver within `budget` NFE, at least 1."""
    steps = budget
    while steps > 1:
        nfe = attrs.evolve(solver, steps=steps).nfe(interval)
        assert nfe is not None
        if nfe <= budget:
            break
        steps -= 1
    return steps


@attrs.frozen(kw_only=True)
class _Planned:
    """A planned row: the requests and their cost."""

    candidates: int
    request: Request
    """For the chosen noise."""
    asked: Request
    nfe: int
    """Of search and rendering."""
    steps: int
    """Of the teacher alone."""
    alone: int
    """NFE of the teacher alone."""
    screened: int
    """NFE of the candidates."""
    cost: int
    """Evaluations for all samples, without the search."""

    @staticmethod
    def of(
        student: Sampler, teacher: Sampler, asked: Request, candidates: int, request: Request
    ) -> _Planned:
        solved = teacher.generator
        assert isinstance(solved, TeacherSampler)
        render, each = (s.generator.nfe(asked.guidance, asked.steps) for s in (teacher, student))
        assert render is not None
        assert each is not None
        nfe = render + (candidates * each if candidates > 1 else 0)
        interval = None if asked.guidance == 1 else solved.guided.interval
        steps = affordable(solved.solver, nfe, interval)
        alone = solved.in_steps(steps).nfe(asked.guidance, None)
        assert alone is not None
        return _Planned(
            candidates=candidates,
            request=request,
            asked=asked,
            nfe=nfe,
            steps=steps,
            alone=alone,
            screened=candidates * each,
            cost=asked.number * (each + render + (alone if candidates > 1 else 0)),
        )

    def row(self, student: Sampler, teacher: Sampler, judging: _Judging) -> Row:
        solved = teacher.generator
        assert isinstance(solved, TeacherSampler)
        searched = judging.arm(teacher, self.request, self.nfe, solved.solver.steps)
        alone = searched
        if self.candidates > 1:
            alone = judging.arm(teacher.in_steps(self.steps), self.asked, self.alone, self.steps)
        itself = judging.arm(student, self.request, self.screened, self.asked.steps or 1)
        return Row(candidates=self.candidates, searched=searched, teacher=alone, student=itself)


class _Judging:
    """Generates the samples of each arm once and measures them on the way."""

    def __init__(
        self,
        verifiers: Sequence[Verifier],
        features: Sequence[Features],
        reference: Reference | None,
        batch: int,
        progress: Progress,
        total: int,
    ) -> None:
        self.verifiers = verifiers
        self.features = features
        self.reference = reference
        self.batch = batch
        self.progress = progress
        self.total = total
        self.done = 0
        self.notes: list[str] = []

    def arm(self, sampler: Sampler, request: Request, nfe: int, steps: int) -> Arm:
        samples = _Scored(sampler, request, self)
        found: Mapping[str, Scores] = {}
        if self.features:
            assert self.reference is not None
            metrics = ("fd", "classes") if any(map(knows_classes, self.features)) else ("fd",)
            working = Working(device=sampler.device)
            measured = measure(samples, self.reference, self.features, metrics, working)
            found = measured.features
            self.notes += measured.notes
        else:
            for _ in samples:
                pass
        scores = {name: Score.of(torch.cat(parts)) for name, parts in samples.scores.items()}
        return Arm(nfe=nfe, steps=steps, scores=scores, features=found)

    def advance(self, evaluations: int) -> None:
        self.done += evaluations
        self.progress("compare", self.done, self.total)


class _Scored(Samples):
    """Samples that verifiers score during generation, before rounding."""

    def __init__(self, sampler: Sampler, request: Request, judging: _Judging) -> None:
        self.sampler = sampler
        self.request = request
        self.judging = judging
        self.number = request.number
        self.shape = sampler.shape
        self.labels = sampler.drawn_labels(request)
        self.record = {}
        self.scores: dict[str, list[Tensor]] = {each.name: [] for each in judging.verifiers}

    def between(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield them; see Samples."""
        nfe = self.sampler.generator.nfe(self.request.guidance, self.request.steps)
        assert nfe is not None
        for first, last in pieces(start, stop, self.judging.batch):
            images = self.sampler.images(self.request, first, last)
            condition = self.sampler.condition(self.request, first, last)
            for each in self.judging.verifiers:
                self.scores[each.name].append(each(images.to(self.sampler.device), condition))
            self.judging.advance(nfe * (last - first))
            yield from_uint8(to_uint8(images)) if self.sampler.makes_images else images.float()


def _with_statistics(reference: Reference, features: Sequence[Features], device: str) -> Reference:
    """Return the reference with statistics, so that its samples are generated only once."""
    missing = [each for each in features if reference.statistics_of(each) is None]
    if not missing:
        return reference
    assert reference.samples is not None
    found = feature_statistics(reference.samples, missing, Working(device=device))
    return attrs.evolve(reference, statistics=found, samples=None)
