"""The reference of an evaluation: other samples, or stored statistics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

from ffcore.evaluate.distribution import Cloud
from ffcore.evaluate.metrics import Statistics
from ffcore.evaluate.samples import Kept, Making, Samples, is_kept, open_samples, other_noise
from ffcore.evaluate.stored import SAMPLES, EvaluationError, array_names, open_stored, whole_array
from ffcore.evaluate.verdict import Ladder
from ffcore.interfaces import Features
from ffcore.system.files import file_digest, locate
from ffcore.system.weights import WeightsError, fingerprint, read_weights, write_weights

PUBLISHED = "inception"
"""The features of published reference files."""
_LABELS = "labels"


class EarlierReference(WeightsError):
    """A teacher's reference that an earlier ffcore wrote, without its samples."""


@attrs.frozen(kw_only=True)
class Distances:
    """Fréchet distances to a teacher's converged samples in one feature space."""

    floor: float
    """Distance of the teacher's converged samples from other noise."""
    euler: Mapping[int, float]
    """Distance of the teacher's samples, by the number of Euler steps."""
    student: float | None = None
    """Distance of the student's one-step samples."""
    student_steps: Mapping[int, float] = attrs.field(factory=dict)
    """Distance of the student's samples in more steps, by their number."""


@attrs.frozen(kw_only=True, eq=False)
class Reference:
    """Samples, statistics of samples by the name of the features, or both.

    A teacher's reference also has baselines, and an identity: its conditions.
    """

    record: Mapping[str, Any]
    """The conditions of the reference, as JSON values."""
    statistics: Mapping[str, Statistics] = attrs.field(factory=dict)
    samples: Samples | None = None
    networks: Mapping[str, str] = attrs.field(factory=dict)
    """Fingerprints of the feature networks behind the statistics, if known."""
    note: str | None = None
    """A note for the reader of the numbers."""
    baselines: Mapping[str, Distances] = attrs.field(factory=dict)
    """A teacher's noise floor and few-step Euler distances, by the name of the features."""
    identity: Mapping[str, Any] = attrs.field(factory=dict)
    """The teacher, the feature networks and the measurement; see `identity`."""
    clouds: Mapping[str, Cloud] = attrs.field(factory=dict)
    """A teacher's converged samples, by the name of the features; none if they are too few."""
    ladders: Mapping[str, Mapping[str, Ladder]] = attrs.field(factory=dict)
    """A teacher's own samples in each measure, by the name of the features, then of the measure."""

    @staticmethod
    def of_teacher(
        source: str,
        statistics: Mapping[str, Statistics],
        baselines: Mapping[str, Distances],
        identity: Mapping[str, Any],
        clouds: Mapping[str, Cloud],
        ladders: Mapping[str, Mapping[str, Ladder]],
    ) -> Reference:
        """Return the reference of a teacher's converged samples, made for `identity`."""
        scale = {"scale": identity["guidance"]}
        prefix = "features "
        return Reference(
            record={
                "source": source,
                "kind": "statistics of a teacher",
                **{name: identity[name] for name in ("seed", "solver")},
                "number": identity["samples"],
                "labels": "drawn",
                "guidance": scale,
            },
            statistics=statistics,
            networks={
                name.removeprefix(prefix): str(each)
                for name, each in identity.items()
                if name.startswith(prefix)
            },
            note="the reference's samples were not rounded to 8 bits or clipped to [-1, 1]; this "
            "affects pixel features such as raw",
            baselines=baselines,
            identity=identity,
            clouds=clouds,
            ladders=ladders,
        )

    def write(self, path: Path) -> None:
        """Write a teacher's reference to a safetensors file."""
        tensors = {}
        for name, statistics in self.statistics.items():
            tensors[f"{name}.mu"] = torch.from_numpy(statistics.mu)
            tensors[f"{name}.sigma"] = torch.from_numpy(statistics.sigma)
        for name, cloud in self.clouds.items():
            tensors[f"{name}.points"] = cloud.points
            if cloud.read is not None:
                tensors[f"{name}.read"] = cloud.read
            if cloud.labels is not None:
                tensors[_LABELS] = cloud.labels
        config = {
            "identity": self.identity,
            "distances": {name: attrs.asdict(each) for name, each in self.baselines.items()},
            "ladders": {
                name: {measure: attrs.asdict(ladder) for measure, ladder in ladders.items()}
                for name, ladders in self.ladders.items()
            },
        }
        write_weights(path, tensors, config)

    @staticmethod
    def read(source: str) -> Reference:
        """Read a file of `write`. Raises WeightsError for any other file."""
        file = read_weights(source)
        tensors, config = file.tensors, file.config
        if "distances" in config and "ladders" not in config:
            raise EarlierReference(
                f"{source} is from an earlier ffcore and lacks the teacher's samples that the "
                'verdict needs: use evaluation.reference = "none" to sample the teacher again'
            )
        try:
            found = Reference.of_teacher(
                source,
                {
                    name: Statistics(
                        tensors[f"{name}.mu"].numpy(), tensors[f"{name}.sigma"].numpy()
                    )
                    for name in config["distances"]
                },
                {
                    name: Distances(floor=each["floor"], euler=_by_steps(each["euler"]))
                    for name, each in config["distances"].items()
                },
                config["identity"],
                {
                    name: Cloud(
                        points=tensors[f"{name}.points"],
                        labels=tensors.get(_LABELS),
                        read=tensors.get(f"{name}.read"),
                    )
                    for name in config["ladders"]
                },
                {
                    name: {measure: _ladder(each) for measure, each in ladders.items()}
                    for name, ladders in config["ladders"].items()
                },
            )
        except KeyError as error:
            raise WeightsError(
                f"{source} is not a teacher's reference: {error} is missing"
            ) from None
        return attrs.evolve(found, record={**found.record, "content": file_digest(locate(source))})

    def check(self, identity: Mapping[str, Any]) -> None:
        """Raise ValueError, with the differences, unless the reference has this `identity`."""
        different = [
            f"{name}: the reference has {self.identity.get(name)}, this run {identity.get(name)}"
            for name in sorted(identity.keys() | self.identity.keys())
            if identity.get(name) != self.identity.get(name)
        ]
        if different:
            raise ValueError(
                "the reference statistics were made under other conditions:\n  "
                + "\n  ".join(different)
            )

    def statistics_of(self, features: Features) -> Statistics | None:
        """Return stored statistics in these features; None if samples must be measured.

        Raises EvaluationError if it has neither, or if another network made the statistics.
        """
        name, source = features.name, self.record["source"]
        if name not in self.statistics:
            if self.samples is None or self.statistics:
                raise EvaluationError(
                    f"{source} has statistics only in the features {', '.join(self.statistics)}, "
                    f"not in {name}: name samples as the reference"
                )
            return None
        made_by = self.networks.get(name)
        if made_by is not None and made_by != fingerprint(features):
            raise EvaluationError(
                f"the statistics of {source} were made by another network of features {name} "
                f"({made_by[:12]}, here {fingerprint(features)[:12]})"
            )
        return self.statistics[name]


