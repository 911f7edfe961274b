"""The embedded teacher: a SiT on handwritten digits, and a classifier for their features."""
