"""An export's README: the student, how to use it, its origin and its results."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ffcore.interfaces import SHOWN, ConditionSource, Labels, Unconditional, is_image
from ffcore.plugins import installed
from ffcore.recipe import Recipe, needed_files
from ffcore.recipe.tables import components
from ffcore.system.files import File

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
"""The names of licences on model hubs, by their common names."""

_MARKS = re.compile(r"[\\`*\[\]<>|!]")
"""What Markdown reads as code, emphasis, a link, a picture, HTML or a column of a table."""


def model_card(
    name: str,
    config: Mapping[str, Any],
    recipe: Recipe,
    conditions: ConditionSource,
    evaluation: Mapping[str, Any] | None,
) -> str:
    """Return the README of an export, in Markdown with a header of YAML.

    Args:
        name: of the export.
        config: the student's description; see `describe`.
        recipe: the export's.
        conditions: the student's.
        evaluation: the run's evaluation.json; None if it was switched off or has yet to come.
    """
    return "\n".join(
        [
            *_header(config, recipe),
            "",
            f"# {_as_text(name)}",
            "",
            f"This student makes {'an image' if _makes_images(config) else 'a sample'} in one "
            f"step. ffcore {config['ffcore']} distilled it {_from_what(recipe)}. Method: "
            f"{_method(recipe)}.",
            "",
            *_use(name, config, recipe, conditions),
            "",
            *_origin(config, recipe),
            "",
            *_results(evaluation),
            "",
            "## Citation",
            "",
            *(f"- {each}" for each in _citations(recipe)),
            "",
        ]
    )


def _as_text(value: object) -> str:
    """Return a value from a file as one line of Markdown that shows it, without links or HTML."""
    return _MARKS.sub(r"\\\g<0>", " ".join(str(value).split()))


def _from_what(recipe: Recipe) -> str:
    if recipe.data is None:
        return "from its teacher, without data"
    return f"from its teacher and data, `{installed().type_name('data', recipe.data)}`"


def _method(recipe: Recipe) -> str:
    """Return the objectives of a recipe, each with its plugin's summary, if there is one."""
    objectives = []
    for role, table in _objectives(recipe):
        claim = installed().provider(role, table)
        summary = "" if claim is None else f" ({claim[1].summary})"
        objectives.append(f"{role} `{installed().type_name(role, table)}`{summary}")
    return " and ".join(objectives)


def _objectives(recipe: Recipe) -> list[tuple[str, Any]]:
    both = [("predictor", recipe.predictor), ("corrector", recipe.corrector)]
    return [(role, table) for role, table in both if table is not None]