def _ladder(found: Mapping[str, Any]) -> Ladder:
    euler = {steps: tuple(each) for steps, each in _by_steps(found["euler"]).items()}
    return Ladder(floor=tuple(found["floor"]), euler=euler)


def _by_steps(found: Mapping[str, Any]) -> dict[int, Any]:
    """Return a table of JSON with whole numbers as names."""
    return {int(steps): each for steps, each in found.items()}


def open_reference(source: str, judged: Samples, asked: Making) -> Reference:
    """Return the reference that samples are measured against.

    Args:
        source: a source of `open_samples`, where a recipe means its teacher; or a file of
            statistics: a run's reference.safetensors, or an .npz as published for ADM (mu, sigma,
            arr_0).
        judged: the samples to measure; a sampled reference has the same number, from other noise.
        asked: the settings of those samples; their labels and guidance hold for the reference too.

    Raises the errors of `open_samples`; EvaluationError and WeightsError for a damaged file.
    """
    path = Path(source)
    if path.suffix.lower() == ".npz" and "mu" in array_names(path):
        return _read_published(path)
    if is_kept(source):
        samples: Samples = Kept(open_stored(path))
        return Reference(record=samples.record, samples=samples)
    if source.endswith(".safetensors"):
        if "distances" in read_weights(source).config:
            return Reference.read(source)
        if not path.is_file():  # a file in a package, which holds no student
            raise EvaluationError(f"{source} is neither statistics nor a student file")
    of_reference = attrs.evolve(
        asked,
        number=judged.number,
        seed=other_noise(judged),
        steps=None,
        solver=None,
        teacher=not path.is_dir() and path.suffix != ".safetensors",
    )
    samples = open_samples(source, of_reference)
    return Reference(record=samples.record, samples=samples)


def _read_published(path: Path) -> Reference:
    """Read an .npz as published for ADM: whole statistics, and some of the samples."""
    mu, sigma = whole_array(path, "mu"), _array(path, "sigma")
    names = array_names(path)
    record = {
        "source": str(path),
        "kind": "published statistics",
        "content": file_digest(path),
    }
    return Reference(
        record=record,
        statistics={PUBLISHED: _check(mu, sigma, path)},
        samples=Kept(open_stored(path)) if SAMPLES in names else None,
    )


def _array(path: Path, name: str) -> NDArray[Any]:
    if name not in array_names(path):
        raise EvaluationError(f"{path} has mu but no {name}: statistics need both")
    return whole_array(path, name)


def _check(mu: NDArray[Any], sigma: NDArray[Any], path: Path) -> Statistics:
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise EvaluationError(
            f"{path}: mu has shape {mu.shape} and sigma {sigma.shape}; they must be (D) and (D, D)"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise EvaluationError(f"{path}: mu or sigma holds NaN or infinity")
    return Statistics(mu, sigma)
