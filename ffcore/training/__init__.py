"""One training step, and the loop around it. Importing it imports no torch."""
