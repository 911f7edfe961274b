"""Variational score distillation (2305.16213, 2305.18455), stated in velocities."""
