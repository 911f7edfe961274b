"""An export's README: what the student is, what it came from, what it reached, how to use it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ffcore.plugins import installed
from ffcore.recipe import Recipe
from ffcore.recipe.tables import components

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
            "A student that makes a sample in one step, distilled by "
            f"[ffcore](https://arxiv.org/abs/2511.19428) {config['ffcore']} from its teacher "
            "alone: no data were used.",
            "",
            *_use(name, config),
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


def _use(name: str, config: Mapping[str, Any]) -> Iterator[str]:
    shape = " × ".join(map(str, config["sample_shape"]))
    classes = (config["conditions"] or {}).get("classes")
    scale, low_high = config["guidance"]["scale"], config["guidance"]["range"]
    yield "## Use"
    yield ""
    yield "From the folder that this one is in:"
    yield ""
    yield "```python"
    yield "from ffcore import load_sampler"
    yield f"sampler = load_sampler({json.dumps(name, ensure_ascii=False)})"
    yield "images = sampler(16, seed=0)  # float, [16, C, H, W] in [−1, 1]"
    yield "```"
    yield ""
    yield "```sh"
    yield f"ffd sample {name}"
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


def _origin(config: Mapping[str, Any]) -> Iterator[str]:
    teacher = config["teacher"]
    rows = {
        "teacher": teacher["type"],
        "model": teacher.get("model"),
        "weights": teacher.get("weights"),
        "origin": teacher.get("origin"),
        "licence": teacher.get("licence"),
        **{f"SHA-256 of {name}": digest for name, digest in teacher["sha256"].items()},
        "fingerprint": teacher["fingerprint"],
        "recipe": f"`recipe.toml`, digest {config['recipe']}",
        "steps of training": config["step"],
    }
    yield "## Where it comes from"
    yield ""
    yield from (f"- {label}: {value}" for label, value in rows.items() if value is not None)
    yield ""
    yield (
        "The student's weights derive from the teacher's. Whether you may use or share them, the "
        "teacher's licence says."
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
