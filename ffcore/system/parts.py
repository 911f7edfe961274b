"""Parts of a checkpoint: the raw weights of training, their averages (EMAs), and the rest.

A training checkpoint holds several sets of weights under names of its author's choice. Every name
that ffcore knows stands here. An average is preferred. If two sets answer, ffcore does not guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

AVERAGES = frozenset({"ema", "swa", "shadow", "average", "averaged"})
"""Words of which one in a name marks an average: `model_ema`, `params_ema`, `emaModel`."""
NOT_AVERAGES = frozenset({"online", "raw", "non"})
"""Words of which one in a name marks raw weights, also inside an average: `online_model`, where
`ema` holds both, and `non_ema`."""
RAW = frozenset(
    {
        *("model", "state_dict", "model_state_dict", "module", "net", "network", "params"),
        *("weights", "generator", "denoiser", "transformer", "unet"),
    }
)
"""Whole names, without a number at the end, that mark raw weights."""
COUNTERS = frozenset(
    {
        *("decay", "min_decay", "num_updates", "n_averaged", "initted", "step", "steps"),
        *("optimization_step", "global_step", "epoch"),
    }
)
"""Numbers that averages and training scripts keep among the tensors of a network."""
_TRAINING = re.compile(r"(?:.*_)?opt(?:im)?s?|.*optimizer.*|.*scheduler.*")
"""Names of what holds tensors under the names of weights but is never a network."""
_LISTED = 8

PartPath: TypeAlias = tuple[str, ...]
"""Keys that lead to a part; empty for a file that holds one network and nothing else."""


class PartError(ValueError):
    """No part, or several, can be meant. The message continues the name of the file."""


def label(path: PartPath) -> str:
    """Return a part as `part` names it: keys with dots between."""
    return ".".join(path)


def kind(path: PartPath) -> Literal["average", "raw", "other"]:
    """Return what the keys that lead to a part say it is; inner keys come first."""
    for name in reversed(path):
        words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
        if words & NOT_AVERAGES:
            return "raw"
        if words & AVERAGES:
            return "average"
    known = any(re.sub(r"[-_.]?\d+$", "", name.lower()) in RAW for name in path)
    return "raw" if known else "other"


def is_of_training(name: str) -> bool:
    """Whether a key holds an optimizer's or a scheduler's state."""
    return _TRAINING.fullmatch(name.lower()) is not None


def choose(sizes: Mapping[PartPath, int]) -> PartPath:
    """Return the part to read: the only average, or else the only raw weights.

    Args:
        sizes: number of tensors of each part.

    Raises PartError if there is none or if several are possible.
    """
    if len(sizes) == 1 and () in sizes:
        return ()
    for wanted, words in (("average", "averages (EMAs)"), ("raw", "sets of raw weights")):
        found = [path for path in sizes if kind(path) == wanted]
        if len(found) == 1:
            return found[0]
        if found:
            listed = listing({path: sizes[path] for path in found})
            raise PartError(f"holds {len(found)} {words}: {listed}. {name_one(found)}")
    raise PartError(
        f"holds no average and no raw weights under a name that ffcore knows, but "
        f"{listing(sizes)}. {name_one(sizes)}"
    )


def asked(sizes: Mapping[PartPath, int], part: str) -> list[PartPath]:
    """Return the parts that `part` names: itself, or those inside it."""
    exact = [path for path in sizes if label(path) == part]
    return exact or [path for path in sizes if label(path).startswith(f"{part}.")]


def listing(sizes: Mapping[PartPath, int]) -> str:
    """Return parts and their numbers of tensors, for messages."""
    shown = list(sizes.items())[:_LISTED]
    parts = [f"{label(path) or 'the whole'} ({count(size)})" for path, size in shown]
    more = [f"{len(sizes) - _LISTED} more"] if len(sizes) > _LISTED else []
    return ", ".join(parts + more)


def count(size: int) -> str:
    """Return a number of tensors, in words."""
    return "1 tensor" if size == 1 else f"{size} tensors"


def name_one(paths: Iterable[PartPath]) -> str:
    """Return the sentence that says how to choose a part."""
    first = next(iter(paths), None)
    return f'Name one with part, as in part = "{label(first)}"' if first else ""
