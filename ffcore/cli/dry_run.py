"""`ffd run --dry-run`: the cost of a recipe, on stdout. No file is written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING, Any

import attrs
import click
from rich.console import Console
from rich.table import Table

from ffcore.recipe import Recipe

if TYPE_CHECKING:
    from ffcore.cost import Cost, Memory, Pass

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def dry_run(recipe: Recipe, gpus: int, *, as_json: bool) -> None:
    """Print the cost of a recipe on `gpus` GPUs, in tables or as one JSON document."""
    from ffcore.cost import Cost

    cost = Cost.of(recipe, gpus)
    if as_json:
        click.echo(json.dumps(document(cost), indent=2))
        return
    out = Console(highlight=False)
    out.print(f"{cost.steps:,} steps of {cost.batch:,} samples, {gpus} GPU{'s' * (gpus > 1)}")
    out.print(_networks(cost))
    out.print(_memory(cost))
    out.print(
        "Exact. The last column is for sharding: every tensor is split along its first dimension "
        f"into {gpus}. In the other columns every GPU holds everything."
    )
    out.print(_activations(cost))
    out.print(
        "Activations that a forward pass stores for its backward pass, with fused attention and "
        "without activation checkpointing. The networks run one after the other. Temporary "
        "buffers come on top."
    )
    out.print(_flops(cost))
    out.print(
        "Matrix products, convolutions and attention, as torch executes them. Sample counts are "
        f"means over the run. The whole run takes {_scaled(cost.run_flops)}FLOP."
    )
    for each in cost.preparation:
        out.print(
            f"Of these, each process spends {_scaled(each.flops)}FLOP before the first step "
            f"({each.network}, {each.kind}, {each.rows:,.0f} samples)."
        )
    out.print(f"\nTeacher's reference sampler ({recipe.evaluation.solver.method}): {_nfe(cost)}")
    out.print(f"Student: 1 NFE, {_scaled(cost.student_row)}FLOP a sample")
    out.print("\nThis was a dry run: nothing was trained or written.")


def document(cost: Cost) -> dict[str, Any]:
    """Return the cost as one JSON document; bytes and FLOPs are numbers without prefix."""
    return {
        "schema": 1,
        "gpus": cost.gpus,
        "networks": [
            {
                "name": each.name,
                "parameters": each.parameters,
                "trainable": each.trainable,
                "memory": {"whole": _bytes(each.whole), "sharded": _bytes(each.sharded)},
            }
            for each in cost.networks
        ],
        "memory": {
            "whole": _bytes(cost.memory(sharded=False)),
            "sharded": _bytes(cost.memory(sharded=True)),
        },
        "activations_estimate": [
            {
                "network": each.network,
                "samples": each.rows,
                "float32": each.float32,
                "bfloat16": each.bfloat16,
            }
            for each in cost.activations
        ],
        "step": {
            "batch": cost.batch,
            "flops": cost.flops,
            "passes": _passes(cost.passes),
        },
        "preparation": _passes(cost.preparation),
        "run": {"steps": cost.steps, "flops": cost.run_flops},
        "sampler": {
            "teacher": {
                "nfe": "adaptive" if cost.teacher_nfe is None else cost.teacher_nfe,
                "flops_per_evaluation": cost.teacher_row,
            },
            "student": {"nfe": 1, "flops_per_evaluation": cost.student_row},
        },
    }


def _passes(passes: Iterable[Pass]) -> list[dict[str, Any]]:
    return [
        {
            "part": each.part,
            "network": each.network,
            "kind": each.kind,
            "rows": each.rows,
            "flops": each.flops,
        }
        for each in passes
    ]


def _bytes(memory: Memory) -> dict[str, int]:
    return attrs.asdict(memory) | {"total": memory.total}


def _networks(cost: Cost) -> Table:
    table = _table("Parameters", "network", "total", "trainable")
    for each in cost.networks:
        table.add_row(each.name, f"{each.parameters:,}", f"{each.trainable:,}")
    return table


def _memory(cost: Cost) -> Table:
    columns = ("network", "weights", "gradients", "AdamW", "EMA", "total", "sharded")
    table = _table("Memory of one GPU, in bytes", *columns)
    held = [(each.name, each.whole, each.sharded) for each in cost.networks]
    both = cost.memory(sharded=False), cost.memory(sharded=True)
    for name, whole, sharded in [*held, ("all", *both)]:
        parts = (whole.weights, whole.gradients, whole.optimizer, whole.ema, whole.total)
        style = "bold" if name == "all" else ""
        table.add_row(name, *map(_scaled, (*parts, sharded.total)), style=style)
    return table


def _activations(cost: Cost) -> Table:
    columns = ("network", "samples", "float32", "bfloat16")
    table = _table("Activations of one GPU (estimate)", *columns)
    for each in cost.activations:
        table.add_row(each.network, f"{each.rows:,}", _scaled(each.float32), _scaled(each.bfloat16))
    return table


def _flops(cost: Cost) -> Table:
    table = _table("FLOPs of one step", "part", "samples", "FLOP", "share")

    def share(flops: float) -> str:
        return f"{flops / cost.flops:.1%}" if cost.flops else "-"

    for part, passes in groupby(cost.passes, key=lambda each: each.part):
        table.add_row(part)
        for each in passes:
            name, rows = f"  {each.network}, {each.kind}", f"{each.rows:,.1f}".removesuffix(".0")
            table.add_row(name, rows, _scaled(each.flops), share(each.flops))
    table.add_row("all", f"{cost.batch:,}", _scaled(cost.flops), share(cost.flops), style="bold")
    return table


def _nfe(cost: Cost) -> str:
    if cost.teacher_nfe is None:
        return "adaptive NFE"
    return f"{cost.teacher_nfe:,} NFE, {_scaled(cost.teacher_nfe * cost.teacher_row)}FLOP a sample"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", box=None)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def _scaled(number: float) -> str:
    """Return three significant digits and the SI prefix, or a space: "2.70 G", "0 "."""
    power = 0
    while number >= 999.5 and power + 1 < len(PREFIXES):
        number, power = number / 1000, power + 1
    digits = f"{number:#.3g}".removesuffix(".") if number else "0"
    return f"{digits} {PREFIXES[power]}"
