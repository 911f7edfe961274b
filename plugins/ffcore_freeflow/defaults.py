"""The balancer's defaults, in recipes and in Python. Torch-free."""

from typing import Literal

CORRECTION = 0.25
ALPHA = 1.0
POWER = 1.0
WEIGHT_EPSILON = 1e-3
SCALE_EPSILON = 1e-6
LAMBDA_ON: Literal["weighted", "raw"] = "weighted"
