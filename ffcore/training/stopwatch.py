"""The time of a step by named sections, without synchronising with the device.

    time = Stopwatch("cuda")
    with time("predictor"):
        ...
    time.read()  # {"predictor": 0.012}

On a CPU, its clock measures the work. On CUDA the CPU runs ahead of the work that it launches, so
events in the stream measure it: finished events are added up, and only `read` waits for the rest.
On other accelerators the CPU's clock measures only the launches.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up the seconds of each section. Sections cannot be nested.

    Args:
        device: the device that does the work.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.totals: defaultdict[str, float] = defaultdict(float)
        self.pending: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()
        """Sections that the device may not have finished yet."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time in this block towards the section of this name."""
        if self.device.type != "cuda":
            begun = time.perf_counter()
            yield
            self.totals[name] += time.perf_counter() - begun
            return
        first = self._event()
        yield
        self.pending.append((name, first, self._event()))
        self._add_up(waiting=False)

    def read(self) -> dict[str, float]:
        """Return the seconds of each section since the last call, in order of first use."""
        self._add_up(waiting=True)
        found, self.totals = dict(self.totals), defaultdict(float)
        return found

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _add_up(self, *, waiting: bool) -> None:
        """Add the sections that the device has finished, or if `waiting`, wait and add all."""
        while self.pending:
            name, first, last = self.pending[0]
            if not waiting and not last.query():
                return
            last.synchronize()
            self.totals[name] += first.elapsed_time(last) / 1000
            self.pending.popleft()
