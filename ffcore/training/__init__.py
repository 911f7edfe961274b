"""One training step, and the loop around it. Imports nothing by itself."""
