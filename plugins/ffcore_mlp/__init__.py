"""Small perceptrons for vectors: a student, and a network for g_ψ."""
