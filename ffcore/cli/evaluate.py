"""`ffd evaluate`: how far samples are from a reference, beside all that the numbers depend on."""

from __future__ import annotations

import json
import os
import textwrap
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from ffcore.cli import options
from ffcore.cli.bars import Bars
from ffcore.cli.sample import labelling
from ffcore.files import require, write_text
from ffcore.solver import Method

if TYPE_CHECKING:
    from ffcore.interfaces import Features

_COLUMNS = 80


@click.command()
@click.argument("source")
@click.option(
    "--reference",
    "-r",
    "against",
    required=True,
    help="Samples as SOURCE has them, a recipe for its teacher, or a file of statistics.",
)
@click.option(
    "--features",
    "-f",
    "spaces",
    multiple=True,
    default=("inception",),
    show_default=True,
    metavar="NAME",
    help="""Feature space, or its table as in '{type="inception", weights="PATH"}'. May be """
    "repeated.",
)
@click.option(
    "--metrics",
    "-m",
    metavar="LIST",
    help="Of fd, kid, pr, classes, with commas between. [default: fd, and classes where features "
    "tell them]",
)
@click.option(
    "--number",
    "-n",
    type=click.IntRange(min=4),
    help="Of samples. [default: 50000; all of those that are there already]",
)
@click.option(
    "--labels",
    metavar="HOW",
    help="'balanced', 'random', or classes as in 0,3,7. [default: balanced, where there are "
    "classes]",
)
@click.option("--guidance", type=float, help="Guidance scale γ. [default: the recipe's]")
@click.option("--steps", type=click.IntRange(min=1), help="As ffd sample has them.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    help="Of noise and labels; a reference that is made takes the next one. [default: 0]",
)
@click.option("--teacher", is_flag=True, help="Judge the teacher of a recipe or run instead.")
@options.solver
@options.batch
@options.device
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to keep the result, as JSON.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier result there.")
@click.option(
    "--compare",
    "earlier",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A kept result to show beside; refused if it is of other conditions.",
)
@click.option("--json", "as_json", is_flag=True, help="Write the result as one JSON document.")
def evaluate(
    source: str,
    against: str,
    spaces: tuple[str, ...],
    metrics: str | None,
    number: int | None,
    labels: str | None,
    guidance: float | None,
    steps: int | None,
    seed: int | None,
    teacher: bool,
    solver: Method | None,
    batch: int,
    device: str,
    out: Path | None,
    overwrite: bool,
    earlier: Path | None,
    as_json: bool,
) -> None:
    """Measure how far the samples of SOURCE are from a reference.

    SOURCE is a run directory, an export, a student's file, with --teacher a recipe; or what ffd
    sample wrote, or others did: an .npz with arr_0, or a folder of pictures.

    Statistics are a run's reference.safetensors, or an .npz as published for ADM (mu, sigma,
    arr_0), which is in the features inception alone. Nothing is downloaded.

    To share the work, or to go on after an interruption, let ffd sample write an .npz, and
    evaluate that: the numbers are the same.
    """
    _refuse_several_processes()
    if solver is not None and not teacher:
        raise click.UsageError("--solver is the teacher's (--teacher): a student has none")
    tables = feature_tables(spaces)
    for table in tables:
        require(getattr(table, "files", ()))
    from ffcore import fidelity
    from ffcore.build import part, usable_device

    if out is not None:
        _check_place(out, overwrite)
    with part("--device"):
        place = usable_device(device)
    asked = fidelity.Making(
        number=number,
        seed=seed,
        labels=labelling(labels),
        guidance=guidance,
        steps=steps,
        solver=solver,
        teacher=teacher,
        batch=batch,
        device=device,
    )
    old = None if earlier is None else fidelity.read_result(earlier)
    samples = fidelity.open_samples(source, asked)
    reference = fidelity.open_reference(against, samples, asked)
    if not any(isinstance(each, fidelity.Made) for each in (samples, reference.samples)):
        asked.refuse("seed", "labels", "guidance")
    features = [built_features(table, place) for table in tables]
    chosen = _metrics(metrics, features)
    fidelity.check_metrics(chosen, features, reference)
    conditions = fidelity.conditions(samples, reference, features)
    if old is not None:
        assert earlier is not None
        fidelity.check_comparable(old["conditions"], conditions, earlier)
    names = ", ".join(each.name for each in features)
    with Bars(Console(stderr=True), told=time.monotonic()) as bars:
        found = fidelity.measure(
            samples,
            reference,
            features,
            chosen,
            device=place,
            progress=lambda what, done, total: bars.advance(what, done, total, names),
        )
    result = _result(found, conditions)
    if out is not None:
        write_text(out, json.dumps(result, indent=2) + "\n")
    if as_json:
        beside = None if old is None else {"file": str(earlier), "metrics": old["metrics"]}
        click.echo(json.dumps(result | {"compared_with": beside}))
    else:
        _show(result, old, earlier)


def _refuse_several_processes() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise click.UsageError(
            "evaluate is the work of one process: let `torchrun -m ffcore sample … -o samples.npz` "
            "share the sampling, and evaluate samples.npz"
        )


def _check_place(out: Path, overwrite: bool) -> None:
    """Raise UsageError where a result cannot be kept, before it is measured."""
    from ffcore.export import is_export, is_run

    folder = out.absolute().parent
    if out.exists() and not overwrite:
        raise click.UsageError(f"{out} exists: choose another place, or --overwrite")
    if not folder.is_dir():
        raise click.UsageError(f"there is no folder {folder} to keep a result in")
    if is_run(folder) or is_export(folder):
        raise click.UsageError(f"{folder} is a run's or an export's own: choose another place")


