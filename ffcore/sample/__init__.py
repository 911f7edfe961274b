"""Samples of a student or a teacher: made, decoded and saved."""

from ffcore.sample.output import output
from ffcore.sample.partial import Partial, differences
from ffcore.sample.sampler import (
    CHUNK,
    Choice,
    Generator,
    Labelling,
    NotFinite,
    Request,
    SampleError,
    Sampler,
    StudentSampler,
    TeacherSampler,
    to_uint8,
    whole_number,
)
from ffcore.sample.writing import StoppedSampling, write_samples

__all__ = [
    "CHUNK",
    "Choice",
    "Generator",
    "Labelling",
    "NotFinite",
    "Partial",
    "Request",
    "SampleError",
    "Sampler",
    "StoppedSampling",
    "StudentSampler",
    "TeacherSampler",
    "differences",
    "output",
    "to_uint8",
    "whole_number",
    "write_samples",
]
