"""Samples of a student or a teacher: made, decoded, and kept."""

from ffcore.sample.chunks import CHUNK
from ffcore.sample.output import output
from ffcore.sample.processes import Processes, joined, own_device
from ffcore.sample.sampler import (
    Generator,
    Labelling,
    NotFinite,
    OneStep,
    Request,
    SampleError,
    Sampler,
    Solved,
    to_uint8,
)
from ffcore.sample.writing import StoppedSampling, write_samples

__all__ = [
    "CHUNK",
    "Generator",
    "Labelling",
    "NotFinite",
    "OneStep",
    "Processes",
    "Request",
    "SampleError",
    "Sampler",
    "Solved",
    "StoppedSampling",
    "joined",
    "output",
    "own_device",
    "to_uint8",
    "write_samples",
]
