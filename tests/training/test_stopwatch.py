"""The seconds of named sections, on a CPU and on a device that runs behind."""

import time

import pytest
import torch

from ffcore.training.stopwatch import Stopwatch


def test_the_seconds_of_a_section_add_up_until_they_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 0.0
    monkeypatch.setattr("ffcore.training.stopwatch.time.perf_counter", lambda: clock)
    watch = Stopwatch()
    for _ in range(2):
        with watch("first"):
            clock += 0.25
        clock += 8  # between sections
        with watch("second"):
            clock += 1
    assert list(watch.read().items()) == [("first", 0.5), ("second", 2)]
    assert watch.read() == {}


def test_a_section_that_fails_is_not_counted() -> None:
    watch = Stopwatch()
    with pytest.raises(ValueError, match="no"), watch("failing"):
        raise ValueError("no")
    assert watch.read() == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_sections_are_the_devices_time_and_nothing_waits_for_it() -> None:
    watch, factor = Stopwatch("cuda"), torch.randn(4096, 4096, device="cuda")
    with watch("warm-up"):
        factor @ factor
    watch.read()
    begun = time.perf_counter()
    for _ in range(20):
        with watch("product"):
            for _ in range(10):
                factor @ factor
    asked = time.perf_counter() - begun
    found = watch.read()["product"]
    took = time.perf_counter() - begun
    assert asked < 0.5 * found
    assert 0.8 * took < found <= took
