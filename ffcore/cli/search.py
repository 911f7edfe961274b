"""`ffd search`: a student searches the noise, a verifier chooses, the teacher renders the best."""

from __future__ import annotations

import json
import math
import os
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from ffcore.cli import options
from ffcore.cli.bars import Bars
from ffcore.cli.evaluate import built_features, feature_tables
from ffcore.cli.sample import labelling
from ffcore.flow.solver import Method
from ffcore.system.files import require

if TYPE_CHECKING:
    from ffcore.evaluate import Reference
    from ffcore.sample import Request, Sampler
    from ffcore.search import Comparison

_COLUMNS = 80
_ARMS = {
    "searched": "best, rendered",
    "teacher": "teacher alone",
    "student": "student's best",
}


class Numbers(click.ParamType[tuple[int, ...]]):
    """Comma-separated whole numbers of at least 1."""

    name = "LIST"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return them in order, each once; a usage error for anything else."""
        try:
            found = sorted({int(each) for each in str(value).split(",")})
        except ValueError:
            found = [0]
        if found[0] < 1:
            self.fail(f"{value!r} must be whole numbers of at least 1, as in 4,16,64", param, ctx)
        return tuple(found)


_EXAMPLES = "\b\nExample:\n  ffd search runs/digits -v module:function -f digits -o search\n"


@click.command(epilog=_EXAMPLES)
@click.argument("source")
@click.option(
    "--verifier",
    "-v",
    required=True,
    metavar="MODULE:FUNCTION",
    help="Function that scores candidates: (images, condition) -> scores, higher is better.",
)
@click.option(
    "--judge",
    "-j",
    "judges",
    multiple=True,
    metavar="MODULE:FUNCTION",
    help="Verifier that scores the chosen images but does not choose. May be repeated.",
)
@options.number("Number of images.", default=100)
@click.option(
    "--candidates",
    "-N",
    default="4,16,64",
    show_default=True,
    type=Numbers(),
    help="Numbers of candidates per image, comma-separated; one search serves them all.",
)
@click.option(
    "--teacher",
    "of_teacher",
    metavar="RECIPE",
    help="Recipe or run whose teacher renders. [default: SOURCE; required for an export]",
)
@options.solver("Fixed-step solver of the teacher; dopri5 is refused. [default: the recipe's]")
@click.option(
    "--teacher-steps",
    default=8,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of solver steps that render the best candidate.",
)
@options.labels
@options.condition
@options.guidance
@options.seed("Seed of noise and labels; the first candidates are the noise of ffd sample.")
@options.features(
    "Feature space for Fréchet distances, and for class accuracy if it classifies. May be repeated."
)
@options.reference("Reference of the distances, as in ffd evaluate. [default: the run's]")
@options.batch
@options.device
@options.overrides("Override a key of the teacher's recipe, or of the decoder.")
@options.out(
    "Directory for search.json, search.png, examples.png, and the images of the largest N."
)
@options.overwrite("Replace an earlier search at --out.")
@options.trust
@options.as_json
def search(
    source: str,
    verifier: str,
    judges: tuple[str, ...],
    number: int,
    candidates: tuple[int, ...],
    of_teacher: str | None,
    solver: Method | None,
    teacher_steps: int,
    labels: str | None,
    condition: tuple[str, ...],
    guidance: float | None,
    seed: int,
    spaces: tuple[str, ...],
    against: str | None,
    batch: int,
    device: str,
    overrides: tuple[str, ...],
    out: Path | None,
    overwrite: bool,
    trust: bool,
    as_json: bool,
) -> None:
    """Search the noise with the student of SOURCE and render the best with its teacher.

    For each image the student makes N candidates, with one network evaluation each. The verifier
    scores them, and the teacher follows its flow from the noise of the best.

    For comparison, ffd also shows the teacher alone, in as many steps as the same number of
    evaluations allows, and the student's best candidate. With one candidate nothing is searched:
    the teacher starts from random noise.

    SOURCE is a run directory, or an export with --teacher.

    The verifier's own score is biased by the selection. Use --judge and --features for independent
    measures.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise click.UsageError("ffd search runs in one process: start it without torchrun")
    if against is not None and not spaces:
        raise click.UsageError("--reference needs --features")
    tables = feature_tables(spaces)
    for table in tables:
        require(getattr(table, "files", ()))
    from ffcore.sample.load import load_sampler, load_teacher_sampler
    from ffcore.search import Verifier, check_alike, check_free, compare, keep

    if out is not None:
        check_free(out, overwrite=overwrite)
    chooses, *told = [Verifier.load(each) for each in (verifier, *judges)]
    teacher = load_teacher_sampler(
        of_teacher or source,
        method=solver,
        steps=teacher_steps,
        device=device,
        overrides=overrides,
        trust=trust,
    )
    of_student = [each for each in overrides if each.startswith(("decoder.", "conditions."))]
    student = load_sampler(source, device=device, overrides=of_student, trust=trust)
    asked = student.request(
        number,
        seed=seed,
        labels=labelling(labels),
        conditions=condition or None,
        guidance=guidance,
    )
    check_alike(student, teacher, asked)
    features = [built_features(table, teacher.device) for table in tables]
    named = of_teacher or source
    reference = _reference(against, named, student, asked, trust) if features else None
    begun = time.perf_counter()
    with Bars(Console(stderr=True), told=time.monotonic()) as bars:
        found = compare(
            student,
            teacher,
            chooses,
            asked,
            candidates,
            judges=told,
            features=features,
            reference=reference,
            batch=batch,
            progress=lambda what, done, total: bars.advance(what, done, total, "evaluations"),
        )
    conditions = {
        "verifier": chooses.name,
        "judges": [each.name for each in told],
        "student": student.record(asked),
        "teacher": teacher.record(asked),
        "reference": None if reference is None else dict(reference.record),
    }
    result = _result(found, conditions, time.perf_counter() - begun)
    if out is not None:
        keep(out, found, student, teacher, result, batch=batch)
    if as_json:
        click.echo(json.dumps(result))
    else:
        _show(result, out)


