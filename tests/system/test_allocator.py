"""Freed memory stays while a run goes on, and goes back when it ends."""

import subprocess
import sys

import pytest

TELL = """
import ctypes, os, resource
from contextlib import nullcontext
import torch
from ffcore.system.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**22)  # 16 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

# A block is aligned: the first ones freed are too short by the room that this takes.
with keep_freed_memory():
    rounds = [faults() for _ in range(40)]
    with keep_freed_memory():
        pass
    within = min(rounds[-8:] + [faults()])
    held = resident()
print(max(rounds), within, held - resident())
"""


def told(**variables: str) -> list[int]:
    """Return pages taken anew by 16 MiB, at first and again and again; and the bytes given back."""
    run = subprocess.run(
        [sys.executable, "-c", TELL], env=variables, capture_output=True, text=True, check=True
    )
    return [int(each) for each in run.stdout.split()]


LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")


@LINUX
def test_a_block_taken_again_needs_no_new_pages_and_goes_back_at_the_end() -> None:
    first, again, given_back = told()
    assert first >= 8  # of 2 MiB, if they are huge
    assert again < first / 4
    assert given_back > 2**23


@LINUX
def test_a_user_s_own_choice_stands() -> None:
    first, again, _ = told(MALLOC_MMAP_THRESHOLD_="100000")
    assert again > first / 4
