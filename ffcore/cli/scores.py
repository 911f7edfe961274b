"""The result of an evaluation as tables on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ffcore.evaluate.evaluator import Evaluation
    from ffcore.evaluate.verdict import Standing

_COLUMNS = 80


def show_scores(result: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> None:
    """Print a result, beside the metrics and the file name of an earlier one, if given."""
    table = Table(box=None)
    table.add_column("features")
    table.add_column("")
    table.add_column("here", justify="right", style="bold")
    if earlier is not None:
        table.add_column(earlier["file"], justify="right", overflow="fold")
    for name, metrics in result["metrics"].items():
        before = {} if earlier is None else earlier["metrics"].get(name, {})
        for title, value, then in _rows(metrics, before):
            table.add_row(name, title, value, *([then] if earlier is not None else []))
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
    """Yield the name of each metric, its value, and the earlier value."""
    for key, title in (
        ("fd", "Fréchet distance"),
        ("inception_score", "Inception Score"),
        ("kid", "kernel distance × 1000"),
        ("precision", "precision"),
        ("recall", "recall"),
    ):
        if now.get(key) is not None:
            yield title, _number(key, now), _number(key, then)
    if now["classes"] is not None and now["classes"]["as_asked"] is not None:
        yield "class accuracy", _share(now["classes"]), _share(then.get("classes") or {})


def _number(key: str, metrics: Mapping[str, Any]) -> str:
    value = metrics.get(key)
    if value is None:
        return "missing"
    if key == "kid":
        return f"{1000 * value:.4g} ± {1000 * metrics['kid_spread']:.2g}"
    if key == "inception_score":
        return f"{value:.4g} ± {metrics['inception_score_spread']:.2g}"
    return f"{value:.4g}"


def _share(classes: Mapping[str, Any]) -> str:
    share = classes.get("as_asked")
    return "missing" if share is None else f"{share:.2%}"


def _classes(found: Mapping[str, Any]) -> str:
    """Describe how samples are spread over the classes, and which classes are missing."""
    counts, missing = found["counts"], found["missing"]
    text = f"{len(counts) - len(missing)} of {len(counts)} occur"
    if missing:
        text += f", MISSING {', '.join(map(str, missing[:10]))}"
        text += f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    text += f"; the rarest is {counts.index(min(counts))} with {min(counts):,} samples, "
    text += f"the most frequent {counts.index(max(counts))} with {max(counts):,}"
    recall = [(share, c) for c, share in enumerate(found["recall"] or ()) if share is not None]
    if recall:
        text += f"; {min(recall)[1]} has the lowest accuracy, {min(recall)[0]:.1%}"
    return text


def _described(record: Mapping[str, Any]) -> str:
    """Return the conditions of samples, in one line."""
    number = f"{record['number']:,} of " if "number" in record else ""
    told = [f"{number}{record['source']}", *([record["kind"]] if "kind" in record else [])]
    for key, title in (
        ("seed", "seed"),
        ("labels", "labels"),
        ("conditions", "conditions"),
        ("guidance", "γ"),
        ("nfe", "NFE"),
        ("decoder", "decoder"),
        ("fingerprint", "fingerprint"),
        ("content", "file"),
    ):
        if key in record:
            if key == "labels" and record.get("conditions") is not None:
                continue
            none = key == "labels" and record[key] is None and record.get("fingerprint") is not None
            told.append(f"{title} {'none' if none else _value(key, record[key])}")
    return ", ".join(told)


def _value(key: str, value: Any) -> str:
    if value is None:
        return "adaptive" if key == "nfe" else "unknown"
    if key == "guidance":
        return f"{value['scale']:g}"
    if key == "decoder":
        return str(value["type"])
    if key == "conditions":
        chosen = value["chosen"]
        return chosen if isinstance(chosen, str) else ", ".join(map(repr, chosen))
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


def show_evaluation(evaluation: Evaluation) -> None:
    """Print a run's own evaluation: all measures in each feature space, trajectory errors."""
    out = Console()
    for name, measures in evaluation.measures.items():
        out.print(_standings(name, measures))
        out.print()
    if evaluation.distances and not (evaluation.measures and _whole(evaluation)):
        out.print(_distances(evaluation))
        out.print()
    errors = Table(
        title=f"Trajectory error by δ, {evaluation.trajectories:,} noises, ± 95 %",
        title_justify="left",
        box=None,
    )
    for delta in evaluation.trajectory_error:
        errors.add_column(f"{delta:g}", justify="right")
    found = evaluation.trajectory_error.values()
    errors.add_row(*(f"{each.value:.3g}" if each else "undefined" for each in found))
    around = (f"± {each.high - each.value:.1g}" if each else "" for each in found)
    errors.add_row(*around, style="dim")
    out.print(errors)
    if evaluation.solver_error is not None:
        click.echo(f"The teacher's solver itself errs by {evaluation.solver_error:.2g} at δ = 1.")


