"""The features of published distances: Inception and DINOv2."""
