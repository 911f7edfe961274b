"""The machine: files, memory and processes."""
