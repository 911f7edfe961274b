"""Verification of a flow map: its identity, and its end points against the teacher's flow."""

from ffcore.verify.agreement import Agreement
from ffcore.verify.errors import Errors, Spread
from ffcore.verify.noising import NoisingGap
from ffcore.verify.subject import Subject, open_subject
from ffcore.verify.verification import Noising, Settings, Verification, verify

__all__ = [
    "Agreement",
    "Errors",
    "Noising",
    "NoisingGap",
    "Settings",
    "Spread",
    "Subject",
    "Verification",
    "open_subject",
    "verify",
]
