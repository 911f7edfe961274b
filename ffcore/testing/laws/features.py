"""Laws of features."""

from __future__ import annotations

from typing import Any

import torch

from ffcore.interfaces import ClassFeatures
from ffcore.testing.answers import arguments
from ffcore.testing.case import SIZE, Case
from ffcore.testing.law import ask_only_where, law, require


@law("features", 1)
def has_a_name(case: Case, live: Any) -> None:
    """`name` is a nonempty string; it identifies the distances."""
    del case
    name = getattr(live, "name", None)
    require(isinstance(name, str) and name.strip(), f"name is {name!r}")


@law("features", 2)
def gives_vectors(case: Case, live: Any) -> None:
    """Features are finite floats, one vector for each sample."""
    with torch.no_grad():
        found = live(*arguments(case, live))
    require(found.ndim == 2 and len(found) == SIZE, f"{tuple(found.shape)} for {SIZE} samples")
    require(found.is_floating_point(), f"features are {found.dtype}")
    require(found.isfinite().all(), "features are not finite")


@law("features", 5)
def distinguishes_samples(case: Case, live: Any) -> None:
    """Different samples have different features. Otherwise every distance is the same."""
    with torch.no_grad():
        found = live(*arguments(case, live))
    require(bool((found != found[:1]).any()), "every sample has the same features")


@law("features", 6)
def reads_one_of_its_classes(case: Case, live: Any) -> None:
    """A classifier's features have a finite logit for each class, and `classify` returns the
    class of the largest."""
    ask_only_where(isinstance(live, ClassFeatures), "it has no classes")
    classes = getattr(live, "classes", 0)
    known = classes is None or (isinstance(classes, int) and classes > 1)
    require(known, f"classes is {classes!r}")
    samples = arguments(case, live)
    with torch.no_grad():
        found = live.logits(live(*samples))
        read = live.classify(*samples)
    require(found.ndim == 2 and len(found) == SIZE, f"{tuple(found.shape)} for {SIZE} samples")
    require(
        found.shape[1] == (classes or found.shape[1]), f"{found.shape[1]} for {classes} classes"
    )
    require(found.is_floating_point(), f"logits are {found.dtype}")
    require(found.isfinite().all(), "logits are not finite")
    require(read.tolist() == found.argmax(1).tolist(), "a sample's class is not its largest logit")
