"""What the paper says of noise levels, for the recipe table and for Python alike. Torch-free."""

from ffcore.flow.time_distribution import TimeDistribution

R = TimeDistribution(distribution="logit-normal", location=0.8)
"""The distribution of the gap's noise level."""
