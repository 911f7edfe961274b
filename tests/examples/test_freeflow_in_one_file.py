"""The method in one file computes what ffcore computes, and learns."""

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import freeflow_in_one_file as example
import pytest
import torch
from torch import Tensor, nn

from ffcore import Condition, Distillation, Optimizer, Student, VelocityField
from ffcore.flow.exact import GaussianMixture
from ffcore_freeflow.balancer import AdaptiveBalancer
from ffcore_freeflow.objective import FreeFlowPredictor
from ffcore_vsd.objective import ONLINE, VsdCorrector

FILE = Path(example.__file__)
BATCH = 64


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(default)


class _Student(Student):
    starts_at = "prior"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        return self.network(x_t, delta)


class _Online(VelocityField):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.network(x_t, t)


class Both:
    """The file's loss and ffcore's, of the same networks, weights and draws, at step 0."""

    def __init__(self) -> None:
        self.student, self.online = example.Network(16), example.Network(16)
        self.distillation = Distillation(
            teacher=VelocityField.of(lambda x, t, c: example.teacher(x, t), (2,)),
            student=_Student(self.student),
            predictor=FreeFlowPredictor(),
            corrector=VsdCorrector(online=_Online(self.online)),
            balancer=AdaptiveBalancer(weight_epsilon=0.1),
            optimizer=Optimizer(),
            steps=10,
            batch=BATCH,
            clip=None,
        )

    def file(self) -> tuple[Tensor, Tensor, list[Tensor], Tensor, list[Tensor]]:
        """Return loss, λ and gradient of the student, loss and gradient of g."""
        prediction_draws, correction_draws = (
            self.distillation.draws(name)[:share]
            for name, share in (("prediction", 3 * BATCH // 4), ("correction", BATCH // 4))
        )
        prediction = example.predictor(
            self.student,
            example.teacher,
            prediction_draws.normal("z", (2,)),
            prediction_draws.uniform("delta"),
        )
        z = correction_draws.normal("z", (2,))
        r = correction_draws.logit_normal("r", 0.8, 1.0)
        n = correction_draws.normal("noise", (2,))
        correction = example.corrector(self.student, self.online, example.teacher, z, r, n)
        loss, factor = example.balancer(prediction, correction)
        gradient = torch.autograd.grad(loss, [*self.student.parameters()])
        online_draws = self.distillation.draws("correction", ONLINE, "0")[: BATCH // 4]
        loss_g = example.online_loss(
            self.online,
            (z + correction.output).detach(),
            online_draws.uniform("r"),
            online_draws.normal("noise", (2,)),
        )
        gradient_g = torch.autograd.grad(loss_g, [*self.online.parameters()])
        return loss.detach(), factor, [*gradient], loss_g.detach(), [*gradient_g]

    def ours(self) -> tuple[Tensor, Tensor, list[Tensor], Tensor, list[Tensor]]:
        """Return the same by ffcore's own step, whose optimizers drop the gradients at its end."""
        seen: dict[Tensor, Tensor] = {}

        def record(parameter: Tensor) -> None:
            parameter.register_hook(lambda gradient: seen.update({parameter: gradient}))

        student, online = [*self.student.parameters()], [*self.online.parameters()]
        for parameter in (*student, *online):
            record(parameter)
        metrics = self.distillation.step()
        return (
            metrics["loss"],
            metrics["lambda"],
            [seen[each] for each in student],
            metrics["loss_online"],
            [seen[each] for each in online],
        )


def difference() -> float:
    """The largest difference between the file's numbers and ffcore's, relative to ffcore's."""
    both = Both()
    file, ours = both.file(), both.ours()
    pairs = [(file[i], ours[i]) for i in (0, 1, 3)]
    pairs += [*zip(file[2], ours[2], strict=True), *zip(file[4], ours[4], strict=True)]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def test_losses_lambda_and_gradients_are_those_of_ffcore() -> None:
    assert difference() < 1e-10


def _corrector_of_wrong_sign(right: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(*args: Any) -> Any:
        found = right(*args)
        return found._replace(gap=-found.gap)

    return wrong


def _predictor_without_derivative(right: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(F: Any, u: Any, z: Tensor, delta: Tensor) -> Any:
        output = F(z, delta)
        f = (z + delta[:, None] * output).detach()
        return example.Gap(output, output.detach() - u(f, 1 - delta))

    return wrong


def _balancer_with_raw_lambda(right: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(prediction: Any, correction: Any) -> Any:
        loss, factor = right(prediction, correction)
        return loss, factor * 1.01

    return wrong


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("corrector", _corrector_of_wrong_sign),
        ("predictor", _predictor_without_derivative),
        ("balancer", _balancer_with_raw_lambda),
    ],
)
def test_the_comparison_catches_a_mistake(
    name: str, mistake: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, name, mistake(getattr(example, name)))
    assert difference() > 1e-3


def test_its_teacher_is_the_exact_velocity_of_the_mixture() -> None:
    exact = GaussianMixture(example.MEANS.double(), example.SCALE)
    x, t = 2 * torch.randn(100, 2), torch.rand(100)
    wanted = exact(x, t, Condition(size=100))
    assert torch.allclose(example.teacher(x, t), wanted, rtol=1e-10, atol=1e-10)


def test_it_is_short_and_needs_nothing_but_torch() -> None:
    text = FILE.read_text()
    assert len(text.splitlines()) <= 200
    modules = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            modules.add(node.module.split(".")[0])
    assert modules - sys.stdlib_module_names == {"torch"}


def test_a_short_run_improves_on_its_start(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_default_dtype(torch.float32)
    distances = example.main(steps=300)
    before, after = distances["student, untrained"], distances["student, 1 step"]
    assert all(now < 0.8 * then for now, then in zip(after, before, strict=True))
    printed = capsys.readouterr().out
    assert "step   300" in printed
    assert all(name in printed for name in distances)
