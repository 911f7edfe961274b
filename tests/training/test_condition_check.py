"""What a source of conditions must be: each way to break it is refused, named, before training."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from conditioned import Cloud, Posed, poses
from distillations import alone

from ffcore.draws import Draws
from ffcore.flow.guidance import Guided
from ffcore.interfaces import (
    Condition,
    ConditionSource,
    Labels,
    NamedConditions,
    Unconditional,
    digest_of,
)
from ffcore.testing.small import SmallStudent
from ffcore.training.condition_check import ConditionError, check_conditions
from ffcore.training.distillation import Distillation
from ffcore.training.loop import train

DRAWS = Draws(0, 0, 0, 6)
NAN = float("nan")


@pytest.fixture(autouse=True)
def shapes() -> None:
    """Nothing but the check itself may see a wrong shape."""


class Good(ConditionSource):
    """Vectors of three numbers, of which two have names."""

    names: Any = ("a", "b")

    def draw(self, draws: Draws) -> Any:
        return Condition(size=len(draws), pooled=draws.normal("pose", (3,)))

    def null(self, condition: Condition) -> Any:
        assert condition.pooled is not None
        return Condition(size=condition.size, pooled=torch.zeros_like(condition.pooled))

    def of(self, names: Sequence[str]) -> Any:
        if unknown := [name for name in names if name not in ("a", "b")]:
            raise ValueError(f"must be a or b, found {unknown}")
        rows = [[float(name == "b")] * 3 for name in names]
        return Condition(size=len(names), pooled=torch.tensor(rows))

    def texts(self, condition: Condition) -> Any:
        return ["pose"] * condition.size

    def fingerprint(self) -> Any:
        return digest_of("good")


def broken(**methods: Any) -> ConditionSource:
    """Return a Good with other attributes."""
    return type("Broken", (Good,), {"__module__": "mine", **methods})()


def pooled(rows: torch.Tensor, **more: Any) -> Condition:
    return Condition(size=len(rows), pooled=rows, **more)


def noise(draws: Draws) -> torch.Tensor:
    return draws.normal("pose", (3,))


def with_nan(draws: Draws) -> Condition:
    rows = noise(draws)
    rows[0, 0] = NAN
    return pooled(rows)


def seeded(draws: Draws) -> Condition:
    generator = torch.Generator().manual_seed(draws.seed)
    return pooled(torch.randn(len(draws), 3, generator=generator))


def whitened(draws: Draws) -> Condition:
    return pooled(noise(draws) - noise(draws).mean(0))


def numpy_rows(draws: Draws) -> Condition:
    return pooled(torch.from_numpy(np.random.randn(len(draws), 3)).float())


def seeds_everything(draws: Draws) -> Condition:
    torch.manual_seed(0)
    return pooled(torch.randn(len(draws), 3))


OWN = torch.Generator()
ABC = {"a": [0.0] * 3, "b": [1.0] * 3}
MANY = [f"pose {number}" for number in range(1000)]


def table_without(*lost: int) -> Any:
    """Return an `of` that looks its names up in a table, as most do."""
    rows = {name: [0.0] * 3 for place, name in enumerate(MANY) if place not in lost}
    return lambda self, names: pooled(torch.tensor([rows[name] for name in names]))


def together(self: Good, names: Sequence[str]) -> Condition:
    if len(names) > 1:
        raise RuntimeError("too many")
    return pooled(torch.zeros(1, 3))


def refuses_b(self: Good, names: Sequence[str]) -> Condition:
    return pooled(torch.tensor([{"a": [0.0, 0.0, 0.0]}[name] for name in names]))


def shaped(width: int, dtype: torch.dtype = torch.float32) -> Any:
    return lambda self, names: pooled(torch.zeros(len(names), width, dtype=dtype))


COUNT: Iterator[int] = iter(range(1000))

BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "a dict": (
        {"draw": lambda self, d: {"pooled": noise(d)}},
        "draw returned dict; it must return a Condition of size 6 for 6 draws",
    ),
    "another size": (
        {"draw": lambda self, d: pooled(torch.zeros(2, 3))},
        "draw returned a Condition of size 2; it must return a Condition of size 6",
    ),
    "a list": (
        {"draw": lambda self, d: Condition(size=len(d), pooled=[[0.0]] * len(d))},  # type: ignore[arg-type]
        "draw returned pooled = .*list.*must be a tensor or None",
    ),
    "NaN": (
        {"draw": lambda self, d: with_nan(d)},
        "draw returned pooled with NaN or infinity for 1 of 6 draws",
    ),
    "infinity": (
        {"draw": lambda self, d: pooled(noise(d) / 0)},
        "draw returned pooled with NaN or infinity for 6 of 6 draws",
    ),
    "guidance": (
        {"draw": lambda self, d: pooled(noise(d)).at(2.0)},
        "draw returned a condition with guidance",
    ),
    "an error": (
        {"draw": lambda self, d: pooled(noise(d)[:, 9])[[]]},
        "draw fails with IndexError",
    ),
    "another device": (
        {"draw": lambda self, d: pooled(noise(d))},
        "draw returned pooled on cpu; it must be on the device of the draws, cuda",
    ),
    "torch's state": (
        {"draw": lambda self, d: pooled(torch.randn(len(d), 3))},
        "draw returned numbers of the global random state",
    ),
    "NumPy's state": ({"draw": lambda self, d: numpy_rows(d)}, "of the global random state"),
    "Python's state": (
        {"draw": lambda self, d: pooled(noise(d) + random.random())},
        "of the global random state",
    ),
    "a seeded state": (
        {"draw": lambda self, d: seeds_everything(d)},
        "of the global random state",
    ),
    "own generator": (
        {"draw": lambda self, d: pooled(torch.randn(len(d), 3, generator=OWN))},
        "draw returned another pooled for the same draws the second time",
    ),
    "a counter": (
        {"draw": lambda self, d: Condition(size=len(d), label=torch.full((len(d),), next(COUNT)))},
        "draw returned another label for the same draws the second time",
    ),
    "own seed": (
        {"draw": lambda self, d: seeded(d)},
        "draw returned another pooled for samples drawn alone",
    ),
    "the batch": (
        {"draw": lambda self, d: whitened(d)},
        "draw returned another pooled for samples drawn alone",
    ),
    "names twice": ({"names": ("a", "b", "a")}, "names has 'a' twice"),
    "names a str": ({"names": "ab"}, r"names is 'ab' \(str\); it must be a sequence"),
    "names a set": ({"names": {"a"}}, r"names is .*\(set\)"),
    "names None": ({"names": None}, "names is None"),
    "an empty name": ({"names": ("a", "")}, r"names has '' \(str\)"),
    "a number": ({"names": ("a", 3)}, r"names has 3 \(int\)"),
    "a name that is not known": (
        {"names": ("a", "zzz")},
        "names lists 'zzz', but of refuses it, with ValueError: must be a or b",
    ),
    "a name that fails": (
        {"of": refuses_b},
        "names lists 'b', but of refuses it, with KeyError: 'b'",
    ),
    "a third name that fails": (
        {"names": ("a", "b", "c"), "of": lambda self, n: pooled(torch.tensor([*map(ABC.get, n)]))},
        "names lists 'c', but of refuses it, with ",
    ),
    "one of many names": (
        {"names": MANY, "of": table_without(20)},
        "names lists 'pose 20', but of refuses it, with KeyError: 'pose 20'",
    ),
    "the rest of many names": (
        {"names": MANY, "of": table_without(*range(500, 1000))},
        r"names lists 'pose 5\d\d', but of refuses it, with KeyError",
    ),
    "names together": (
        {"of": together},
        "of refuses 3 names together, but none alone, with RuntimeError: too many",
    ),
    "names in an order of its own": (
        {"of": lambda self, names: Good.of(self, sorted(names))},
        "of returned another pooled for 'b' alone than beside others",
    ),
    "no of": ({"of": ConditionSource.of}, "names lists 'a', but of refuses it"),
    "of a list": ({"of": lambda self, names: [0.0]}, "of returned .*list.*of size 3 for 3 names"),
    "of one": (
        {"of": lambda self, names: pooled(torch.zeros(1, 3))},
        "of returned a Condition of size 1; it must return a Condition of size 3 for 3 names",
    ),
    "of another width": (
        {"of": shaped(5)},
        r"of returned pooled \[5\] in float32; .* of draw, pooled \[3\] in float32",
    ),
    "of another dtype": ({"of": shaped(3, torch.float64)}, r"of returned pooled \[3\] in float64"),
    "of another field": (
        {"of": lambda self, names: Condition(size=len(names))},
        "of returned no fields; it must return the fields",
    ),
    "of NaN": (
        {"of": lambda self, names: pooled(torch.full((len(names), 3), NAN))},
        "of returned pooled with NaN or infinity",
    ),
    "few texts": ({"texts": lambda self, c: ["x"]}, "texts returned 1 for 6 samples"),
    "a text": ({"texts": lambda self, c: "x" * c.size}, r"texts returned 'xxxxxx' \(str\)"),
    "numbers": ({"texts": lambda self, c: [1.0] * c.size}, r"texts returned 1.0 \(float\) in it"),
    "no texts": ({"texts": lambda self, c: None}, "texts returned None"),
    "a number as fingerprint": ({"fingerprint": lambda self: 3}, r"fingerprint returned 3 \(int\)"),
    "no fingerprint": ({"fingerprint": lambda self: ""}, r"fingerprint returned '' \(str\)"),
    "another fingerprint": (
        {"fingerprint": lambda self: str(next(COUNT))},
        r"fingerprint returned '\d+', then '\d+'; it must return the same",
    ),
}
NULLS: dict[str, tuple[Any, str]] = {
    "None": (lambda self, c: None, "null returned None; it must return a Condition"),
    "size": (lambda self, c: pooled(torch.zeros(9, 3)), "null returned a Condition of size 9"),
    "shape": (
        lambda self, c: pooled(torch.zeros(c.size, 4)),
        r"null returned pooled \[4\] in float32; .*, pooled \[3\] in float32",
    ),
    "fields": (lambda self, c: Condition(size=c.size), "null returned no fields"),
    "dtype": (lambda self, c: pooled(c.pooled.double()), r"null returned pooled \[3\] in float64"),
    "NaN": (lambda self, c: pooled(c.pooled * NAN), "null returned pooled with NaN or infinity"),
    "its argument": (
        lambda self, c: pooled(c.pooled.mul_(0)),
        "null writes into the pooled of its argument",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_source_that_breaks_its_contract_is_refused_by_name(kind: str) -> None:
    methods, message = BROKEN[kind]
    draws = attrs.evolve(DRAWS, device="cuda") if kind == "another device" else DRAWS
    if kind == "another device":  # this machine may have none
        methods = {"draw": lambda self, d: pooled(noise(attrs.evolve(d, device="cpu")))}
    said = r"the conditions \(mine:Broken\): " if "global" not in message else ""
    with pytest.raises(ConditionError, match=said + message):
        check_conditions(broken(**methods), draws)


@pytest.mark.parametrize("kind", NULLS)
def test_a_null_condition_is_checked_where_the_run_guides(kind: str) -> None:
    method, message = NULLS[kind]
    source = broken(null=method)
    check_conditions(source, DRAWS)
    with pytest.raises(ConditionError, match=message):
        check_conditions(source, DRAWS, guided=True)
    with pytest.raises(ConditionError, match=message):
        distillation(source, guidance=2.0)


def test_no_source_at_all_is_refused() -> None:
    for nothing in (None, Labels, Condition(size=1)):
        with pytest.raises(ConditionError, match="the conditions must be a ConditionSource"):
            check_conditions(nothing, DRAWS)


def distillation(source: ConditionSource, **arguments: Any) -> Distillation:
    """Return a run of a teacher with these conditions, of three numbers."""
    teacher = Posed(source)
    guides = {"guidance", "guidance_range"} & arguments.keys()
    student = SmallStudent.of(Posed(poses()))
    return alone(teacher=Guided(teacher) if guides else teacher, student=student, **arguments)


def test_a_run_in_python_checks_its_conditions_before_the_networks_and_the_first_step() -> None:
    with pytest.raises(ConditionError, match=r"Broken\): draw returned pooled with NaN"):
        next(train(distillation(broken(draw=lambda self, d: with_nan(d)))))
    with pytest.raises(ConditionError, match=r"Broken\): texts returned 1 for 6"):
        distillation(broken(texts=lambda self, c: ["x"])).self_check()


TOKENS = Condition(
    size=2,
    embedding=torch.ones(2, 3, 4),
    mask=torch.ones(2, 3, dtype=torch.bool),
    image=torch.zeros(2, 1, 4, 4),
)


@pytest.mark.parametrize(
    ("source", "guided"),
    [
        (Good(), True),
        (Cloud(), False),
        (poses(), True),
        (Unconditional(), False),
        (Labels(1), False),
        (Labels(10, 10), True),
        (Labels(1000, 1000), True),
        (NamedConditions(["one"], TOKENS[:1], TOKENS[1:]), True),
        (broken(names=()), False),
        (broken(names=("b",)), False),
        (broken(names=["a", "b"]), False),
    ],
)
def test_a_lawful_source_passes_and_leaves_the_random_states(
    source: ConditionSource, guided: bool
) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[2]
    check_conditions(source, DRAWS, guided=guided)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[2]) == before[1:]


def test_a_source_without_a_null_condition_says_so_in_its_own_words() -> None:
    with pytest.raises(ValueError, match="a cloud has no null condition") as found:
        check_conditions(Cloud(), DRAWS, guided=True)
    assert not isinstance(found.value, ConditionError)


def test_a_source_may_use_the_random_state_once_to_fill_a_cache() -> None:
    class Encodes(Good):
        encoder: torch.nn.Module | None = None

        def draw(self, draws: Draws) -> Condition:
            self.encoder = self.encoder or torch.nn.Linear(3, 3).requires_grad_(False)
            return pooled(self.encoder(noise(draws)))

    check_conditions(Encodes(), DRAWS)


def test_names_may_have_other_numbers_of_tokens_than_draws() -> None:
    class Prompts(Good):
        def draw(self, draws: Draws) -> Condition:
            return self.tokens(len(draws), len(draws))

        def of(self, names: Sequence[str]) -> Condition:
            return self.tokens(len(names), 7)

        def tokens(self, size: int, length: int) -> Condition:
            return Condition(size=size, embedding=torch.ones(size, length, 4))

    check_conditions(Prompts(), DRAWS)


@pytest.mark.parametrize("more", [{"guidance": 2.0}, {"guidance_range": (1.0, 3.0)}])
def test_a_guided_run_of_a_lawful_source_trains(more: dict[str, Any]) -> None:
    run = distillation(poses(), **more)
    run.self_check()
    assert bool(run.step()["loss"].isfinite())