def feature_tables(spaces: tuple[str, ...]) -> list[Any]:
    """Return the tables of feature spaces, each by its name or as an inline table of TOML."""
    from ffcore.recipe import component

    found = []
    for text in spaces:
        try:
            tree = tomllib.loads(f"x = {text}")["x"] if text.startswith("{") else {"type": text}
        except tomllib.TOMLDecodeError as error:
            raise click.UsageError(f"--features {text} is no table: {error}") from None
        found.append(component("features", tree))
    return found


def built_features(table: Any, device: str) -> Features:
    """Return the features of a table, on a device."""
    from ffcore.build import made
    from ffcore.interfaces import Context, Features

    found: Features = made("features", table, Context(), Features)
    return found.to(device).eval()


def _metrics(text: str | None, features: list[Features]) -> tuple[str, ...]:
    from ffcore.interfaces import ClassFeatures

    if text is not None:
        return tuple(dict.fromkeys(each.strip() for each in text.split(",")))
    tell = any(isinstance(each, ClassFeatures) for each in features)
    return ("fd", "classes") if tell else ("fd",)


def _result(found: Any, conditions: Mapping[str, Any]) -> dict[str, Any]:
    import attrs

    return {
        "schema": 1,
        "metrics": {name: attrs.asdict(each) for name, each in found.features.items()},
        "conditions": dict(conditions),
        "notes": list(found.notes),
        "seconds": found.seconds,
    }


def _show(result: Mapping[str, Any], old: Mapping[str, Any] | None, earlier: Path | None) -> None:
    table = Table(box=None)
    table.add_column("features")
    table.add_column("")
    table.add_column("here", justify="right", style="bold")
    if old is not None:
        table.add_column(str(earlier), justify="right", overflow="fold")
    for name, metrics in result["metrics"].items():
        before = {} if old is None else old["metrics"].get(name, {})
        for title, value, then in _rows(metrics, before):
            table.add_row(name, title, value, *([then] if old is not None else []))
    Console().print(table)
    for name, metrics in result["metrics"].items():
        if metrics["classes"] is not None:
            _say("classes", f"({name}) {_classes(metrics['classes'])}")
    conditions, seconds = result["conditions"], result["seconds"]
    _say("samples", _described(conditions["samples"]))
    _say("reference", _described(conditions["reference"]))
    _say("networks", ", ".join(f"{n} {each[:12]}" for n, each in conditions["features"].items()))
    _say("seconds", ", ".join(f"{name} {each:.1f}" for name, each in seconds.items()))
    for note in result["notes"]:
        click.echo(textwrap.fill(f"note: {note}", _COLUMNS, subsequent_indent="  "), err=True)


def _rows(now: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield what was measured, its number here, and the earlier one."""
    for key, title in (
        ("fd", "Fréchet distance"),
        ("kid", "kernel distance × 1000"),
        ("precision", "precision"),
        ("recall", "recall"),
    ):
        if now[key] is not None:
            yield title, _number(key, now), _number(key, then)
    if now["classes"] is not None and now["classes"]["as_asked"] is not None:
        yield "read as asked", _share(now["classes"]), _share(then.get("classes") or {})


def _number(key: str, metrics: Mapping[str, Any]) -> str:
    value = metrics.get(key)
    if value is None:
        return "not there"
    if key == "kid":
        return f"{1000 * value:.4g} ± {1000 * metrics['kid_spread']:.2g}"
    return f"{value:.4g}"


def _share(classes: Mapping[str, Any]) -> str:
    share = classes.get("as_asked")
    return "not there" if share is None else f"{share:.2%}"


def _classes(found: Mapping[str, Any]) -> str:
    """Tell how samples are spread over the classes, and where they are not."""
    counts, missing = found["counts"], found["missing"]
    text = f"{len(counts) - len(missing)} of {len(counts)} are there"
    if missing:
        text += f", MISSING {', '.join(map(str, missing[:10]))}"
        text += f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    text += f"; the rarest is {counts.index(min(counts))} with {min(counts):,} samples, "
    text += f"the most frequent {counts.index(max(counts))} with {max(counts):,}"
    recall = [(share, c) for c, share in enumerate(found["recall"] or ()) if share is not None]
    if recall:
        text += f"; {min(recall)[1]} is the worst read as asked, {min(recall)[0]:.1%}"
    return text


def _described(record: Mapping[str, Any]) -> str:
    """Tell all that samples depend on, in one line."""
    number = f"{record['number']:,} of " if "number" in record else ""
    told = [f"{number}{record['source']}", *([record["kind"]] if "kind" in record else [])]
    for key, title in (
        ("seed", "seed"),
        ("labels", "labels"),
        ("guidance", "γ"),
        ("nfe", "NFE"),
        ("decoder", "decoder"),
        ("fingerprint", "fingerprint"),
        ("content", "file"),
    ):
        if key in record:
            told.append(f"{title} {_value(key, record[key])}")
    return ", ".join(told)


def _value(key: str, value: Any) -> str:
    if value is None:
        return "as many as it takes" if key == "nfe" else "unknown"
    if key == "guidance":
        return f"{value['scale']:g}"
    if key == "decoder":
        return str(value["type"])
    return value[:12] if key in ("fingerprint", "content") else str(value)


def _say(title: str, text: str) -> None:
    click.echo(
        textwrap.fill(
            text,
            _COLUMNS,
            initial_indent=f"{title:<11}",
            subsequent_indent=" " * 11,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )
