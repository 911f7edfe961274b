"""`ffd sample`: samples of a student, or of a teacher, on disk with their conditions."""

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


@click.command()
@click.argument("source")
@options.number("Number of samples.", default=16)
@options.labels
@options.seed("Seed of noise and labels; a sample's depend on seed and index alone.")
@options.guidance
@options.out(
    "Place of the samples: NAME.png for one picture, NAME.npz for one array file, any other NAME "
    "for a folder.",
    default="samples.png",
    show_default=True,
)
@options.overwrite("Replace what an earlier sampling left there.")
@options.teacher("Sample")
@options.solver()
@options.steps(
    "Number of steps of a student that starts anywhere [default: 1], or of the teacher's solver."
)
@options.batch
@options.device
@options.overrides("Override a key of the recipe; of a student, a key of its decoder.")
@options.as_json
@click.pass_context
def sample(
    ctx: click.Context,
    source: str,
    number: int,
    labels: str | None,
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
    as_json: bool,
) -> None:
    """Sample the student of SOURCE, in one step unless told otherwise, and keep the samples.

    What they depend on is kept beside them, with the label of each: in NAME.png.json, NAME.npz.json
    or, within a folder, samples.json.

    SOURCE is a run directory, an export, a student's file, or with --teacher a recipe. The same
    command again goes on with an interrupted sampling. Under `torchrun -m ffcore sample …` several
    processes share the work.
    """
    if not teacher and solver is not None:
        raise click.UsageError("--solver is the teacher's (--teacher): a student has none")
    from ffcore.export import is_export, is_run
    from ffcore.sample import SampleError, StoppedSampling, write_samples
    from ffcore.sample.load import load_sampler, load_teacher_sampler
    from ffcore.system.distributed import join_processes

    place = out.absolute().parent
    if is_run(place) or is_export(place):
        raise SampleError(f"{place} is a run's or an export's own directory: choose another place")
    sampler = (
        load_teacher_sampler(source, method=solver, steps=steps, device=device, overrides=overrides)
        if teacher
        else load_sampler(source, device=device, overrides=overrides)
    )
    asked = sampler.request(
        number,
        seed=seed,
        labels=labelling(labels),
        guidance=guidance,
        steps=None if teacher else steps,
    )
    leads = os.environ.get("RANK", "0") == "0"
    console = Console(stderr=True, quiet=not leads)
    begun = time.perf_counter()
    bars = Bars(console, told=time.monotonic())
    with join_processes() as processes, Signals() as signals, bars:
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
    """Return what --labels means: a word as it is, or classes."""
    try:
        return None if labels is None else [int(each) for each in labels.split(",")]
    except ValueError:
        return labels  # a word, which the sampler knows or refuses


def _show(
    sampler: Sampler, record: dict[str, Any], out: Path, seconds: float, as_json: bool
) -> None:
    if as_json:
        document = {"schema": 1, "out": str(out), "seconds": seconds, "conditions": record}
        click.echo(json.dumps(document))
        return
    shape = " × ".join(map(str, sampler.shape))
    nfe = "as many NFE as it takes" if record["nfe"] is None else f"{record['nfe']} NFE"
    what = "images" if sampler.makes_images else "samples"
    click.echo(f"{out}: {record['number']} {what} of {shape}, {record['kind']}, {nfe}")


class Reporter:
    """Tells how many samples there are, and how many more there are each second."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.begun = time.monotonic()
        self.before: int | None = None
        self.done = 0

    def progress(self, done: int, total: int) -> None:
        """Take how many samples there are, of how many."""
        now = time.monotonic()
        if self.before is None:  # those of an interrupted sampling cost no time
            self.before, self.begun = done, now
            if done:
                self.bars.say(f"going on after {done} of {total} samples")
            return
        if done == self.done:
            return
        self.done = done
        news = f"{(done - self.before) / max(now - self.begun, 1e-9):.1f}/s"
        self.bars.advance("sample", done, total, news)
