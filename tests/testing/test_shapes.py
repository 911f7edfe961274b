"""Shapes are checked by what the roles state, and nothing else changes."""

import typing
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ffcore import interfaces
from ffcore.draws import Draws
from ffcore.flow.derivative import Derivative
from ffcore.flow.derivative_check import backend_for
from ffcore.flow.dual import Dual
from ffcore.interfaces import (
    Balancer,
    Batch,
    ClassFeatures,
    Condition,
    ConditionSource,
    DataSource,
    Decoder,
    Gap,
    Gaps,
    Networks,
    Norms,
    PredictorObjective,
    Student,
    VelocityField,
)
from ffcore.recipe import load_recipe
from ffcore.run.build import build
from ffcore.testing import shapes
from ffcore.testing.shapes import ROLES, VALUES, WrongShape, checked_shapes

Answer = Callable[..., Any]


class Told(Student):
    """Answers as it is told."""

    starts_at = "prior"

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.answer = answer

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        return self.weight * self.answer(x_t, delta)


def right(x_t: Tensor, delta: Tensor) -> Tensor:
    return delta[:, None] * x_t


def narrow(x_t: Tensor, delta: Tensor) -> Tensor:
    return right(x_t, delta)[:, :1]


def short(x_t: Tensor, delta: Tensor) -> Tensor:
    return right(x_t, delta).sum(1)


def call(student: Student, rows: int = 3, condition: Condition | None = None) -> Any:
    x, t = torch.ones(3, 2), torch.ones(3)
    return student(x, t, torch.ones(rows), condition or Condition(size=3))


@pytest.mark.parametrize("wrong", [narrow, short])
def test_a_student_that_answers_in_another_shape_is_caught_with_a_sentence(wrong: Answer) -> None:
    found = list(wrong(torch.ones(3, 2), torch.ones(3)).shape)
    with checked_shapes(), pytest.raises(WrongShape) as caught:
        call(Told(wrong))
    assert str(caught.value) == (
        f"Told.forward: result is float32{found} beside x_t float32[3, 2], t float32[3], "
        "delta float32[3]; Student.forward in ffcore/interfaces.py states "
        'Float[Tensor, "B *S"]. Return this shape and dtype.'
    )


def test_a_student_that_answers_in_the_right_shape_passes() -> None:
    with checked_shapes():
        assert call(Told(right)).shape == (3, 2)


def test_what_a_student_is_handed_is_checked_too() -> None:
    with checked_shapes(), pytest.raises(WrongShape, match=r"delta is float32\[4\] .*Call it"):
        call(Told(right), rows=4)


def test_a_condition_is_of_as_many_samples() -> None:
    labels = Condition(size=4, label=torch.zeros(4, dtype=torch.long))
    with checked_shapes(), pytest.raises(WrongShape, match=r"condition.label is int64\[4\]"):
        call(Told(right), condition=labels)


def test_another_dtype_is_caught() -> None:
    labels = Condition(size=3, label=torch.zeros(3))
    with checked_shapes(), pytest.raises(WrongShape, match=r"condition.label is float32\[3\]"):
        call(Told(right), condition=labels)


class _Velocity(VelocityField):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return t


class _Conditions(ConditionSource):
    def draw(self, draws: Draws) -> Condition:
        return Condition(size=3, label=torch.zeros(3, 1, dtype=torch.long))

    def null(self, condition: Condition) -> Condition:
        return Condition(size=2, label=torch.zeros(2, dtype=torch.long))


class _Data(DataSource):
    sample_shape = (2,)

    def __len__(self) -> int:
        return 9

    def read(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Condition]:
        return torch.zeros(4, 2), Condition(size=4)


class _Objective(PredictorObjective):
    def gaps(self, networks: Networks, batch: Batch) -> Gaps:
        gap = Gap(output=batch.z, gap=batch.z)
        return Gaps(gaps=(gap,), samples=batch.z[:2], condition=batch.condition[:2])


class _Balancer(Balancer):
    def split(self, batch: int, step: int) -> tuple[int, int]:
        return batch, 0

    def weights(self, objective: Any, gap: Gap) -> Tensor:
        return torch.ones(())

    def scale(self, norms: Any) -> Any:
        return {name: torch.ones(1) for name in norms}


class _Features(ClassFeatures):
    def forward(self, samples: Tensor) -> Tensor:
        return samples[:, None]

    def logits(self, features: Tensor) -> Tensor:
        return features[:1]


class _Decoder(Decoder):
    def forward(self, samples: Tensor) -> Tensor:
        return samples.double()


