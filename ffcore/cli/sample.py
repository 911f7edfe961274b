"""`ffd sample`: samples of a student or a teacher, saved with their conditions."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ffcore.cli import options
from ffcore.cli.bars import Bars
from ffcore.cli.signals import Signals
from ffcore.flow.solver import Method

if TYPE_CHECKING:
    from ffcore.sample import Labelling, Sampler


_EXAMPLES = (
    "\b\nExamples:\n"
    "  ffd sample runs/digits -n 64 --labels 3,7 -o samples.npz\n"
    "  ffd sample digits.toml --teacher -o teacher.png\n"
)


@click.command(epilog=_EXAMPLES)
@click.argument("source")
@options.number("Number of samples.", default=16)
@options.labels
@options.condition
@options.seed(
    "Seed of noise and conditions; those of a sample depend only on the seed and its index."
)
@options.guidance
@options.out(
    "Output path: NAME.png for one picture, NAME.npz for one array file, any other NAME for a "
    "folder.",
    default="samples.png",
    show_default=True,
)
@options.overwrite("Replace the files of an earlier sampling at --out.")
@options.teacher("Sample")
@options.solver()
@options.steps(
    "Number of steps of a student with starts_at = 'anywhere' [default: 1], or of the teacher's "
    "solver [default: the recipe's]."
)
@options.batch
@options.device
@options.overrides(
    "Override a key of the recipe; for a student, only of its decoder and its conditions."
)
@options.trust
@options.as_json
@click.pass_context
def sample(
    ctx: click.Context,
    source: str,
    number: int,
    labels: str | None,
    condition: tuple[str, ...],
    seed: int,
    guidance: float | None,
    out: Path,
    overwrite: bool,
    teacher: bool,
    solver: Method | None,
    steps: int | None,
    batch: int,
    device: str,
    overrides: tuple[str, ...],
    trust: bool,
    as_json: bool,
) -> None:
    """Sample the student of SOURCE, in one step by default, and save the samples.

    Their settings, and the condition of each, are saved with them: in NAME.png.json, NAME.npz.json
    or, within a folder, samples.json.

    SOURCE is a run directory, one of its checkpoints, an export, a student file, or a recipe with
    --teacher. Of an unfinished run, the newest whole checkpoint is sampled. To resume an
    interrupted sampling, run the same command again. To use several processes, run `torchrun -m
    ffcore sample …`.
    """
    if not teacher and solver is not None:
        raise click.UsageError("--solver needs --teacher: a student has no solver")
    from ffcore.export import is_export, is_run
    from ffcore.sample import SampleError, StoppedSampling, write_samples
    from ffcore.sample.load import load_sampler, load_teacher_sampler
    from ffcore.system.distributed import join_processes

    place = out.absolute().parent
    if is_run(place) or is_export(place):
        raise SampleError(f"{place} is the directory of a run or an export: choose another path")
    sampler = (
        load_teacher_sampler(
            source, method=solver, steps=steps, device=device, overrides=overrides, trust=trust
        )
        if teacher
        else load_sampler(source, device=device, overrides=overrides, trust=trust)
    )
    asked = sampler.request(
        number,
        seed=seed,
        labels=labelling(labels),
        conditions=condition or None,
        guidance=guidance,
        steps=None if teacher else steps,
    )
    leads = os.environ.get("RANK", "0") == "0"
    console = Console(stderr=True, quiet=not leads)
    begun = time.perf_counter()
    bars = Bars(console, told=time.monotonic())
    signals = Signals("the current batch, which is saved")
    with join_processes() as processes, signals, bars:
        try:
            write_samples(
                sampler,
                asked,
                out,
                batch=batch,
                overwrite=overwrite,
                processes=processes,
                progress=Reporter(bars).progress,
                stop=signals.stop,
            )
        except StoppedSampling as stopped:
            bars.say(str(stopped))
            ctx.exit(signals.code)
    if leads:
        _show(sampler, sampler.record(asked), out, time.perf_counter() - begun, as_json)


def labelling(labels: str | None) -> Labelling | None:
    """Return the value of --labels: a word, or a list of classes."""
    try:
        return None if labels is None else [int(each) for each in labels.split(",")]
    except ValueError:
        return labels  # the sampler refuses an unknown word


def _show(
    sampler: Sampler, record: dict[str, Any], out: Path, seconds: float, as_json: bool
) -> None:
    if as_json:
        document = {"schema": 1, "out": str(out), "seconds": seconds, "conditions": record}
        click.echo(json.dumps(document))
        return
    shape = " × ".join(map(str, sampler.shape))
    nfe = "adaptive NFE" if record["nfe"] is None else f"{record['nfe']} NFE"
    what = "images" if sampler.makes_images else "samples"
    click.echo(f"{out}: {record['number']} {what} of {shape}, {record['kind']}, {nfe}")


class Reporter:
    """Shows the number of samples, and samples per second."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.begun = time.monotonic()
        self.before: int | None = None
        self.done = 0

    def progress(self, done: int, total: int) -> None:
        """Take the progress: `done` samples of `total`."""
        now = time.monotonic()
        if self.before is None:  # resumed samples take no time
            self.before, self.begun = done, now
            if done:
                self.bars.say(f"resuming after {done} of {total} samples")
            return
        if done == self.done:
            return
        self.done = done
        news = f"{(done - self.before) / max(now - self.begun, 1e-9):.1f}/s"
        self.bars.advance("sample", done, total, news)
