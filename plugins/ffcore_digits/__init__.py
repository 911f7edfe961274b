"""The shipped teacher, a SiT on handwritten digits, and a classifier for their features."""
