"""The recipe tables of the exact teachers, raw features and identity decoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import attrs

from ffcore.keys import key

if TYPE_CHECKING:
    from ffcore.flow.exact import Gaussian, GaussianMixture
    from ffcore.interfaces import Context, Decoder, Features


@attrs.frozen(kw_only=True)
class GaussianTeacher:
    """Data N(mean, scale² I)."""

    mean: tuple[float, ...] = key(help="mean; its length is the dimension")
    scale: float = key(1.0, help="standard deviation", above=0)
    guidable = False

    @classmethod
    def examples(cls) -> Iterator[Self]:
        """Yield one in two dimensions."""
        yield cls(mean=(0.5, -0.3), scale=0.7)

    def __attrs_post_init__(self) -> None:
        if not self.mean:
            raise ValueError("mean must have at least one number")

    @property
    def sample_shape(self) -> tuple[int]:
        """*S of the samples."""
        return (len(self.mean),)

    def build(self, context: Context) -> Gaussian:
        """Return the teacher."""
        del context
        from ffcore.flow.exact import Gaussian

        return Gaussian(self.mean, self.scale)


@attrs.frozen(kw_only=True)
class MixtureTeacher:
    """Data from a mixture of isotropic Gaussians."""

    means: tuple[tuple[float, ...], ...] = key(help="mean of each component")
    scale: float = key(1.0, help="standard deviation of every component", above=0)
    labels: tuple[int, ...] | None = key(
        None, help="class of each component, from 0; 'none': the teacher is unconditional"
    )

    @classmethod
    def examples(cls) -> Iterator[Self]:
        """Yield one with classes and one without, in two dimensions."""
        means = ((1.0, 0.0), (-1.0, 0.5), (0.0, -1.0))
        yield cls(means=means, labels=(0, 1, 1))
        yield cls(means=means)

    def __attrs_post_init__(self) -> None:
        lengths = {len(mean) for mean in self.means}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError("means must be one or more lists of numbers of equal length")
        if self.labels is not None and len(self.labels) != len(self.means):
            raise ValueError(f"{len(self.labels)} labels for {len(self.means)} means")
        if self.labels is not None and set(self.labels) != set(range(max(self.labels) + 1)):
            raise ValueError(f"labels must be 0, 1, … without gaps, found {list(self.labels)}")

    @property
    def sample_shape(self) -> tuple[int]:
        """*S of the samples."""
        return (len(self.means[0]),)

    @property
    def guidable(self) -> bool:
        """Whether there are classes; the null condition is then all of them together."""
        return self.labels is not None

    def build(self, context: Context) -> GaussianMixture:
        """Return the teacher."""
        del context
        from ffcore.flow.exact import GaussianMixture

        return GaussianMixture(self.means, self.scale, labels=self.labels)


@attrs.frozen(kw_only=True)
class Raw:
    """The sample itself as its features."""

    def build(self, context: Context) -> Features:
        """Return the features."""
        del context
        from ffcore_exact.features import Raw as RawFeatures

        return RawFeatures()


@attrs.frozen(kw_only=True)
class Identity:
    """Samples are already images, or need no decoder."""

    def build(self, context: Context) -> Decoder:
        """Return the decoder."""
        del context
        from ffcore_exact.decoder import Identity as IdentityDecoder

        return IdentityDecoder()
