"""The training step and the training loop. Importing this module does not import torch."""
