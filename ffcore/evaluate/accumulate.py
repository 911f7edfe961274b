"""Accumulates what the metrics need while samples pass through feature spaces, not the samples.

The Fréchet distance needs moments alone, which are streamed. The kernel distance, precision, recall
and the Inception Score need the features of all samples, which are stored, 4 bytes a number. A
process can store what it accumulated over its part, and the process with the part before can add
it: so several processes share the work, and an interrupted one can resume.
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
    """What was accumulated of the samples from `start` on, as it is sent and stored."""

    start: int
    done: int
    """The first sample that was not seen yet."""
    brightest: float
    tensors: Mapping[str, Tensor]


class Space:
    """What is accumulated of samples in one feature space.

    Args:
        features: the space.
        stored: statistics of the reference that they are compared with, if there are any.
        keeps: whether to store all features.
        reads: whether to read classes, if the features know classes.
    """

    def __init__(
        self,
        features: Features,
        stored: Statistics | None = None,
        *,
        keeps: bool = False,
        reads: bool = False,
    ) -> None:
        self.features = features
        self.stored = stored
        self.moments = Moments()
        self.kept: list[Tensor] | None = [] if keeps else None
        has_classes = isinstance(features, ClassFeatures) and features.classes is not None
        self.read: list[Tensor] | None = [] if reads and has_classes else None

    @torch.no_grad()
    def look(self, samples: Tensor, start: int) -> tuple[Tensor, Tensor | None]:
        """Return the features of samples, and their classes; the first is number `start`."""
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
                f"features {self.features.name} have {found.shape[1]} numbers, and the stored "
                f"statistics have {len(self.stored.mu)}: they are of another network"
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
        """Add what `look` found."""
        self.moments.add(features)
        if self.kept is not None:
            self.kept.append(features)
        if self.read is not None:
            assert classes is not None
            self.read.append(classes)

    def all_kept(self) -> Tensor:
        """Return the features of all samples, Float[N, D]."""
        assert self.kept is not None
        self.kept[:] = [torch.cat(self.kept)]
        return self.kept[0]

    def tensors(self) -> dict[str, Tensor]:
        """Return all that was added."""
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
        """Add what another accumulated of the samples that follow."""
        if not tensors:
            return
        self.moments.join(int(tensors["count"]), tensors["mean"], tensors["scatter"])
        for name, parts in (("kept", self.kept), ("read", self.read)):
            if parts is not None:
                parts.append(tensors[name])


class Accumulated:
    """Samples from `start` on, as far as they have been passed through some feature spaces."""

    def __init__(self, spaces: Sequence[Space], start: int = 0) -> None:
        self.spaces = {each.features.name: each for each in spaces}
        self.start = self.done = start
        self.brightest = -1.0
        """The largest number in any sample; of images, −1 is black."""
        self.taken_up = False
        """Whether some of them were seen before an interruption."""

    def state(self) -> State:
        """Return what was accumulated."""
        tensors = {
            f"{name}/{part}": each
            for name, space in self.spaces.items()
            for part, each in space.tensors().items()
        }
        return State(self.start, self.done, self.brightest, tensors)

    def join(self, state: State) -> None:
        """Add what was accumulated of the samples that follow."""
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
