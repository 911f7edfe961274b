"""The search: which of a condition's N noises the student makes the best sample of.

Inference-time scaling of FreeFlow (Tong et al., 2511.19428): the student maps each candidate noise
to a sample in one evaluation, a verifier scores it, and the teacher then follows its flow from the
noise of the best alone. The first candidates of a search are those of a smaller one, and candidate
0 is the noise that a sample has without a search.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from ffcore.evaluate.stream import Progress, silent
from ffcore.interfaces import Condition
from ffcore.sample import Request, SampleError, Sampler, whole_number
from ffcore.search.verifier import Function, Verifier


@torch.no_grad()
def search(
    student: Sampler,
    verifier: Verifier | Function,
    asked: Request,
    candidates: Sequence[int],
    *,
    batch: int = 64,
    progress: Progress = silent,
) -> dict[int, Request]:
    """Search the noise of each sample that is asked for.

        best = search(student, verifier, student.request(100), [4, 64])
        images = teacher.make(best[64])

    Args:
        student: makes a sample of each candidate.
        verifier: scores them; see `ffcore.search.verifier.Function`.
        asked: the samples, before any search.
        candidates: numbers N of noises among which to choose; one screening serves them all.
        batch: samples that the student makes at a time. The choice does not depend on it, unless
            two candidates score alike to rounding.
        progress: gets the evaluations after each batch.

    Returns:
        For each N the same request, now for the noise of the best of the first N: of equal scores
        the first. Whoever understands the conditions can make it: student or teacher. For N = 1
        there is nothing to choose, and nothing is made.

    Raises SampleError for candidates that there cannot be, VerifierError, NotFinite.
    """
    if isinstance(asked.noise, tuple):
        raise SampleError("search: the noise of these samples has been chosen already")
    sizes = sorted({whole_number("candidates", each, 1) for each in candidates})
    if not sizes:
        raise SampleError("candidates: name at least one number")
    if not isinstance(verifier, Verifier):
        verifier = Verifier(verifier)
    most, batch = sizes[-1], whole_number("batch", batch, 1)
    nfe = student.generator.nfe(asked.guidance, asked.steps)
    assert nfe is not None
    chosen: dict[int, list[int]] = {size: [] for size in sizes}
    for start in range(0, asked.number if most > 1 else 0, batch):
        stop = min(asked.number, start + batch)
        at_a_time = max(1, batch // (stop - start))
        parts = []
        for first in range(0, most, at_a_time):
            numbers = range(first, min(most, first + at_a_time))
            parts.append(_scores(student, verifier, asked, start, stop, numbers))
            done = most * start + numbers.stop * (stop - start)
            progress("search", nfe * done, nfe * most * asked.number)
        scores = torch.cat(parts).numpy()  # [N, samples]; of equal ones numpy takes the first
        for size in sizes:
            chosen[size] += scores[:size].argmax(0).tolist()
    return {
        size: asked if size == 1 else attrs.evolve(asked, noise=tuple(numbers))
        for size, numbers in chosen.items()
    }


def _scores(
    student: Sampler, verifier: Verifier, asked: Request, start: int, stop: int, numbers: range
) -> Tensor:
    """Return the scores of candidates of the samples [start, stop): Float[len(numbers), samples]"""
    each = [student.noise(attrs.evolve(asked, noise=n), start, stop) for n in numbers]
    condition = Condition.cat([student.condition(asked, start, stop)] * len(numbers))
    images = student.decode(torch.cat(each), condition, asked.steps, start)
    return verifier(images, condition).view(len(numbers), stop - start)
