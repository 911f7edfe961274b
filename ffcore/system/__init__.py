"""The machine: files, memory, processes."""
