"""Streams samples through feature spaces, in one process or several; resumes after an interruption.

Each process takes consecutive chunks, one chunk a round. After every round all processes know of an
error or a signal in any of them. Every SECONDS, between two chunks, each stores its accumulated
state beside the result. The same command resumes from there, and adds the same numbers in the same
order.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from ffcore.evaluate.accumulate import Accumulated, Space, State
from ffcore.evaluate.samples import Samples
from ffcore.evaluate.stored import EvaluationError
from ffcore.sample import Partial, differences
from ffcore.system.distributed import Processes
from ffcore.system.weights import WeightsError, read_weights, write_weights

SECONDS = 30.0
"""Seconds between two writes of the accumulated state."""

Progress = Callable[[str, int, int], None]
"""(name of the work, number done, total number)."""


def silent(what: str, done: int, total: int) -> None:
    """Report no progress."""
    del what, done, total


class StoppedEvaluation(Exception):
    """An evaluation stopped on request; with a place to store it, its work is saved."""


@attrs.frozen(kw_only=True, eq=False)
class Working:
    """How an evaluation computes. Up to rounding, the numbers do not depend on it."""

    device: str = "cpu"
    """The device of the features."""
    processes: Processes = attrs.field(factory=Processes)
    """The processes that share the work; only the leading one gets the result."""
    partial: Partial | None = None
    """The directory of unfinished work; see `hold_partial`."""
    progress: Progress = silent
    """Called after each chunk; counts resumed samples too."""
    stop: Callable[[], bool] = lambda: False
    """Called after each chunk; True stops the evaluation."""

    def check(self, done: str, keep: Callable[[], None] = lambda: None) -> None:
        """Raise StoppedEvaluation, with the work done, if any process must stop.

        Each process calls `keep` first.
        """
        if self.processes.any(self.stop()):
            self.processes.together(keep)
            goes_on = "the same command resumes it"
            if self.partial is None:
                goes_on = "nothing is saved; use --out to be able to resume"
            raise StoppedEvaluation(f"stopped after {done}; {goes_on}")


class Clock:
    """Seconds by kind of work."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("samples", "features", "statistics"), 0.0)
        self.last = time.perf_counter()

    def lap(self, what: str) -> None:
        """Count the time since the last lap for `what`."""
        now = time.perf_counter()
        self.seconds[what] += now - self.last
        self.last = now


@contextmanager
def hold_partial(
    out: Path, conditions: Mapping[str, Any], processes: Processes, *, overwrite: bool
) -> Iterator[Partial]:
    """Lock the directory in which an evaluation stores unfinished work, beside `out`.

    Args:
        out: the result.
        conditions: of the numbers, in tables.
        processes: that share the work; each resumes its own part, so their number must not change.
        overwrite: delete an interrupted evaluation under other conditions.

    Raises EvaluationError for an interrupted evaluation under other conditions; SampleError if
    another command has locked the directory.
    """
    partial = Partial.beside(out)
    wanted = {
        f"{part}, {name}": each
        for part, table in conditions.items()
        for name, each in table.items()
        if name != "source"
    } | {"processes": processes.size}
    wanted = json.loads(json.dumps(wanted))
    with ExitStack() as stack:

        def prepare() -> None:
            stack.enter_context(partial.hold())
            there = partial.conditions()
            changed = [] if there is None else differences(there, wanted)
            if changed and not overwrite and any(partial.directory.glob("*.safetensors")):
                raise EvaluationError(
                    f"{partial.directory} holds an interrupted evaluation under other "
                    "conditions:\n  " + "\n  ".join(changed) + "\n--overwrite deletes it"
                )
            if there is None or changed:
                partial.begin(wanted)

        processes.first(prepare)
        yield partial


def stream(
    samples: Samples, spaces: Sequence[Space], what: str, working: Working, clock: Clock
) -> Accumulated:
    """Pass samples through feature spaces once.

    Returns:
        The accumulated state: of all samples in the leading process, of its part in any other.

    Raises StoppedEvaluation; EvaluationError and the errors of generating samples, in every
    process.
    """
    part = _Part(samples, spaces, what, working, clock)
    processes = working.processes
    for done in part.rounds():
        working.progress(what, done, samples.number)
        working.check(f"{done} of {samples.number} {what}", part.keep)
    processes.together(part.keep)
    states = processes.gather(part.seen.state())
    for state in states[1:]:
        part.seen.join(state)
    return part.seen


class _Part:
    """The samples that this process streams."""

    def __init__(
        self,
        samples: Samples,
        spaces: Sequence[Space],
        what: str,
        working: Working,
        clock: Clock,
    ) -> None:
        self.working = working
        self.clock = clock
        rank, size = working.processes.rank, working.processes.size
        self.chunk = samples.chunk
        chunks = -(-samples.number // self.chunk)
        start = chunks * rank // size * self.chunk
        self.stop = min(samples.number, chunks * (rank + 1) // size * self.chunk)
        self.seen = Accumulated(spaces, start)
        self.path: Path | None = None
        if working.partial is not None:
            self.path = working.partial.directory / f"{what}-{rank}.safetensors"
        self.kept_at = time.monotonic()
        self.kept = working.processes.together(self._go_on)
        self.batches = samples.between(self.seen.done, self.stop)

    def _go_on(self) -> int:
        """Load the state from before an interruption; return the next sample."""
        if self.path is not None and self.path.exists():
            self.seen.join(_read(self.path))
            self.seen.taken_up = True
        return self.seen.done

    def rounds(self) -> Iterator[int]:
        """Stream a chunk per process in each round; yield the number of samples seen by all."""
        processes = self.working.processes
        rounds = max(processes.each(lambda: -(-(self.stop - self.seen.done) // self.chunk)))
        yield sum(processes.each(self._count))
        for _ in range(rounds):
            yield sum(processes.each(self._chunk))

    def _count(self) -> int:
        return self.seen.done - self.seen.start

    def _chunk(self) -> int:
        seen, clock = self.seen, self.clock
        clock.lap("statistics")
        while seen.done < self.stop:
            batch = next(self.batches)
            clock.lap("samples")
            self._batch(batch)
            if seen.done % self.chunk == 0:
                break
        if time.monotonic() - self.kept_at > SECONDS:
            self.keep()
        return self._count()

    def _batch(self, batch: Tensor) -> None:
        seen, clock = self.seen, self.clock
        placed = batch.to(self.working.device)
        found = [each.look(placed, seen.done) for each in seen.spaces.values()]
        clock.lap("features")
        for space, each in zip(seen.spaces.values(), found, strict=True):
            space.take(*each)
        seen.done += len(batch)
        seen.brightest = max(seen.brightest, float(batch.max()))
        clock.lap("statistics")

    def keep(self) -> None:
        """Store the accumulated state, if there is a place for it and it is new."""
        if self.path is not None and self.seen.done > self.kept:
            _write(self.path, self.seen.state())
            self.kept, self.kept_at = self.seen.done, time.monotonic()


def _write(path: Path, state: State) -> None:
    reached = {"start": state.start, "done": state.done, "brightest": state.brightest}
    write_weights(path, state.tensors, reached)


def _read(path: Path) -> State:
    try:
        found = read_weights(str(path.absolute()))
    except WeightsError as error:
        raise EvaluationError(f"{error}. To start again, remove {path.parent}") from None
    return State(tensors=found.tensors, **found.config)
