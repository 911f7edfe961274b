"""An evaluation that is shared by processes, or interrupted and gone on with: the same numbers."""

from pathlib import Path

import numpy as np
import pytest
from evaluating import NUMBER, Times, done, features, few, kept, shared, written
from inputs import Stream
from two_ranks import start

from ffcore.evaluate import (
    EvaluationError,
    Making,
    StoppedEvaluation,
    Working,
    measure,
    open_reference,
    open_samples,
    stream,
)
from ffcore.sample import CHUNK, SampleError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place with two files of samples, the first longer than the second."""
    return written(tmp_path)


@pytest.mark.parametrize("rounds", [0, 1, 4, 6, 8])
def test_an_evaluation_that_was_stopped_goes_on_to_the_very_same_numbers(folder, rounds):
    whole = done(folder, Working())
    with pytest.raises(StoppedEvaluation, match="the same command resumes it"):
        done(folder, Working(stop=Times(rounds)))
    told: list[tuple[str, int, int]] = []
    found = done(folder, Working(progress=lambda *each: told.append(each)))
    assert found.features == whole.features
    first = {"samples": min(rounds * CHUNK, NUMBER), "reference": max(0, rounds - 7) * CHUNK}
    for what, number in first.items():
        assert next(each for each in told if each[0] == what)[1] == number
    assert ("evaluation was resumed" in " ".join(found.notes)) == (rounds > 0)
    assert not (folder / ".r.json.partial").exists()


def test_a_killed_evaluation_goes_on_from_what_was_written_last(folder, monkeypatch):
    """Nothing is written but what time has come for."""
    monkeypatch.setattr(stream, "SECONDS", 0.0)
    whole = done(folder, Working())
    seen = 0

    def killed(what: str, number: int, total: int) -> None:
        nonlocal seen
        seen = number
        if number == 3 * CHUNK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        done(folder, Working(progress=killed))
    assert kept(folder) == {"samples-0.safetensors"}
    told: list[int] = []
    found = done(folder, Working(progress=lambda what, number, total: told.append(number)))
    assert told[0] == seen == 3 * CHUNK
    assert found.features == whole.features


def test_another_evaluation_does_not_go_on_with_it(folder):
    with pytest.raises(StoppedEvaluation):
        done(folder, Working(stop=Times(2)))
    with pytest.raises(
        EvaluationError, match=r"metrics, asked: .*\n--overwrite deletes it"
    ) as told:
        done(folder, Working(), metrics=("fd",))
    assert "samples" not in str(told.value)
    done(folder, Working(), metrics=("fd",), overwrite=True)
    assert not kept(folder)


def test_two_commands_do_not_work_on_one_evaluation(folder):
    def again(what: str, number: int, total: int) -> None:
        with pytest.raises(SampleError, match="in use by another process"):
            done(folder, Working())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        done(folder, Working(progress=again))


def test_what_has_no_place_says_that_it_is_lost(folder):
    samples = open_samples(str(folder / "a.npz"), Making())
    reference = open_reference(str(folder / "b.npz"), samples, Making())
    with pytest.raises(
        StoppedEvaluation, match=f"after 256 of {NUMBER} samples; nothing is saved; use --out"
    ):
        measure(samples, reference, [features()], working=Working(stop=Times(1)))


def test_two_processes_measure_what_one_does(folder):
    start(shared, folder, done(folder, Working()))


def test_more_processes_than_chunks_measure_what_one_does(tmp_path):
    pixels = Stream(0).uniform(0, 255, 90, 8, 8, 1).numpy().astype(np.uint8)
    for name in ("a.npz", "b.npz"):
        np.savez(tmp_path / name, arr_0=pixels)
    start(few, tmp_path, done(tmp_path, Working()))
