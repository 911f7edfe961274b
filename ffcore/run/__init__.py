"""A recipe from start to end, in a directory of its own."""
