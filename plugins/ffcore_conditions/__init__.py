"""Conditions with names from a file: vectors, images, or embeddings of prompts."""
