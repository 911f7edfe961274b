"""The search for the best of N noises per sample.

Inference-time scaling of FreeFlow (Tong et al., 2511.19428): the student maps each candidate noise
to a sample in one evaluation, and a verifier scores it. The teacher then follows its flow only from
the noise of the best. A larger search begins with the candidates of a smaller one, and candidate 0
is the noise that a sample has without a search.
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
    """Search the noise of each sample of a request.

        best = search(student, verifier, student.request(100), [4, 64])
        images = teacher.make(best[64])

    Args:
        student: generates a sample from each candidate.
        verifier: scores the samples; see `ffcore.search.verifier.Function`.
        asked: the request, before any search.
        candidates: numbers N of candidates; one search serves them all.
        batch: number of samples that the student generates at a time. The choice does not depend on
            it, unless two scores are equal up to rounding.
        progress: gets the evaluations after each batch.

    Returns:
        For each N the same request for the best of the first N noises; of equal scores the first
        wins. Student and teacher can both generate it. For N = 1 there is no choice, and nothing is
        generated.

    Raises SampleError for impossible candidates, VerifierError, NotFinite.
    """
    if isinstance(asked.noise, tuple):
        raise SampleError("search: the noise of these samples is already chosen")
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
