"""Tables with every kind of key."""

from typing import Any, Literal

import attrs

from ffcore.keys import component, key


@attrs.frozen(kw_only=True)
class Law:
    low: float = key(0.0, help="least", at_least=0, at_most=1)
    high: float = key(1.0, help="greatest", at_least=0, at_most=1)

    def __attrs_post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")


@attrs.frozen(kw_only=True)
class Point:
    dim: int = key(2, help="dimension", at_least=1)
    scale: float = key(1.0, help="spread", above=0)
    label: str | None = key("a", help="a word or none")
    means: tuple[tuple[float, ...], ...] = key((), help="nested numbers")

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"trainable copy"} if self.dim > 1 else ())


@attrs.frozen(kw_only=True)
class Line:
    width: int = key(8, help="units", at_least=1)
    depth: int = key(help="layers", at_least=1)
    law: Law | None = key(None, help="an optional table")
    bias: bool = key(True, help="whether shifted")


@attrs.frozen(kw_only=True)
class Identity:
    delta: Law = key(factory=Law, help="a nested table")
    backend: Literal["jvp", "finite-difference"] = key("jvp", help="how")
    reach: Literal["all"] | int = key("all", help="a word or a number", at_least=1)


@attrs.frozen(kw_only=True)
class Curve:
    starts_at: Literal["prior", "anywhere"] = key("prior", help="where")

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"student starts anywhere"} if self.starts_at == "anywhere" else ())


@attrs.frozen(kw_only=True)
class Fit:
    needs = frozenset({"data", "student starts anywhere"})


@attrs.frozen(kw_only=True)
class Stored:
    folder: str = key(help="where")


@attrs.frozen(kw_only=True)
class Online:
    network: Any = component("network", None, help="an optional component")
    updates: int = key(1, help="per step", at_least=1)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset() if self.network else frozenset({"trainable copy"})


@attrs.frozen(kw_only=True)
class Small:
    width: int = key(4, help="units", at_least=1)


@attrs.frozen(kw_only=True)
class Adaptive:
    alpha: float = key(1.0, help="strength", above=0)


@attrs.frozen(kw_only=True)
class Even:
    split: float = key(0.5, help="share", at_least=0, at_most=1)


@attrs.frozen(kw_only=True)
class Raw:
    pass


@attrs.frozen(kw_only=True)
class Deep:
    layer: int = key(3, help="which", at_least=0)
