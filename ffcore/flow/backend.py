"""In which way a derivative is computed, as recipes say it. Torch-free.

A recipe holds these keys, `ffcore/flow/derivative.py` carries them out.
"""

from typing import Any, Literal, get_args

from ffcore.keys import key

Backend = Literal["dual", "jvp", "finite-difference"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
"""From the first choice to the last; see derivative.backend_for."""
Choice = Literal["auto", "dual", "jvp", "finite-difference"]
Scheme = Literal["one-sided", "central"]
STEP = 1e-3
SCHEME: Scheme = "one-sided"


def backend_key(derivative: str) -> Any:
    """Return the key `derivative` of an objective that needs this derivative."""
    return key(
        "auto",
        help=(
            f"how {derivative} is computed: dual numbers, exact, in the forward that there is "
            "anyway; torch's forward mode, exact, at thrice the price; or finite differences, "
            "which work with every network; auto is the first of them that works on the student"
        ),
    )


def step_key(of: str) -> Any:
    """Return the key `derivative_step`: how long a finite difference is, and of what."""
    return key(STEP, help=f"finite difference: step in {of}", above=0, at_most=0.1)


def scheme_key() -> Any:
    """Return the key `derivative_scheme`."""
    return key(SCHEME, help="finite difference: one more forward, or two and second order")
