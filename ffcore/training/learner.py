"""A network with its optimizer, its schedule and the gradient of a step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ffcore.system.distributed import Processes, whole
from ffcore.training.optimizer import Optimizer


@attrs.frozen(eq=False)
class Learner:
    """A network with its optimizer and schedule."""

    network: nn.Module
    """The network, or the wrapper that averages its gradients."""
    table: Optimizer
    optimizer: torch.optim.Optimizer
    parameters: list[nn.Parameter]
    """The parameters of the network that it trains."""

    @staticmethod
    def of(network: nn.Module, table: Optimizer) -> Learner:
        """Build the optimizer of a network's parameters that require a gradient.

        The optimizer holds a complex parameter as pairs of real numbers, in the same memory: they
        are what AdamW updates (torch's fused one takes no complex numbers).
        """
        trained = [each for each in network.parameters() if each.requires_grad]
        trained.sort(key=_is_whole)  # the optimizer cannot update both kinds together
        return Learner(network, table, table.build(map(_as_real, trained)), trained)

    @property
    def held(self) -> list[nn.Parameter]:
        """The optimizer's own tensor for each of `parameters`: the same one, unless complex."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def complete(self, processes: Processes) -> None:
        """Complete the gradient after a step's backward passes.

        A parameter that the loss does not depend on gets the gradient zero, however many processes
        there are. Of a sharded network, the processes average the gradients of the parameters that
        each of them holds whole.
        """
        for each in self.parameters:
            if each.grad is None:
                each.grad = torch.zeros_like(each)
        for part in self._parts():
            if _is_whole(part[0]) and len(part) < len(self.parameters):
                for each in part:
                    assert each.grad is not None
                    each.grad = processes.total(each.grad) / processes.size

    def clip(self, most: float | None) -> Tensor:
        """Clip the gradient's norm to `most`; return the norm before. Call `complete` first."""
        gradients = [[p.grad for p in part if p.grad is not None] for part in self._parts()]
        norms = [whole(torch.nn.utils.get_total_norm(part)) for part in gradients]
        norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        for part in self._parts():
            torch.nn.utils.clip_grads_with_norm_(part, most or float("inf"), norm)
        return norm

    def _parts(self) -> list[list[nn.Parameter]]:
        """Return the sharded parameters and those that are whole, without an empty list."""
        return [[*part] for _, part in itertools.groupby(self.parameters, _is_whole)]

    def step(self, rate: float, finite: Tensor) -> None:
        """Take an optimizer step and drop the gradient.

        Args:
            rate: factor on the learning rate.
            finite: a bool on the device; if it is false, weights and moments do not change.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.table.learning_rate * rate
        for parameter, own in zip(self.parameters, self.held, strict=True):
            if own is not parameter and parameter.grad is not None:
                own.grad = torch.view_as_real(parameter.grad)
        # GradScaler sets this for a fused optimizer, which then skips the update.
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self._drop_gradients()

    def take_gradients(self) -> list[Tensor | None]:
        """Remove the gradients from the parameters and return them."""
        gradients = [p.grad for p in self.parameters]
        self._drop_gradients()
        return gradients

    def give_gradients(self, gradients: Sequence[tuple[Tensor, list[Tensor | None]]]) -> None:
        """Set the gradient to Σ factor · gradient over gradients from `take_gradients`."""
        for factor, part in gradients:
            for parameter, gradient in zip(self.parameters, part, strict=True):
                if gradient is None:
                    continue
                scaled = gradient.mul_(factor.to(gradient.dtype))
                parameter.grad = scaled if parameter.grad is None else parameter.grad.add_(scaled)

    def _drop_gradients(self) -> None:
        for each in (*self.parameters, *self.held):
            each.grad = None


def _is_whole(parameter: Tensor) -> bool:
    return not isinstance(parameter, DTensor)


def _as_real(parameter: nn.Parameter) -> nn.Parameter:
    """Return the parameter itself; of a complex one, its real and imaginary parts, in place."""
    if not parameter.is_complex():
        return parameter
    return nn.Parameter(torch.view_as_real(parameter.detach()))
