"""The laws, one module for each role; importing this registers them all."""

from ffcore.testing.laws import (
    balancer,
    component,
    data,
    decoder,
    features,
    network,
    objective,
    student,
    teacher,
    tracker,
)

__all__ = [
    "balancer",
    "component",
    "data",
    "decoder",
    "features",
    "network",
    "objective",
    "student",
    "teacher",
    "tracker",
]
