"""Accumulates moments and features while samples pass through feature spaces.

The Fréchet distance needs only moments, which are streamed. The kernel distance, precision, recall
and the Inception Score need the features of all samples, which are stored, 4 bytes a number. A
process can store the state of its part, and the process of the previous part can add it. So several
processes share the work, and an interrupted evaluation can resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from ffcore.evaluate.metrics import Moments, Statistics
from ffcore.evaluate.stored import EvaluationError
from ffcore.interfaces import ClassFeatures, Features


@attrs.frozen(eq=False)
class State:
    """The accumulated state of the samples from `start` on, to send and to store."""

    start: int
    done: int
    """The first sample not yet seen."""
    brightest: float
    tensors: Mapping[str, Tensor]


class Space:
    """The accumulator of samples in one feature space.

    Args:
        features: the space.
        stored: statistics of the reference, if there are any.
        keeps: whether to store features: all, or the first so many.
        reads: whether to predict classes, if the features can.
    """

    def __init__(
        self,
        features: Features,
        stored: Statistics | None = None,
        *,
        keeps: bool | int = False,
        reads: bool = False,
    ) -> None:
        self.features = features
        self.stored = stored
        self.moments = Moments()
        self.kept: list[Tensor] | None = [] if keeps else None
        self.most = None if keeps is True else keeps
        has_classes = isinstance(features, ClassFeatures) and features.classes is not None
        self.read: list[Tensor] | None = [] if reads and has_classes else None

    @torch.no_grad()
    def look(self, samples: Tensor, start: int) -> tuple[Tensor, Tensor | None]:
        """Return the features of samples, and their classes; `start` is the first index."""
        try:
            found: Tensor = self.features(samples)
        except (ValueError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise EvaluationError(
                f"features {self.features.name} cannot take samples of shape "
                f"{tuple(samples.shape[1:])}: {error}"
            ) from error
        if self.stored is not None and len(self.stored.mu) != found.shape[1]:
            raise EvaluationError(
                f"features {self.features.name} have {found.shape[1]} dimensions, but the stored "
                f"statistics have {len(self.stored.mu)}: they come from another network"
            )
        bad = (~found.isfinite()).any(1).nonzero()
        if len(bad):
            raise EvaluationError(
                f"features {self.features.name} of sample {start + int(bad[0])} are not finite"
            )
        if self.read is None:
            return found.cpu(), None
        assert isinstance(self.features, ClassFeatures)
        return found.cpu(), self.features.logits(found).argmax(1).cpu()

    def take(self, features: Tensor, classes: Tensor | None) -> None:
        """Add the results of `look`."""
        before = self.moments.count
        self.moments.add(features)
        if self.kept is not None and (self.most is None or before < self.most):
            self.kept.append(features[: None if self.most is None else self.most - before])
        if self.read is not None:
            assert classes is not None
            self.read.append(classes)

    def all_kept(self) -> Tensor:
        """Return the features of all samples, Float[N, D]."""
        assert self.kept is not None
        self.kept[:] = [torch.cat(self.kept)]
        return self.kept[0]

    def tensors(self) -> dict[str, Tensor]:
        """Return the accumulated tensors."""
        if self.moments.count == 0:
            return {}
        found = {
            "count": torch.tensor(self.moments.count),
            "mean": self.moments.mean,
            "scatter": self.moments.scatter,
        }
        for name, parts in (("kept", self.kept), ("read", self.read)):
            if parts is not None:
                parts[:] = [torch.cat(parts)]
                found[name] = parts[0]
        return found

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """Add another accumulator's tensors, of the samples that follow."""
        if not tensors:
            return
        self.moments.join(int(tensors["count"]), tensors["mean"], tensors["scatter"])
        for name, parts in (("kept", self.kept), ("read", self.read)):
            if parts is not None:
                parts.append(tensors[name])


class Accumulated:
    """The accumulators of samples from `start` on, in some feature spaces."""

    def __init__(self, spaces: Sequence[Space], start: int = 0) -> None:
        self.spaces = {each.features.name: each for each in spaces}
        self.start = self.done = start
        self.brightest = -1.0
        """The largest number in any sample; of images, −1 is black."""
        self.taken_up = False
        """Whether a part comes from before an interruption."""

    def state(self) -> State:
        """Return the accumulated state."""
        tensors = {
            f"{name}/{part}": each
            for name, space in self.spaces.items()
            for part, each in space.tensors().items()
        }
        return State(self.start, self.done, self.brightest, tensors)

    def join(self, state: State) -> None:
        """Add the state of the samples that follow."""
        assert state.start == self.done
        self.done = state.done
        self.brightest = max(self.brightest, state.brightest)
        for name, space in self.spaces.items():
            prefix = f"{name}/"
            space.join(
                {
                    part.removeprefix(prefix): each
                    for part, each in state.tensors.items()
                    if part.startswith(prefix)
                }
            )

    def notes(self, what: str) -> list[str]:
        """Return the notes about all samples."""
        return [
            f"{self.done} {what} in {space.moments.dimension} dimensions ({name}): their "
            "covariance is singular, and the Fréchet distance mostly reflects the sample size; "
            "use more samples"
            for name, space in self.spaces.items()
            if self.done <= space.moments.dimension
        ]
