"""The settings of the paper's ablation, for recipes and Python. Torch-free."""

from ffcore.flow.time_distribution import TimeDistribution

TIMES = TimeDistribution(distribution="logit-normal", location=-0.4)
"""The best distribution of t and r."""
UNEQUAL = 0.25
DROP = 0.1
