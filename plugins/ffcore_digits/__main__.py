"""Makes the shipped files: `python -m ffcore_digits` (extra `digits`).

Trains the classifier and the teacher and samples the teacher's reference. Writes the three
safetensors files and the model card's numbers (card.json) into a folder. About half an hour on 2
cores.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from ffcore.draws import Draws
from ffcore.evaluate.evaluator import Evaluator
from ffcore.evaluate.metrics import Statistics, frechet_distance
from ffcore.evaluate.prior import Measurement, prior
from ffcore.flow.ode import integrate
from ffcore.flow.path import interpolate
from ffcore.flow.solver import Solver
from ffcore.interfaces import Condition, Context, Teacher, VelocityField
from ffcore.recipe import component
from ffcore.system.weights import read_weights, write_weights
from ffcore_digits.classifier import DigitFeatures, accuracy
from ffcore_digits.data import digits
from ffcore_digits.training import train_classifier, train_teacher

SIZES = {
    "input_size": 8,
    "patch_size": 2,
    "channels": 1,
    "width": 64,
    "depth": 4,
    "heads": 4,
    "classes": 10,
}
CLASSIFIER: dict[str, Any] = {"steps": 1500, "batch": 128, "seed": 0}
TEACHER: dict[str, Any] = {"steps": 5000, "batch": 256, "learning_rate": 2e-3, "seed": 0}
MEASUREMENT = Measurement(samples=5000, solver=Solver("heun", 64), euler=(1, 2, 4, 8, 16))


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(["classifier", "teacher", "reference"]))
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent)
def main(parts: tuple[str, ...], out: Path) -> None:
    """Make the shipped PARTS (default: all), in this order."""
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # rounding depends on the number of threads
    torch.set_flush_denormal(True)
    chosen = parts or ("classifier", "teacher", "reference")
    card_path = out / "card.json"
    card: dict[str, Any] = json.loads(card_path.read_text()) if card_path.exists() else {}
    for name, make in (
        ("classifier", _classifier),
        ("teacher", _teacher),
        ("reference", _reference),
    ):
        if name in chosen:
            card[name] = make(out)
            card_path.write_text(json.dumps(card, indent=2) + "\n")
            click.echo(f"{name}: {json.dumps(card[name], indent=2)}")


def _classifier(out: Path) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(CLASSIFIER["seed"])
        network = train_classifier(*digits("train"), progress=_progress("classifier"), **CLASSIFIER)
    write_weights(out / "classifier.safetensors", network.state_dict(), {"digits": CLASSIFIER})
    return {
        **CLASSIFIER,
        "accuracy_train": accuracy(network, *digits("train")),
        "accuracy_held_out": accuracy(network, *digits("held out")),
    }


def _teacher(out: Path) -> dict[str, Any]:
    images, labels = digits("train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TEACHER["seed"])
        network = component("teacher", {"type": "sit", "sizes": SIZES}).build(Context())
    velocity = train_teacher(
        network.trainable_copy(),
        images,
        labels,
        null_label=SIZES["classes"],
        progress=_progress("teacher"),
        **TEACHER,
    )
    state = {k.removeprefix("transformer."): v for k, v in velocity.state_dict().items()}
    write_weights(out / "teacher.safetensors", state, {"sit": SIZES, "digits": TEACHER})
    loss = _flow_matching_loss(velocity, *digits("held out"))
    return {**TEACHER, "sizes": SIZES, "loss_held_out": loss}


def _flow_matching_loss(velocity: VelocityField, images: Tensor, labels: Tensor) -> float:
    """Return the mean loss on these images over 20 draws of time and noise."""
    losses: list[float] = []
    for repeat in range(20):
        draws = Draws(1, repeat, 0, len(images))
        n, t = draws.normal("noise", tuple(images.shape[1:])), draws.uniform("time")
        with torch.no_grad():
            condition = Condition(size=len(images), label=labels)
            found = velocity(interpolate(images, n, t), t, condition)
        losses.append((found - (images - n)).square().mean().item())
    return sum(losses) / len(losses)


def _reference(out: Path) -> dict[str, Any]:
    """Sample the teacher, write its statistics, and compare its samples with the digits."""
    weights = str(out / "teacher.safetensors")
    teacher = component("teacher", {"type": "sit", "weights": weights}).build(Context())
    features = DigitFeatures(read_weights(str(out / "classifier.safetensors")))
    begun = time.monotonic()

    def progress(what: str, done: int, total: int) -> None:
        if done == total:
            click.echo(f"{what}: {total} samples, {time.monotonic() - begun:.0f} s")

    raw = component("features", {"type": "raw"}).build(Context())
    evaluator = Evaluator(teacher=teacher, features=[features, raw], measurement=MEASUREMENT)
    evaluator.make_reference(progress).write(out / "reference.safetensors")
    return _against_data(teacher, features)


@torch.no_grad()
def _against_data(teacher: Teacher, features: DigitFeatures) -> dict[str, Any]:
    images, _ = digits("all")
    train, held_out = digits("train")[0].flatten(1), digits("held out")[0].flatten(1)
    data = Statistics.of(features(images))
    samples, labels, one_step = [], [], []
    for z, condition in prior(teacher, MEASUREMENT, "card"):
        samples.append(integrate(teacher, z, condition, MEASUREMENT.solver))
        one_step.append(integrate(teacher, z, condition, Solver("euler", 1)))
        assert condition.label is not None
        labels.append(condition.label)
    converged, wanted = torch.cat(samples), torch.cat(labels)
    distance = frechet_distance(Statistics.of(features(converged)), data)
    distance_one_step = frechet_distance(Statistics.of(features(torch.cat(one_step))), data)

    def nearest(points: Tensor) -> Tensor:
        return torch.cdist(points.flatten(1), train).min(1).values

    near_samples, near_held_out = nearest(converged), nearest(held_out)
    return {
        "distance_to_data": distance,
        "distance_to_data_of_one_euler_step": distance_one_step,
        "ratio": distance / distance_one_step,
        "read_as_their_class": (features.classify(converged) == wanted).double().mean().item(),
        "nearest_training_digit": {
            "samples": _quantiles(near_samples),
            "held_out_digits": _quantiles(near_held_out),
        },
    }


def _quantiles(values: Tensor) -> dict[str, float]:
    return {f"{q:.0%}": values.quantile(q).item() for q in (0.01, 0.05, 0.5)}


def _progress(what: str) -> Any:
    begun = time.monotonic()

    def show(step: int, steps: int, loss: float) -> None:
        if step % 250 == 0 or step == steps - 1:
            click.echo(f"{what} {step}/{steps} loss {loss:.4f} {time.monotonic() - begun:.0f} s")

    return show


if __name__ == "__main__":
    main()
