"""The mathematics of flows and flow maps. Importing this module does not import torch."""