def _whole(evaluation: Evaluation) -> bool:
    """Whether the measures are of all samples."""
    from ffcore.evaluate.distribution import MOST

    return int(evaluation.identity["samples"]) <= MOST


def say_verdict(evaluation: Evaluation) -> None:
    """Print the verdict on each number of steps."""
    for each in evaluation.verdict.values():
        sentence = each.sentence[0].upper() + each.sentence[1:]
        click.echo("\n" + textwrap.fill(f"{sentence}.", _COLUMNS, break_on_hyphens=False))


def say_advice(directory: Path) -> None:
    """Print what to do next, after a run in a directory."""
    from ffcore.report import advice, read_records

    (record,) = read_records([directory])
    for sentence in advice(record):
        click.echo(textwrap.fill(f"Next: {sentence}.", _COLUMNS, break_on_hyphens=False))


def say_alarms(alarms: Sequence[Mapping[str, Any]]) -> None:
    """Print the alarms of a run, each with its step."""
    for each in alarms:
        sentence = f"Alarm at step {each['step']:,}: {each['sentence']}."
        click.echo("\n" + textwrap.fill(sentence, _COLUMNS, break_on_hyphens=False))


def _standings(features: str, measures: Mapping[str, Standing]) -> Table:
    """Return the student among its teacher's samples, in all measures."""
    table = Table(
        title=f"Features {features}", title_justify="left", box=None, padding=(0, 1, 0, 0)
    )
    # Short words on the left: seven measures must fit into 80 columns.
    table.add_column("samples", no_wrap=True)
    found = [*measures.values()]
    for each in found:
        title = each.title.replace("-", " ")
        table.add_column(title, justify="right", min_width=max(map(len, title.split())))
    for steps in found[0].student:
        row = [each.student[steps] for each in found]
        table.add_row(_steps("student", steps), *(f"{e.value:.3g}" for e in row), style="bold")
        table.add_row("", *(f"± {e.high - e.value:.1g}" for e in row), style="dim")
        places = (each.worth[steps].text for each in found)
        table.add_row("worth, steps", *places, style="bold")
    for steps in found[0].euler:
        table.add_row(_steps("Euler", steps), *(f"{each.euler[steps].value:.3g}" for each in found))
    table.add_row("converged", *(f"{each.floor.value:.3g}" for each in found))
    return table


def _steps(whose: str, number: int) -> str:
    return f"{whose}, {number} step{'s' if number > 1 else ''}"


def _distances(evaluation: Evaluation) -> Table:
    table = Table(title="Fréchet distance of all samples", title_justify="left", box=None)
    table.add_column("samples")
    for name in evaluation.distances:
        table.add_column(name, justify="right")
    first = next(iter(evaluation.distances.values()))
    rows: list[tuple[str, Any]] = [
        (_steps("student", 1), lambda each: each.student),
        *(
            (_steps("student", steps), lambda each, steps=steps: each.student_steps[steps])
            for steps in first.student_steps
        ),
        *(
            (_steps("Euler", steps), lambda each, steps=steps: each.euler[steps])
            for steps in first.euler
        ),
        ("teacher, converged", lambda each: each.floor),
    ]
    for title, value in rows:
        style = "bold" if title.startswith("student") else ""
        cells = [f"{value(each):.4g}" for each in evaluation.distances.values()]
        table.add_row(title, *cells, style=style)
    return table