DRAWS = Draws(0, 0, 0, 3)
X, T = torch.ones(3, 2), torch.ones(3)
LABELS = Condition(size=3, label=torch.zeros(3, dtype=torch.long))
NORMS = Norms(raw=torch.ones(()), weighted=torch.ones(()))
WRONG: dict[str, tuple[Answer, str]] = {
    "velocity": (lambda: _Velocity()(X, T, LABELS), "result is float32[3] "),
    "drawn condition": (lambda: _Conditions().draw(DRAWS), "result.label is int64[3, 1];"),
    "null condition": (lambda: _Conditions().null(LABELS), "result.label is int64[2] "),
    "data": (
        lambda: _Data().read(torch.zeros(3, dtype=torch.long), DRAWS), "result[0] is float32[4, 2]"
    ),
    "samples": (
        lambda: _Objective().gaps(None, Batch(z=X, condition=LABELS, draws=DRAWS)),  # type: ignore[arg-type]
        "result.samples is float32[2, 2]",
    ),
    "weights": (
        lambda: _Balancer().weights("prediction", Gap(output=X, gap=X)), "result is float32[] "
    ),
    "factors": (
        lambda: _Balancer().scale({"prediction": NORMS}), "result['prediction'] is float32[1]"
    ),
    "features": (lambda: _Features()(X), "result is float32[3, 1, 2]"),
    "logits": (lambda: _Features().logits(X), "result is float32[1, 2]"),
    "images": (lambda: _Decoder()(torch.ones(3, 1, 4, 4)), "result is float64[3, 1, 4, 4]"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_shape_of_every_role_is_caught(name: str) -> None:
    wrong, sentence = WRONG[name]
    wrong()
    with checked_shapes(), pytest.raises(WrongShape) as caught:
        wrong()
    assert sentence in str(caught.value)


def test_a_class_made_meanwhile_is_checked_and_all_are_put_back() -> None:
    before = Told.forward
    with checked_shapes():

        class Late(Told):
            def forward(self, *args: Any) -> Tensor:
                return super().forward(*args)[:, :1]

        with pytest.raises(WrongShape, match=r"Late\.forward"):
            call(Late(right))
    assert Told.forward is before
    assert call(Late(right)).shape == (3, 1)
    assert "__init_subclass__" not in vars(Student)


def test_a_dual_number_passes_where_its_value_does() -> None:
    delta = Dual(torch.ones(3), torch.ones(3))
    with checked_shapes():
        found = Told(right)(X, T, delta, LABELS)
        assert isinstance(found, Dual)
        with pytest.raises(WrongShape, match=r"result is float32\[3, 1\] beside .*delta"):
            Told(narrow)(X, T, delta, LABELS)


@pytest.mark.parametrize("recipe", ["gaussian.toml", "digits.toml"])
def test_a_step_with_dual_numbers_passes_and_is_the_same_to_the_bit(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[str, str]] = set()

    class Watched(shapes._Call):
        def check(self, name: str, hint: Any, value: Any, advice: str) -> None:
            super().check(name, hint, value, advice)
            seen.add((name, type(value).__name__))

    def stepped() -> list[Tensor]:
        keys = ["predictor.derivative='dual'", "training.batch=16"]
        run = build(load_recipe(recipe, keys)).distillation
        for _ in range(2):
            run.step()
        return [each.detach() for each in run.student.parameters()]

    plain = stepped()
    monkeypatch.setattr(shapes, "_Call", Watched)
    with checked_shapes():
        checked = stepped()
    assert {("delta", "Dual"), ("result", "Dual"), ("x_t", "Tensor")} <= seen
    assert all(map(torch.equal, plain, checked))


def test_a_wrong_shape_is_not_taken_for_a_refusal_of_dual_numbers() -> None:
    def wrong_when_dual(x_t: Tensor, delta: Tensor) -> Tensor:
        return (narrow if isinstance(delta, Dual) else right)(x_t, delta)

    with checked_shapes(), pytest.raises(WrongShape):
        backend_for(Told(wrong_when_dual), X, LABELS)


def test_forward_mode_passes() -> None:
    student = Told(right)
    with checked_shapes():
        _, change = Derivative(backend="jvp").with_value(
            lambda delta: student(X, T, delta, LABELS), (T,), (T,), room=(T, T)
        )
    assert torch.equal(change, X)


def test_compiled_code_stays_whole() -> None:
    torch._dynamo.reset()
    student = Told(right)
    with checked_shapes():
        compiled = torch.compile(student, backend="eager", fullgraph=True)
        assert torch.equal(call(compiled), call(student))


@pytest.mark.parametrize("owner", [*ROLES, *VALUES], ids=lambda each: each.__name__)
def test_every_tensor_that_a_role_names_has_a_shape(owner: type) -> None:
    methods = [each for each in vars(owner).values() if getattr(each, "__isabstractmethod__", 0)]
    for each in methods if owner in ROLES else [owner]:
        for name, hint in typing.get_type_hints(each, localns=shapes._NAMES).items():
            inner = [hint, *typing.get_args(hint)]
            assert Tensor not in inner, f"{each.__qualname__}: {name} is a tensor of any shape"


def test_every_role_with_tensors_is_checked() -> None:
    of_host = {interfaces.Tracker}
    abstract = {
        each
        for each in vars(interfaces).values()
        if isinstance(each, type)
        and each.__module__ == interfaces.__name__
        and any(getattr(one, "__isabstractmethod__", False) for one in vars(each).values())
    }
    # A teacher is a velocity field; what is its own answers with a network.
    assert abstract - of_host == {*ROLES, interfaces.Teacher}
