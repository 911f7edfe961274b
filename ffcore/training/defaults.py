"""Defaults of training, in recipes and in Python. Torch-free."""

BATCH = 256
EMA_DECAY = 0.9999
CLIP = 1.0
LOG_EVERY = 50
CHECKPOINT_EVERY = 1000
KEEP_LAST = 2
