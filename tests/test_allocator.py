"""Freed memory stays while a run goes on, and goes back when it ends."""

import subprocess
import sys

import pytest

TELL = """
import ctypes, os, resource
from contextlib import nullcontext
import torch
from ffcore.allocator import keeping

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

faults()
without = faults()
with keeping():
    # A block is aligned: the first ones freed are too short by the room that this takes.
    within = min(faults() for _ in range(8))
    with keeping():
        faults()
    within = max(within, faults())  # the inner one has given nothing back
    held = resident()
after = resident()
print(without, within, held - after, faults())
"""


def told(**variables: str) -> list[int]:
    """Return pages taken anew by 64 MiB: before, within, after; third, the bytes given back."""
    run = subprocess.run(
        [sys.executable, "-c", TELL], env=variables, capture_output=True, text=True, check=True
    )
    return [int(each) for each in run.stdout.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_a_block_taken_again_needs_no_new_pages_and_goes_back_at_the_end() -> None:
    without, within, given_back, after = told()
    assert without >= 30  # huge pages make 32 of them
    assert within < without / 4
    assert given_back > 2**25
    assert after > without / 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_a_user_s_own_choice_stands() -> None:
    without, within, _, _ = told(MALLOC_ARENA_MAX="2")
    assert within > without / 4
