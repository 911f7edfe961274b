"""The paper's noise levels, for recipes and Python. Torch-free."""

from ffcore.flow.time_distribution import TimeDistribution

R = TimeDistribution(distribution="logit-normal", location=0.8)
"""Distribution of the gap's noise level."""
