"""The processes that write and read a checkpoint together.

What one of them cannot do fails in all of them, with its error: none goes on alone or waits for
one that is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import torch.distributed as dist

T = TypeVar("T")


@attrs.frozen
class Ranks:
    """The ranks of torch.distributed, or this process alone where that is not in use."""

    index: int = 0
    size: int = 1
    group: Any = None
    """Of their own and on CPUs: a background thread's messages must meet no others."""

    @staticmethod
    def here() -> Ranks:
        """Return those of this process. Every rank must ask, in the same order."""
        if not (dist.is_available() and dist.is_initialized()):
            return Ranks()
        return Ranks(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"))

    def each(self, work: Callable[[], T]) -> list[T]:
        """Do `work` in every rank; return all answers, or raise the error of the first to fail."""
        if self.size == 1:
            return [work()]
        mine = _outcome(work)
        outcomes: list[Any] = [None] * self.size
        dist.all_gather_object(outcomes, mine, group=self.group)
        for rank, (_, error) in enumerate(outcomes):
            if error is not None:
                error.add_note(f"in rank {rank}")
                raise error from mine[1]
        return [answer for answer, _ in outcomes]

    def first(self, work: Callable[[], T]) -> T:
        """Do `work` in rank 0; return its answer, or raise its error, in every rank."""
        answers = self.each(work if self.index == 0 else lambda: None)
        return answers[0]  # type: ignore[return-value]


def _outcome(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001  it is raised in every rank
        return None, error