def _reference(
    against: str | None, source: str, student: Sampler, asked: Request, trust: bool
) -> Reference:
    """Return the reference of the distances: the one named, or that of the run or recipe."""
    from ffcore.evaluate import Made, Making, open_reference
    from ffcore.evaluate.evaluator import REFERENCE
    from ffcore.export import RECIPE
    from ffcore.recipe import load_recipe, load_stored

    if against is None:
        own = Path(source) / REFERENCE
        if own.is_file():
            against = str(own)
        elif Path(source).is_dir():
            against = load_stored(Path(source) / RECIPE, trust=trust).evaluation.reference
        else:
            against = load_recipe(source).evaluation.reference
    if against is None:
        raise click.UsageError(f"{source} has no reference for --features: name one by --reference")
    making = Making(
        conditions=asked.conditions, guidance=asked.guidance, device=student.device, trust=trust
    )
    return open_reference(against, Made(student, asked), making)


def _result(found: Comparison, conditions: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    import attrs

    return {
        "schema": 1,
        "rows": [attrs.asdict(row) for row in found.rows],
        "conditions": dict(conditions),
        "notes": list(found.notes),
        "seconds": seconds,
    }


def _show(result: Mapping[str, Any], out: Path | None) -> None:
    rows, conditions = result["rows"], result["conditions"]
    first = rows[0]["searched"]
    for name in first["scores"]:
        part = "verifier" if name == conditions["verifier"] else "judge"
        _table(f"{name} ({part}): mean ± standard error", rows, ("scores", name), _score)
    for name, each in first["features"].items():
        _table(f"Fréchet distance ({name})", rows, ("features", name), _fd)
        if (each["classes"] or {}).get("as_asked") is not None:
            _table(f"Class accuracy ({name})", rows, ("features", name), _read)
    teacher, student = conditions["teacher"], conditions["student"]
    steps = ", ".join(str(each) for each in dict.fromkeys(row["teacher"]["steps"] for row in rows))
    scale = teacher["guidance"]["scale"]
    _say(
        f"{student['number']} images, seed {student['seed']}, γ {scale:g}. NFE counts network "
        f"evaluations per image. The teacher renders the best in {first['steps']} steps of "
        f"{teacher['solver']['method']}; the teacher alone takes {steps} steps."
    )
    for note in result["notes"]:
        click.echo(textwrap.fill(f"note: {note}", _COLUMNS, subsequent_indent="  "), err=True)
    if out is not None:
        click.echo(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def _table(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    place: tuple[str, str],
    told: Callable[[Mapping[str, Any]], str],
) -> None:
    """Print one value of each arm; `told` formats it."""
    kind, key = place
    click.echo(title)
    table = Table(box=None)
    table.add_column("N", justify="right")
    for arm in _ARMS.values():
        table.add_column("NFE", justify="right")
        table.add_column(arm, justify="right", no_wrap=True, min_width=len("best, rendered"))
    for row in rows:
        arms = [row[name] for name in _ARMS]
        cells = ((str(arm["nfe"]), told(arm[kind][key])) for arm in arms)
        table.add_row(str(row["candidates"]), *(cell for pair in cells for cell in pair))
    Console().print(table)
    click.echo()


def _score(score: Mapping[str, Any]) -> str:
    """Return a mean, rounded to the second digit of its error."""
    mean, error = score["mean"], score["error"]
    if not error:
        return f"{mean:.4g}" if error is None else f"{mean:.4g} ± 0"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def _fd(found: Mapping[str, Any]) -> str:
    return f"{found['fd']:.4g}"


def _read(found: Mapping[str, Any]) -> str:
    return f"{found['classes']['as_asked']:.2%}"


def _say(text: str) -> None:
    click.echo(textwrap.fill(text, _COLUMNS, break_long_words=False, break_on_hyphens=False))