def _header(config: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    yield "---"
    licence = config["teacher"].get("licence")
    if licence is not None:
        known = _LICENCES.get(licence.strip().lower())
        yield f"license: {known or 'other'}"
        if known is None:
            yield f"license_name: {json.dumps(licence)}"  # a JSON string is a YAML string
    yield "library_name: ffcore"
    yield "tags:"
    claims = (installed().provider(role, table) for role, table in _objectives(recipe))
    methods = [claim[1].name for claim in claims if claim is not None]
    yield from (f"- {tag}" for tag in ("ffcore", *methods, "distillation", "flow-map"))
    yield from ("- one-step", *(["- data-free"] if recipe.data is None else []))
    yield "---"


def _use(
    name: str, config: Mapping[str, Any], recipe: Recipe, conditions: ConditionSource
) -> Iterator[str]:
    scale, low_high = config["guidance"]["scale"], config["guidance"]["range"]
    files: dict[str, tuple[File, ...]] = {
        role: getattr(getattr(recipe, role), "files", ()) for role in ("decoder", "conditions")
    }
    yours = [f"{key}=PATH" for each in files.values() for key in _keys_to_set(each)]
    options = f", overrides={json.dumps(yours)}" if yours else ""
    if own := _own_classes(config):
        options += ", trust=True"
    out = f"samples.{'png' if _makes_images(config) else 'npz'}"
    yield "## Use"
    yield ""
    yield (
        f"Install Python ≥ 3.11 and {_installation(config, recipe)}. Run this from the parent "
        "folder of the export. The teacher and the recipe are not needed"
        + (", but the files that replace PATH are." if yours else ".")
    )
    if own:
        yield ""
        yield (
            f"This student needs code of its own: {', '.join(own)}. Put it where Python finds it, "
            "and read it before you trust it."
        )
    yield ""
    yield "```python"
    yield "from ffcore import load_sampler"
    yield f"sampler = load_sampler({json.dumps(name, ensure_ascii=False)}{options})"
    yield _sampling(config)
    yield "```"
    yield ""
    yield "```sh"
    command = ["ffd", "sample", name, *(word for each in yours for word in ("--set", each))]
    command += ["--trust"] if own else []
    yield f"{shlex.join(command)} -n 16 --out {out}"
    yield "```"
    yield ""
    yield f"- {_samples(config)}"
    yield f"- steps: {_steps(config)}"
    yield _conditions(conditions, recipe)
    if low_high is None:
        yield "- guidance: none" if scale == 1 else f"- guidance: built in, at scale {scale:g}"
    else:
        low, high = low_high
        yield (
            f"- guidance: `guidance=` selects a scale from {low:g} to {high:g}; {scale:g} by "
            "default"
        )
    for role, each in files.items():
        yield from _files(role, each, config.get(f"{role}_sha256", {}))


def _own_classes(config: Mapping[str, Any]) -> list[str]:
    """Return the classes outside plugins that a sampler of this student imports."""
    trees = (config.get(role) or {} for role in ("student", "decoder", "conditions"))
    kinds = [tree["type"] for tree in trees if "type" in tree]
    return [f"`{kind}`" for kind in kinds if installed().is_outside(kind)]


def _conditions(source: ConditionSource, recipe: Recipe) -> str:
    """Return how to choose the conditions of samples."""
    if isinstance(source, Unconditional):
        return "- classes: none"
    if isinstance(source, Labels):
        return f"- classes: 0 to {source.classes - 1}; `labels=` selects them"
    kind = installed().type_name("conditions", recipe.conditions)
    if not source.names:
        return (
            f"- conditions: `{kind}`, drawn by default; `conditions=` selects any that have names"
        )
    some = ", ".join(f"`{each}`" for each in source.names[:SHOWN])
    more = f" and {len(source.names) - SHOWN} more" if len(source.names) > SHOWN else ""
    return (
        f"- conditions: `{kind}`; `conditions=` or `--condition` selects them by name: {some}{more}"
    )


def _steps(config: Mapping[str, Any]) -> str:
    """Return the numbers of steps that the student was trained for."""
    if config.get("starts_at") == "anywhere":
        return "1 by default; trained for 1, 2, 4, or any other number (`steps=`)"
    return "1; the student was trained for one step only"


def _samples(config: Mapping[str, Any]) -> str:
    """Describe the student's samples, and what its decoder turns them into."""
    size = _times(config["sample_shape"])
    kind, decoded = config["decoder"]["type"], config.get("decoded_shape")
    if kind != "identity":
        what = "images" if _makes_images(config) else "arrays"
        shape = f" of shape {_times(decoded)}" if decoded else ""
        return (
            f"samples: the student makes latents of shape {size}, which the decoder `{kind}` turns "
            f"into {what}{shape}"
        )
    if len(config["sample_shape"]) == 1:
        return f"samples: vectors of {size} numbers"
    if _makes_images(config):
        return f"samples: images of shape {size}, without a decoder"
    return f"samples: arrays of shape {size}, without a decoder"


def _files(role: str, files: tuple[File, ...], digests: Mapping[str, str]) -> Iterator[str]:
    """Yield the files of the decoder or the conditions, and how to name them."""
    if not files:
        return
    origins = "; ".join(dict.fromkeys(map(_origin_of, files)))
    yours = [f"{key}=PATH" for key in dict.fromkeys(file.key for file in files)]
    where = "Name your copies" if _keys_to_set(files) else "If yours are elsewhere, name them"
    yield (
        f"- the files of the {role} are not included; they come from {origins}. {where}: `--set "
        f"{' --set '.join(yours)}`, in Python `overrides={json.dumps(yours)}`"
    )
    for name, digest in digests.items():
        yield f"  - SHA-256 of {name}: {digest}"


def _origin_of(file: File) -> str:
    stated = file.reference if ":" in file.reference else "a file of its author"
    return (file.origin or stated) + (f", licence {file.licence}" if file.licence else "")


def _keys_to_set(files: Iterable[File]) -> list[str]:
    """Return the keys of files that only the user can find: those named by a path."""
    return list(dict.fromkeys(file.key for file in files if ":" not in file.reference))


def _makes_images(config: Mapping[str, Any]) -> bool:
    """Whether decoded samples are images; a decoder's are by default."""
    if config["decoder"]["type"] == "identity":
        return is_image(config["sample_shape"])
    decoded = config.get("decoded_shape")
    return decoded is None or is_image(decoded)


def _times(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))


def _installation(config: Mapping[str, Any], recipe: Recipe) -> str:
    """Return the packages needed to rebuild student, decoder and conditions."""
    roles = ("student", "decoder", *(["conditions"] if recipe.conditions is not None else []))
    claims = {role: installed().provider(role, getattr(recipe, role)) for role in roles}
    brought = {
        f"`{config[role]['type'].partition(':')[0]}`" if claim is None else claim[0].distribution
        for role, claim in claims.items()
    }
    ours = f"ffcore {config['ffcore']} (`pip install .` in its source tree)"
    return " and ".join([ours, *sorted(brought - {"ffcore"})])


def _sampling(config: Mapping[str, Any]) -> str:
    """Return the line of Python that samples, with the shape of its result."""
    shape = config["sample_shape"]
    if config["decoder"]["type"] != "identity":
        shape = config.get("decoded_shape") or ("C", "H", "W")
    size = ", ".join(map(str, (16, *shape)))
    if _makes_images(config):
        return f"images = sampler(16, seed=0)  # Float[{size}] in [−1, 1]"
    return f"samples = sampler(16, seed=0)  # Float[{size}]"


