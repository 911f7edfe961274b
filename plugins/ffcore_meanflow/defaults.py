"""The settings of the paper's ablation, for the recipe table and for Python alike. Torch-free."""

from ffcore.flow.time_distribution import TimeDistribution

TIMES = TimeDistribution(distribution="logit-normal", location=-0.4)
"""The distribution of t and r that was the best."""
UNEQUAL = 0.25
DROP = 0.1
