"""Steps whose numbers are not finite: what they leave as it was, and how they are told."""

from collections.abc import Callable

import pytest
import torch
from distillations import contents, joint, same
from torch import Tensor
from two_ranks import skips, start

from ffcore.training.distillation import Distillation
from ffcore.training.finite import Diverged, FiniteCheck

NAN, INF = torch.tensor(torch.nan), torch.tensor(torch.inf)
FINE = torch.tensor(1.0)


def made(check: FiniteCheck, *numbers: Tensor) -> list[bool]:
    """Make a step for each number; return which were finite."""
    finite = []
    for step, number in enumerate(numbers):
        check.begin()
        check.admit({"first": FINE, "second": number})
        check.end(step)
        finite.append(bool(check.finite))
    return finite


@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_a_number_that_is_not_finite_makes_its_step_unfinite(number):
    check = FiniteCheck(9, "cpu")
    assert made(check, FINE, number, FINE) == [True, False, True]
    check.read()
    assert check.skipped == 1
    assert not check.halted


def test_what_is_admitted_later_holds_for_what_comes_after():
    check = FiniteCheck(9, "cpu")
    check.begin()
    check.admit({"a": FINE})
    assert check.finite
    check.admit({"b": NAN})
    assert not check.finite
    check.admit({"c": FINE})
    assert not check.finite
    check.end(0)
    check.read()
    assert check.row == [(0, ["b"])]


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_after_too_many_in_a_row_nothing_is_finite(patience):
    check = FiniteCheck(patience, "cpu")
    numbers = [NAN] * patience + [FINE] + [NAN] * (patience + 1) + [FINE, FINE]
    finite = [False] * patience + [True] + [False] * (patience + 1) + [False, False]
    assert made(check, *numbers) == finite
    check.read()
    assert check.halted
    assert check.row[0] == (patience + 1, ["second"])


def test_the_books_are_the_same_however_often_they_are_read():
    often, seldom = FiniteCheck(2, "cpu"), FiniteCheck(2, "cpu")
    numbers = [FINE, NAN, NAN, FINE, NAN, NAN, NAN]
    for step, number in enumerate(numbers):
        for check in (often, seldom):
            check.begin()
            check.admit({"x": number})
            check.end(step)
        often.read()
    seldom.read()
    assert (often.row, often.skipped, often.halted) == (seldom.row, seldom.skipped, seldom.halted)
    assert often.row == [(4, ["x"]), (5, ["x"]), (6, ["x"])]


# A whole step

Break = Callable[[Distillation], object]


def prediction(run: Distillation) -> None:
    """Let the predictor's gaps be NaN."""
    spoil(run.objectives["prediction"])


def correction(run: Distillation) -> None:
    """Let the corrector's gaps be NaN."""
    spoil(run.objectives["correction"])


def spoil(objective: object) -> None:
    plain = objective.gaps  # type: ignore[attr-defined]

    def gaps(networks, batch):
        found = plain(networks, batch)
        for each in found.gaps:
            each.gap.fill_(torch.nan)
        return found

    objective.gaps = gaps  # type: ignore[attr-defined]


def gradient(run: Distillation) -> None:
    """Let one number of the student's gradient be infinite, and no loss."""
    weight = dict(run.student.named_parameters())["body.enter.weight"]

    def hook(found: Tensor) -> Tensor:
        found = found.clone()
        found[0, 0] = torch.inf
        return found

    weight.register_hook(hook)


def ready(steps: int = 3) -> Distillation:
    run = joint(skip=9)
    for _ in range(steps):
        run.step()
    return run


@pytest.mark.parametrize("spoils", [prediction, correction, gradient])
def test_a_step_that_is_not_finite_changes_nothing_but_its_count(spoils):
    run = ready()
    before = contents(run)
    spoils(run)
    run.step()
    after = contents(run)
    assert after.pop("step") == before.pop("step") + 1
    assert same(after, before)
    run.step()
    run.check()
    assert run.finite_check.skipped == 2


def test_without_the_guard_it_would_be_seen(monkeypatch):
    """The same with an optimizer that is not told."""
    run = ready()
    monkeypatch.setattr(FiniteCheck, "admit", lambda check, numbers: None)
    before = contents(run)
    prediction(run)
    run.step()
    after = contents(run)
    assert not same({**after, "step": before["step"]}, before)
    assert not all(each.isfinite().all() for each in after.values())


def test_the_very_first_step_may_be_left_out():
    run, twin = joint(skip=1), joint()
    prediction(run)
    run.step()
    del run.objectives["prediction"].gaps  # type: ignore[attr-defined]  # it is itself again
    twin.step_index += 1
    for _ in range(3):
        run.step()
        twin.step()
    assert same(contents(run), contents(twin))


def test_an_auxiliary_networks_gradient_leaves_out_its_own_update_alone():
    run, twin = ready(), ready()
    weight = dict(run.auxiliaries["online"].network.named_parameters())["body.enter.weight"]
    weight.register_hook(lambda found: found * torch.nan)
    before = contents(run)
    run.step()
    twin.step()
    after, expected = contents(run), contents(twin)
    for name, each in after.items():
        online = name.startswith("online/")
        assert torch.equal(each, (before if online else expected)[name]), name
    run.check()
    assert run.finite_check.row == [(3, ["gradient_norm_online"])]


@pytest.mark.parametrize(
    ("spoils", "said"),
    [
        (
            prediction,
            r"gap_prediction, lambda, loss, gradient_norm\.\n"
            "Repeating the step shows NaN or infinity in the",
        ),
        (
            correction,
            r"gap_correction, lambda, loss, gradient_norm\.\n"
            "Repeating the step shows NaN or infinity in the",
        ),
        (
            gradient,
            r"gradient_norm\.\nRepeating the step shows NaN or infinity in the gradients of "
            r"student/body\.enter\.weight\.\nNo weight",
        ),
        (
            lambda run: next(run.student.parameters()).data.fill_(torch.nan),
            "Repeating the step shows NaN or infinity in "
            r"the weights student/body\.\S+\.\nNo weight",
        ),
    ],
)
def test_what_was_not_finite_is_told(spoils, said):
    run = joint()
    for _ in range(3):
        run.step()
    spoils(run)
    for _ in range(2):
        run.step()
    before = contents(run)
    with pytest.raises(Diverged, match=rf"(?s)^step 4: .*{said}"):
        run.check()
    torch.testing.assert_close(contents(run), before, rtol=0, atol=0, equal_nan=True)
    assert all(each.grad is None for each in run.student.parameters())


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_what_is_not_finite_in_one_process_leaves_the_step_out_in_all(kind):
    start(skips, kind)
