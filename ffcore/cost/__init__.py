"""The cost of a recipe before it runs: memory, FLOPs, evaluations. No weights, no GPU."""

from ffcore.cost.cost import Activations, Cost, Network, Pass
from ffcore.cost.memory import Memory

__all__ = ["Activations", "Cost", "Memory", "Network", "Pass"]
