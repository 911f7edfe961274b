"""One-step sampling beside a bare forward of its network, and the memory of many samples.

    python benchmarks/speed/sampling.py [--case digits] [--case S/2@128] [--rounds 15]

A batch of samples, from their numbers to images in memory: noise and labels, the student's one
forward, the decoder, the check that all is finite. Beside it the student's forward alone, on noise
that is there. They take turns in one process, where freed memory stays (ffcore.system.allocator).
Images per second ÷ those of the forward alone is what counts, as ratio.py has it.

Then a small network writes 5,000 and 50,000 images of 3 × 64 × 64 (586 MiB) to an .npz, each in a
process of its own, whose greatest resident memory is told (Linux).
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import click
import torch
from cases import distillation
from ratio import Ratio
from timing import in_turn, machine, own_process, seconds, table

from ffcore.interfaces import Labels
from ffcore.nn.size import TransformerSize
from ffcore.nn.student import TransformerStudent
from ffcore.nn.transformer import Transformer
from ffcore.nn.velocity import TransformerVelocity
from ffcore.sample.sampler import Sampler, StudentSampler
from ffcore.sample.writing import write_samples
from ffcore.system.allocator import keep_freed_memory
from ffcore_exact.decoder import Identity
from ffcore_sit.velocity import SiTPreconditioning

GAMMA = 2.0


def sampler(case: str) -> Sampler:
    """Return a sampler of a case's student, for any guidance scale."""
    run = distillation(case)
    shape, conditions = run.teacher.sample_shape, run.teacher.conditions
    mapped = StudentSampler(run.student.eval(), shape, conditions, scale=GAMMA, range=(1.0, 3.0))
    return Sampler(mapped, Identity())


def rate(case: str, batch: int, rounds: int) -> dict[str, list[float]]:
    """Return the images per second of sampling, and of the network alone, by round."""
    images = sampler(case)
    asked = images.request(10**6)
    assert isinstance(images.generator, StudentSampler)
    student = images.generator.student
    z, condition = images.noise(asked, 0, batch), images.condition(asked, 0, batch)
    ones = torch.ones(batch)

    def bare() -> None:
        with torch.no_grad():
            student(z, ones, ones, condition)

    cases = {"sampling": lambda: images.images(asked, 0, batch), "network": bare}
    taken = in_turn(cases, max(rounds, int(2 / seconds(bare))), warm=3)
    return {name: [batch / each for each in times] for name, times in taken.items()}


def memory(number: int) -> float:
    """Return the most memory, in MiB, that a process takes which writes so many samples."""
    with tempfile.TemporaryDirectory() as folder:
        return own_process(__file__, "--write", str(number), folder)


def write(number: int, folder: Path) -> None:
    """Write images of a small network, and print the most memory this took."""
    size = TransformerSize(
        input_size=64, patch_size=16, channels=3, width=64, depth=1, heads=1, classes=10
    )
    student = TransformerStudent(TransformerVelocity(Transformer(size), SiTPreconditioning()))
    images = Sampler(StudentSampler(student, size.sample_shape, Labels(10)), Identity())
    write_samples(images, images.request(number), folder / "samples.npz")
    status = Path("/proc/self/status").read_text()
    (most,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    print(int(most.split()[1]) / 2**10)


@click.command()
@click.option("--case", "cases", multiple=True, default=("digits", "S/2@128"))
@click.option("--rounds", default=15, show_default=True)
@click.option("--batch", default=64, show_default=True)
@click.option("--write", "writing", type=(int, Path), hidden=True)
def main(cases: tuple[str, ...], rounds: int, batch: int, writing: tuple[int, Path] | None) -> None:
    """Measure, and print a table."""
    if writing:
        return write(*writing)
    print(f"# One-step sampling beside its network alone\n\nBatch {batch}, {machine()}.\n")
    row = table("", "images / s", "network alone", "ratio")
    with keep_freed_memory():
        for case in cases:
            rates = rate(case, batch, rounds)
            each = (f"{statistics.median(rates[name]):.0f}" for name in ("sampling", "network"))
            row(case, *each, f"**{Ratio.of(rates['sampling'], rates['network']):.3f}**")
    few, many = memory(5_000), memory(50_000)
    print(f"\nThe most memory that writing takes: {few:.0f} MiB for 5,000, {many:.0f} for 50,000.")
    return None


if __name__ == "__main__":
    main()
