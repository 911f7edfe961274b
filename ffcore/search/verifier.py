"""Verifiers: functions that score images. This module checks their scores."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ffcore.interfaces import Condition
from ffcore.plugins import PluginError, import_object
from ffcore.plugins.place import describe_error
from ffcore.system.faults import OutOfMemory

Function = Callable[[Tensor, Condition], Tensor]
"""(images, condition) -> scores, Float[B]. The images are decoded, Float[B, C, H, W] in [−1, 1], or
samples Float[B, *S] without a decoder. Higher is better. Each score depends only on its own image
and condition, not on the batch."""


class VerifierError(PluginError):
    """A verifier failed or returned no valid scores. The message is for the user."""


class Verifier:
    """A named function that scores images.

    Args:
        function: see Function.
        name: its name in reports; by default `module:function`.
    """

    def __init__(self, function: Function, name: str | None = None) -> None:
        self.function = function
        self.name = name or _name(function)

    @staticmethod
    def load(name: str) -> Verifier:
        """Return the verifier `module:function`; the current folder is searched too.

        Raises BrokenPlugin if it cannot be imported or called, VerifierError for another form.
        """
        module, _, function = name.partition(":")
        if not (module and function):
            raise VerifierError(f"verifier {name!r} is not of the form module:function")
        return Verifier(import_object(name, f"verifier {name!r}"), name)

    @torch.no_grad()
    def __call__(self, images: Tensor, condition: Condition) -> Tensor:
        """Return the scores, Float[B], in float64 on the CPU.

        Raises VerifierError if the function fails, with the place in it, or if it does not return
        a finite number for each image.
        """
        try:
            scores = self.function(images, condition)
        except (torch.OutOfMemoryError, OutOfMemory):
            raise
        except Exception as error:
            raise VerifierError(f"verifier {self.name} failed: {describe_error(error)}") from error
        found = scores.detach().cpu().double() if isinstance(scores, Tensor) else None
        if found is None or found.shape != (len(images),):
            what = type(scores).__name__ if found is None else f"a tensor {tuple(found.shape)}"
            raise VerifierError(
                f"verifier {self.name} returned {what} for {len(images)} images: it must return a "
                f"tensor ({len(images)},), one score for each"
            )
        bad = (~found.isfinite()).nonzero()
        if len(bad):
            raise VerifierError(
                f"verifier {self.name} returned {float(found[bad[0]])} for an image (row "
                f"{int(bad[0])} of {len(images)}): a score must be finite"
            )
        return found


def _name(function: Function) -> str:
    kind = type(function)
    name = getattr(function, "__qualname__", kind.__qualname__)
    return f"{getattr(function, '__module__', kind.__module__)}:{name}"
