"""An export's README: what the student is, what it came from, what it reached, how to use it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from ffcore.plugins import installed
from ffcore.recipe import Recipe
from ffcore.recipe.tables import components
from ffcore.sample.sampler import IMAGE_CHANNELS

FREEFLOW = "Tong, Ma, Xie, Jaakkola: Flow Map Distillation Without Data, arXiv 2511.19428"

_LICENCES = {
    "mit": "mit",
    "apache-2.0": "apache-2.0",
    "apache 2.0": "apache-2.0",
    "cc-by-4.0": "cc-by-4.0",
    "cc by 4.0": "cc-by-4.0",
    "cc-by-nc-4.0": "cc-by-nc-4.0",
    "cc by-nc 4.0": "cc-by-nc-4.0",
    "cc0-1.0": "cc0-1.0",
    "bsd-3-clause": "bsd-3-clause",
    "openrail": "openrail",
}
"""What model hubs call a licence, by what people call it."""


def model_card(
    name: str,
    config: Mapping[str, Any],
    recipe: Recipe,
    evaluation: Mapping[str, Any] | None,
) -> str:
    """Return the README of an export, in Markdown with a header of YAML.

    Args:
        name: of the export.
        config: what the student's file says; see `describe`.
        recipe: of the run.
        evaluation: the run's evaluation.json; None where it was switched off.
    """
    return "\n".join(
        [
            *_header(config),
            "",
            f"# {name}",
            "",
            f"A student that makes a sample in one step. ffcore {config['ffcore']}, which "
            "implements [FreeFlow](https://arxiv.org/abs/2511.19428), distilled it from its "
            "teacher alone: no data were used.",
            "",
            *_use(name, config, recipe),
            "",
            *_origin(config),
            "",
            *_results(evaluation),
            "",
            "## Citation",
            "",
            *(f"- {each}" for each in _citations(recipe)),
            "",
        ]
    )


def _header(config: Mapping[str, Any]) -> Iterator[str]:
    yield "---"
    licence = config["teacher"].get("licence")
    if licence is not None:
        known = _LICENCES.get(licence.strip().lower())
        yield f"license: {known or 'other'}"
        if known is None:
            yield f"license_name: {json.dumps(licence)}"  # a JSON string is a YAML string
    yield "library_name: ffcore"
    yield "tags:"
    yield from (f"- {tag}" for tag in ("ffcore", "freeflow", "distillation", "flow-map"))
    yield from ("- one-step", "- data-free")
    yield "---"


def _use(name: str, config: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    shape = " × ".join(map(str, config["sample_shape"]))
    classes = (config["conditions"] or {}).get("classes")
    scale, low_high = config["guidance"]["scale"], config["guidance"]["range"]
    yield "## Use"
    yield ""
    yield (
        f"With Python ≥ 3.11 and {_installed(config, recipe)}, from the folder that this one is "
        "in. Neither the teacher nor the recipe is read."
    )
    yield ""
    yield "```python"
    yield "from ffcore import load_sampler"
    yield f"sampler = load_sampler({json.dumps(name, ensure_ascii=False)})"
    yield _sampled(config)
    yield "```"
    yield ""
    yield "```sh"
    yield f"ffd sample {shlex.quote(name)} -n 16 --out samples.png"
    yield "```"
    yield ""
    yield f"- samples: {shape} numbers; the decoder is `{config['decoder']['type']}`"
    yield f"- classes: {'none' if classes is None else f'0 to {classes - 1}; `labels=` chooses'}"
    if low_high is None:
        yield "- guidance: none" if scale == 1 else f"- guidance: built in, at scale {scale:g}"
    else:
        low, high = low_high
        yield (
            f"- guidance: `guidance=` chooses a scale from {low:g} to {high:g}; {scale:g} unless "
            "told otherwise"
        )

    files = getattr(recipe.decoder, "files", ())
    for file in {(each.key, each.origin, each.licence): each for each in files}.values():
        licence = f", licence {file.licence}" if file.licence else ""
        yield (
            f"- the decoder's files are not part of this: {file.origin or file.reference}{licence}."
            f" Where they lie elsewhere, `--set {file.key}=PATH` says so, in Python "
            f'`load_sampler(…, overrides=["{file.key}=PATH"])`'
        )


def _installed(config: Mapping[str, Any], recipe: Recipe) -> str:
    """Return what has to be installed to rebuild student and decoder."""
    claims = {
        role: installed().provider(role, table)
        for role, table in (("student", recipe.student), ("decoder", recipe.decoder))
    }
    brought = {
        f"`{config[role]['type'].partition(':')[0]}`" if claim is None else claim[0].distribution
        for role, claim in claims.items()
    }
    ours = f"ffcore {config['ffcore']} (`pip install .` in its source tree)"
    return " and ".join([ours, *sorted(brought - {"ffcore"})])


def _sampled(config: Mapping[str, Any]) -> str:
    """Return the line of Python that samples, with the shape of what comes out."""
    shape = config["sample_shape"]
    decoded = config["decoder"]["type"] != "identity"
    if decoded or (len(shape) == 3 and shape[0] in IMAGE_CHANNELS):
        size = "C, H, W" if decoded else ", ".join(map(str, shape))
        return f"images = sampler(16, seed=0)  # Float[16, {size}] in [−1, 1]"
    return f"samples = sampler(16, seed=0)  # Float[16, {', '.join(map(str, shape))}]"


def _origin(config: Mapping[str, Any]) -> Iterator[str]:
    teacher = config["teacher"]
    rows = {
        "teacher": teacher["type"],
        "model": teacher.get("model"),
        "weights": teacher.get("weights"),
        "origin": teacher.get("origin"),
        "licence": teacher.get("licence") or ("not stated" if teacher["sha256"] else None),
        **{f"SHA-256 of {name}": digest for name, digest in teacher["sha256"].items()},
        "fingerprint": teacher["fingerprint"],
        "recipe": f"`recipe.toml`, digest {config['recipe']}",
        "steps of training": config["step"],
    }
    yield "## Where it comes from"
    yield ""
    yield from (f"- {label}: {value}" for label, value in rows.items() if value is not None)
    if teacher["sha256"]:
        yield ""
        yield (
            "The student's weights derive from the teacher's. Whether you may use or share them, "
            "the teacher's licence says."
        )


def _results(evaluation: Mapping[str, Any] | None) -> Iterator[str]:
    yield "## Results"
    yield ""
    if evaluation is None:
        yield "The run was not evaluated."
        return
    distances = evaluation["distances"]
    if distances:
        yield "Fréchet distance to the teacher's converged samples:"
        yield ""
        yield from _table(distances)
        yield ""
    errors = evaluation["trajectory_error"]
    listed = ", ".join(f"{float(error):.3f} at {float(at):g}" for at, error in errors.items())
    yield f"Relative error of the flow map by δ: {listed}."
    yield ""
    yield "Measured under these conditions, and comparable under no others:"
    yield ""
    yield from (f"- {name}: {_inline(value)}" for name, value in evaluation["identity"].items())


def _table(distances: Mapping[str, Any]) -> Iterator[str]:
    found = list(distances.values())
    rows = {"this student, 1 step": [each["student"] for each in found]}
    for steps in found[0]["euler"]:
        label = f"teacher, {steps} Euler step{'' if steps == '1' else 's'}"
        rows[label] = [each["euler"][steps] for each in found]
    rows["noise floor (the teacher again)"] = [each["floor"] for each in found]
    yield f"| samples | {' | '.join(distances)} |"
    yield "|---" * (1 + len(found)) + "|"
    for label, values in rows.items():
        yield f"| {label} | {' | '.join(f'{value:.4g}' for value in values)} |"


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_inline(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_inline, value))
    return str(value)


def _citations(recipe: Recipe) -> list[str]:
    """Return what the method and the components of a recipe ask to be cited, each once."""
    claims = (installed().provider(role, table) for role, table in components(recipe))
    found = [claim[1].citation for claim in claims if claim is not None]
    return list(dict.fromkeys([FREEFLOW, *filter(None, found)]))
