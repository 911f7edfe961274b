"""Small perceptrons for vectors: a student, and an online network g_ψ."""
