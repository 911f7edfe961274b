"""Trackers for TensorBoard and Weights & Biases."""