def _origin(config: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    teacher = config["teacher"]
    keys = _keys_to_set(needed_files(recipe))
    by_path = any(":" not in name for name in teacher["sha256"])
    rows = {
        "teacher": teacher["type"],
        "model": teacher.get("model"),
        "weights": teacher.get("weights"),
        "origin": teacher.get("origin") or ("not stated" if by_path else None),
        "licence": teacher.get("licence") or ("not stated" if teacher["sha256"] else None),
        **{f"SHA-256 of {name}": digest for name, digest in teacher["sha256"].items()},
        "fingerprint": teacher["fingerprint"],
        "recipe": f"`recipe.toml`, digest {config['recipe']}",
        "training steps": _trained(config["step"], recipe),
    }
    yield "## Origin"
    yield ""
    yield from (
        f"- {label}: {value if label == 'recipe' else _as_text(value)}"
        for label, value in rows.items()
        if value is not None
    )
    if keys:
        yield ""
        yield (
            "The files that `recipe.toml` names are not included. To run it, name your copies: "
            f"{' and '.join(f'`--set {key}=PATH`' for key in keys)}."
        )
    if teacher["sha256"]:
        yield ""
        yield (
            "The student's weights derive from the teacher's. The teacher's licence says whether "
            "you may use or share them."
        )


def _trained(step: int, recipe: Recipe) -> str:
    planned = recipe.training.steps
    return f"{step}" if step == planned else f"{step} of {planned}"


def _results(evaluation: Mapping[str, Any] | None) -> Iterator[str]:
    yield "## Results"
    yield ""
    if evaluation is None:
        yield "This student was not evaluated."
        return
    for each in evaluation["verdict"].values():
        sentence = _as_text(each["sentence"])
        yield f"**{sentence[:1].upper()}{sentence[1:]}.**"
        yield ""
    for name, measures in evaluation["measures"].items():
        yield f"In features {_as_text(name)}, with intervals of 95 % from independent draws:"
        yield ""
        yield from _standings(measures)
        yield ""
    distances = evaluation["distances"]
    if distances:
        yield "Fréchet distance of all samples to the teacher's converged samples:"
        yield ""
        yield from _table(distances)
        yield ""
    errors = evaluation["trajectory_error"]
    listed = ", ".join(
        f"{found['value']:.3f} ± {found['high'] - found['value']:.3f} at {float(at):g}"
        if found is not None
        else f"undefined at {float(at):g}, where the teacher moves nothing"
        for at, found in errors.items()
    )
    yield (
        f"Relative error of the flow map by δ, over {evaluation['trajectories']:,} noises: "
        f"{listed}."
    )
    yield ""
    yield "Compare these numbers only with others measured under the same conditions:"
    yield ""
    yield from (
        f"- {_as_text(name)}: {_inline(value)}" for name, value in evaluation["identity"].items()
    )


def _standings(measures: Mapping[str, Any]) -> Iterator[str]:
    found = list(measures.values())
    yield f"| samples | {' | '.join(_as_text(each['title']) for each in found)} |"
    yield "|---" * (1 + len(found)) + "|"
    for steps in found[0]["student"]:
        made = f"this student, {steps} step{'' if str(steps) == '1' else 's'}"
        row = (each["student"][steps] for each in found)
        yield _row(made, (f"{e['value']:.4g} ± {e['high'] - e['value']:.2g}" for e in row))
        yield _row("worth, in Euler steps", (each["worth"][steps]["text"] for each in found))
    for steps in found[0]["euler"]:
        label = f"teacher, {steps} Euler step{'' if str(steps) == '1' else 's'}"
        yield _row(label, (f"{each['euler'][steps]['value']:.4g}" for each in found))
    yield _row("teacher, converged", (f"{each['floor']['value']:.4g}" for each in found))


def _row(label: str, cells: Iterable[str]) -> str:
    return f"| {label} | {' | '.join(map(_as_text, cells))} |"


def _table(distances: Mapping[str, Any]) -> Iterator[str]:
    found = list(distances.values())
    rows = {"this student, 1 step": [each["student"] for each in found]}
    for steps in found[0].get("student_steps", {}):
        rows[f"this student, {steps} steps"] = [each["student_steps"][steps] for each in found]
    for steps in found[0]["euler"]:
        label = f"teacher, {steps} Euler step{'' if steps == '1' else 's'}"
        rows[label] = [each["euler"][steps] for each in found]
    rows["noise floor (teacher against itself)"] = [each["floor"] for each in found]
    yield f"| samples | {' | '.join(map(_as_text, distances))} |"
    yield "|---" * (1 + len(found)) + "|"
    for label, values in rows.items():
        yield f"| {label} | {' | '.join(f'{value:.4g}' for value in values)} |"


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_as_text(name)} {_inline(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_inline, value))
    return _as_text(value)


def _citations(recipe: Recipe) -> list[str]:
    """Return the citations of a recipe's components, the method's first, each once."""
    tables = [*_objectives(recipe), *components(recipe)]
    claims = (installed().provider(role, table) for role, table in tables)
    found = [claim[1].citation for claim in claims if claim is not None]
    return list(dict.fromkeys(filter(None, found)))
