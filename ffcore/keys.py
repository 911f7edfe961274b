"""Keys of a recipe's tables: default, help and possible values.

A table is a frozen attrs class, and `key` declares each of its fields:

    @attrs.frozen(kw_only=True)
    class Training:
        steps: int = key(help="optimizer steps", at_least=1)

`component` declares a field that holds a component's table. The recipe and the constructor run the
same checks; the recipe reports all violations at once. A rule that relates two keys belongs in the
table's `__attrs_post_init__`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import attrs

if TYPE_CHECKING:
    from torch import nn

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], object]


class ImpossibleValue(ValueError):
    """A key has an impossible value. Names the key, the value found and the possible values."""

    def __init__(self, name: str, found: object, possible: str, hint: str = "") -> None:
        super().__init__(f"{name}: must be {possible}, found {found!r}{hint}")
        self.name = name
        self.found = found
        self.possible = possible


@attrs.frozen
class ComponentOf:
    """Marks a type as the table of a component of this role, named by the table's key `type`."""

    role: str


@attrs.frozen(kw_only=True)
class Possible:
    """The possible values of a key. Bounds hold for a number, or for each number of a tuple."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    one_of: tuple[object, ...] | None = None

    def __call__(self, instance: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
        """Raise `ImpossibleValue` if `value` is not possible; an attrs validator."""
        if isinstance(value, tuple):
            for item in value:
                self(instance, attribute, item)
        elif not self._admits(value):
            raise ImpossibleValue(attribute.name, value, self._words(value), self._hint(value))

    def __str__(self) -> str:
        words = [
            f"{phrase} {bound:g}"
            for phrase, bound in [
                ("at least", self.at_least),
                ("above", self.above),
                ("at most", self.at_most),
                ("below", self.below),
            ]
            if bound is not None
        ]
        if self.one_of is not None:
            words.append("one of " + ", ".join(map(repr, self.one_of)))
        return " and ".join(words)

    def _admits(self, item: object) -> bool:
        if item is None:
            return True
        if self.one_of is not None and item not in self.one_of:
            return False
        if isinstance(item, bool) or not isinstance(item, int | float):
            return True
        return (
            math.isfinite(item)
            and (self.at_least is None or item >= self.at_least)
            and (self.above is None or item > self.above)
            and (self.at_most is None or item <= self.at_most)
            and (self.below is None or item < self.below)
        )

    def _words(self, item: object) -> str:
        if isinstance(item, float) and not math.isfinite(item):
            return f"finite and {self}" if str(self) else "finite"
        return str(self)

    def _hint(self, item: object) -> str:
        return did_you_mean(item, map(str, self.one_of or ())) if isinstance(item, str) else ""


def key(
    default: Any = attrs.NOTHING,
    *,
    help: str,
    factory: Callable[[], Any] | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    one_of: tuple[object, ...] | None = None,
    validator: Validator | None = None,
    imports: bool = False,
) -> Any:
    """A field of a table, required unless it has a `default` or a `factory`.

    Numbers must be finite and within the bounds; None passes if the type allows it. Your own
    `validator` has attrs' signature, raises `ValueError` and must not read the instance. With
    `imports`, a text "module:function" is code that `build` imports: in a file that arrived, ffcore
    refuses it unless it is trusted. The field's metadata holds `help`, `possible` (a `Possible`)
    and `imports`.
    """
    possible = Possible(at_least=at_least, above=above, at_most=at_most, below=below, one_of=one_of)
    return attrs.field(
        default=default if factory is None else attrs.Factory(factory),
        validator=[possible] if validator is None else [possible, validator],
        metadata={"help": help, "possible": possible, "imports": imports},
    )


@attrs.frozen(kw_only=True)
class Proposal:
    """What a student's table proposes for a teacher, in its class method `propose(context)`.

    `context` is that of `build`, with `meta`: the teacher may have no weights. The method returns
    None for a teacher that the student does not suit.
    """

    rank: int
    """3: the teacher's own network with its weights; 2: a copy of the teacher; 1: a network from
    scratch, made for such samples; 0: a network from scratch that works."""
    tree: Mapping[str, Any]
    """Keys of a recipe, as in TOML: those of `student` without `type`, and those of other tables
    that this student needs, `training.steps` among them."""
    why: str
    """Why this student, in a few words."""
    reasons: Mapping[str, str] = attrs.field(factory=dict)
    """Why each key of `tree`, by its dotted name, in a few words."""


_SMALL = 10_000_000
"""Parameters below which a network trains well at a high learning rate, with one thread."""


def copied(rank: int, why: str, network: "nn.Module") -> Proposal:
    """Return the proposal of a student that starts from its teacher's weights.

    Args:
        rank, why: see Proposal.
        network: the copy of the teacher's.
    """
    parameters = sum(each.numel() for each in network.parameters())
    if parameters < _SMALL:
        number = f"a small network, of {parameters:,} parameters"
        return Proposal(
            rank=rank,
            why=why,
            tree={
                "optimizer": {"learning_rate": 1e-3, "warmup": 20, "schedule": "cosine"},
                "balancer": {"weight_epsilon": 0.1},
                "training": {"steps": 2000, "batch": 64, "ema_decay": 0.99, "threads": 1},
            },
            reasons={
                "optimizer.learning_rate": number,
                "training.steps": "it starts from the teacher's weights",
                "training.threads": "a small network is fastest with one",
            },
        )
    return Proposal(
        rank=rank,
        why=why,
        tree={"training": {"steps": 100_000}},
        reasons={"training.steps": f"a network of {parameters:,} parameters; papers take more"},
    )


@attrs.frozen(kw_only=True)
class StartsFromStudent:
    """A table of a student that can start from an earlier one.

    Once `build` has returned the student, ffcore loads the weights into it. Files of the finished
    student do not mention them.
    """

    weights: str | None = key(
        None,
        help=(
            "earlier student to start from, of the same shapes: a run directory, a checkpoint, an "
            "export or a student file; 'none' starts as the other keys say"
        ),
    )


def not_empty(instance: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    """Validator for `key`: a text with at least one character; None passes."""
    del instance
    if value == "":
        raise ImpossibleValue(attribute.name, value, "a name, or 'none'")


@attrs.frozen(kw_only=True)
class ReadsWeights:
    """A table with a key `weights`, whose file may hold several networks.

    Its `build` passes `part` on: `read_weights(self.weights, self.part)`.
    """

    part: str | None = key(
        None,
        help=(
            "part of the weights to read, such as 'model', 'ema_0.9999' or 'state_dict.net_ema', "
            "with dots between nested names; 'none': the average (EMA) if there is one, or else "
            "the raw weights"
        ),
        validator=not_empty,
    )


def ordered(instance: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    """Validator for `key`: a pair (low, high) with low at most high; None passes."""
    del instance
    if value is not None and value[0] > value[1]:
        raise ImpossibleValue(attribute.name, value, "(low, high) with low at most high")


def component(role: str, default: Any = attrs.NOTHING, *, help: str, many: bool = False) -> Any:
    """A field that holds the table of a component of this role, or with `many` a tuple of tables.

    In a recipe, the table's key `type` names the component. With default None, the table may be
    left out.
    """
    one = Annotated[Any, ComponentOf(role)]
    kind: Any = tuple[one, ...] if many else one
    if default is None:
        kind = kind | None
    return attrs.field(default=default, metadata={"help": help, "kind": kind})


def kind_of(field: "attrs.Attribute[Any]") -> Any:
    """The type of a table's field in a recipe; a component's type carries its role."""
    return field.metadata.get("kind", field.type)


def role_of(kind: Any) -> str | None:
    """The role of the component, or array of components, that a key of this type holds, if any."""
    if get_origin(kind) is Annotated:
        marks = (mark.role for mark in kind.__metadata__ if isinstance(mark, ComponentOf))
        return next(marks, None)
    return next(filter(None, map(role_of, get_args(kind))), None)


def nearest(found: str, possible: Iterable[str]) -> str | None:
    """The possible name closest to `found`, if any is close."""
    matches = get_close_matches(found, list(possible), n=1)
    return matches[0] if matches else None


def did_you_mean(found: str, possible: Iterable[str]) -> str:
    """`"; did you mean 'depth'?"`, or an empty string if no possible name is close."""
    name = nearest(found, possible)
    return f"; did you mean {name!r}?" if name else ""
