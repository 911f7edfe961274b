"""Recipe keys for the method of a derivative; `ffcore/flow/derivative.py` uses them. Torch-free."""

from typing import Any, Literal, get_args

from ffcore.keys import key

Backend = Literal["dual", "jvp", "finite-difference"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
"""Exact before approximate, cheap before expensive: "auto" is the first that works."""
Choice = Literal["auto", "dual", "jvp", "finite-difference"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
Scheme = Literal["one-sided", "central"]
STEP = 1e-3
SCHEME: Scheme = "one-sided"


def backend_key(derivative: str) -> Any:
    """Return the key `derivative` for an objective that needs this derivative."""
    return key(
        "auto",
        help=(
            f"method for {derivative}: dual (exact dual numbers, in the same forward), jvp "
            "(torch's exact forward mode, three times the cost) or finite-difference (works with "
            "every network); auto is the first that works on the student"
        ),
    )


def step_key(of: str) -> Any:
    """Return the key `derivative_step`, the step of a finite difference in `of`."""
    return key(STEP, help=f"finite-difference: step in {of}", above=0, at_most=0.1)


def scheme_key() -> Any:
    """Return the key `derivative_scheme`."""
    return key(
        SCHEME,
        help="finite-difference: one-sided (one more forward) or central (two, of second order)",
    )
