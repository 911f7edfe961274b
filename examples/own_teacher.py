"""Your own network as a teacher, and a student that starts from its weights.

Run it in this folder, with Python or as a recipe; each takes half a minute on one CPU core:

    python own_teacher.py
    ffd run own_teacher.toml
"""

import attrs
import torch
from my_network import CLASSES, NULL, Network, load_network
from torch import Tensor

from ffcore import (
    Condition,
    Context,
    Distillation,
    FrozenTeacher,
    Guided,
    Labels,
    Optimizer,
    Solver,
    Student,
    Teacher,
    VelocityField,
    generate,
    integrate,
    train,
)
from ffcore.keys import key
from ffcore_freeflow.balancer import AdaptiveBalancer
from ffcore_freeflow.objective import FreeFlowPredictor

SHAPE = (2,)
"""Shape of one sample, without the batch."""


class OwnVelocity(VelocityField):
    """Your network in ffcore's convention: t = 1 is noise, and u points from noise to data."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return u(x_t, t | label)."""
        velocity: Tensor = self.network(x_t, 1 - t, condition.label)
        return velocity.to(x_t.dtype)  # autocast may change the dtype


class OwnStudent(Student):
    """A copy of your network, which reads 1 - δ as its time: F(z, δ) starts as u(z, 1 - δ)."""

    starts_at = "prior"

    def __init__(self, velocity: VelocityField) -> None:
        super().__init__()
        self.velocity = velocity

    def forward(self, x_t: Tensor, t: Tensor, delta: Tensor, condition: Condition) -> Tensor:
        """Return F(x_t, δ | label), the average velocity over the duration δ."""
        output: Tensor = self.velocity(x_t, 1 - delta, condition)
        return output


@attrs.frozen(kw_only=True)
class OwnTeacherTable:
    """The recipe table [teacher]: its keys, and what they build."""

    weights: str = key("my_network.pt", help="weights file")
    offers = frozenset({"trainable copy"})

    def build(self, context: Context) -> Teacher:
        """Return the teacher; FrozenTeacher puts it into eval mode."""
        velocity = OwnVelocity(load_network(self.weights))
        return FrozenTeacher(velocity, SHAPE, Labels(CLASSES, null_label=NULL))


@attrs.frozen(kw_only=True)
class OwnStudentTable:
    """The recipe table [student]."""

    def build(self, context: Context) -> Student:
        """Return a student that starts from the teacher's weights."""
        assert context.teacher is not None
        ranged = context.guidance_range is not None  # an error: the network has no input for γ
        velocity = context.teacher.trainable_copy(takes_guidance=ranged)
        if velocity is None:  # A saved student is loaded without its teacher.
            if (context.teacher.sample_shape, context.classes) != (SHAPE, CLASSES):
                raise ValueError(f"a new student is for samples {SHAPE} of {CLASSES} classes")
            velocity = OwnVelocity(Network())
        return OwnStudent(velocity)


def main(steps: int = 600, guidance: float = 1.5) -> dict[str, float]:
    """Distil; print and return the distances to the teacher's converged samples."""
    torch.manual_seed(0)
    teacher = OwnTeacherTable().build(Context())
    distillation = Distillation(
        teacher=Guided(teacher),
        student=OwnStudentTable().build(Context(teacher=teacher)),
        predictor=FreeFlowPredictor(),
        balancer=AdaptiveBalancer(weight_epsilon=0.1),
        optimizer=Optimizer(learning_rate=1e-3, schedule="cosine"),
        steps=steps,
        ema_decays=[0.99],
        guidance=guidance,
    )
    for line in distillation.self_check():
        print(line)
    for report in train(distillation, log_every=max(1, steps // 6)):
        print(f"step {report.step}: gap {report.metrics['gap_prediction']:.3f}")

    teacher, z = distillation.teacher, torch.randn(2000, *SHAPE)
    condition = Condition(size=2000, label=torch.randint(CLASSES, (2000,))).at(guidance)
    with torch.no_grad():
        found = {"student, 1 step": generate(distillation.ema, z, condition)}
    for count in (1, 2, 4, 8):
        euler = Solver(method="euler", steps=count)
        found[f"teacher, {count} Euler step(s)"] = integrate(teacher, z, condition, euler)
    converged = integrate(teacher, z, condition)  # 64 Heun steps
    distances = {name: float((x - converged).square().mean().sqrt()) for name, x in found.items()}
    for name, distance in distances.items():
        print(f"{name:24}{distance:8.3f} from the teacher's converged samples")
    return distances


if __name__ == "__main__":
    torch.set_num_threads(1)  # small networks are fastest with one
    main()
