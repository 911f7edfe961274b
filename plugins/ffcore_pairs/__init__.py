"""Regression on solved pairs (Luhman & Luhman, 2101.02388): its predictor, without data."""
