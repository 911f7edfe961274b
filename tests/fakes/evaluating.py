"""Evaluations of two small files of samples, and what two processes do of them in a test."""

from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from inputs import Stream

from ffcore.evaluate import (
    EvaluationError,
    Making,
    Measured,
    Scores,
    StoppedEvaluation,
    Working,
    conditions,
    hold_partial,
    measure,
    open_reference,
    open_samples,
)
from ffcore.interfaces import Context, Features
from ffcore.recipe import component
from ffcore.sample import CHUNK
from ffcore.system.distributed import Processes

METRICS = ("fd", "is", "pr", "classes")
"""Of these the score depends on the order of the samples."""
NUMBER = 5 * CHUNK + 80


def features(name: str = "digits") -> Features:
    built: Features = component("features", {"type": name}).build(Context())
    return built


def written(place: Path) -> Path:
    for name, number, bright in (("a.npz", NUMBER, 0), ("b.npz", 3 * CHUNK, 20)):
        noise = Stream(bright).normal(number, 8, 8, 1).numpy()
        pixels = (127 + bright + 60 * noise).clip(0, 255).astype(np.uint8)
        np.savez(place / name, arr_0=pixels, arr_1=np.arange(number) % 10)
    return place


class Times:
    """Asks to stop when it has been asked so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def done(
    place: Path, working: Working, *, overwrite: bool = False, metrics: tuple[str, ...] = METRICS
) -> Measured:
    """What `ffd evaluate a.npz -r b.npz --out r.json` does."""
    samples = open_samples(str(place / "a.npz"), Making())
    reference = open_reference(str(place / "b.npz"), samples, Making())
    spaces = [features(), features("raw")]
    bound = {**conditions(samples, reference, spaces), "metrics": {"asked": list(metrics)}}
    with hold_partial(place / "r.json", bound, working.processes, overwrite=overwrite) as partial:
        working = attrs.evolve(working, partial=partial)
        found = measure(samples, reference, spaces, metrics, working)
        if working.processes.leads:
            partial.remove()
    return found


def kept(place: Path) -> set[str]:
    return {each.name for each in (place / ".r.json.partial").glob("*.safetensors")}


def close(found: Scores, whole: Scores) -> None:
    """Sums of other parts, in float64."""
    assert found.classes == whole.classes
    here, there = (
        {
            name: each
            for name, each in attrs.asdict(one, recurse=False).items()
            if name != "classes" and each is not None
        }
        for one in (found, whole)
    )
    assert here == pytest.approx(there, rel=1e-9)


def shared(rank: int, place: Path, alone: Measured) -> None:
    """In each of two processes."""
    processes = Processes(rank, 2)
    told: list[tuple[str, int, int]] = []
    working = Working(processes=processes, progress=lambda *each: told.append(each))
    found = done(place, working)
    for name, whole in alone.features.items():
        close(found.features[name], whole)
    assert found.notes == alone.notes
    assert [each[1] for each in told if each[0] == "samples"] == [0, 512, 1024, NUMBER]

    # A signal to one of them stops both, and both go on.
    stop = Times(1) if rank == 1 else Times(1000)
    with pytest.raises(StoppedEvaluation, match=f"after 512 of {NUMBER} samples"):
        done(place, attrs.evolve(working, stop=stop))
    assert kept(place) == {"samples-0.safetensors", "samples-1.safetensors"}
    with pytest.raises(EvaluationError, match="processes: 2 there, 1 here"):
        processes.first(lambda: done(place, Working()))
    again = done(place, working)
    assert again.features == found.features

    # An error in one is the error of both, at once.
    def look(samples: torch.Tensor) -> torch.Tensor:
        raise ValueError("not today")

    spaces = [features()]
    if rank == 1:
        spaces[0].forward = look  # type: ignore[method-assign]
    samples = open_samples(str(place / "a.npz"), Making())
    reference = open_reference(str(place / "b.npz"), samples, Making())
    told.clear()
    with pytest.raises(EvaluationError, match="not today") as error:
        measure(samples, reference, spaces, working=working)
    assert error.value.__notes__ == ["in process 1 of 2"]
    assert told == [("samples", 0, NUMBER)]


def few(rank: int, place: Path, alone: Measured) -> None:
    """In each of two processes, of which one has nothing to do."""
    found = done(place, Working(processes=Processes(rank, 2)))
    assert found.features == alone.features
    assert found.notes == alone.notes
    assert "the same samples" in " ".join(found.notes)
