"""A ring to distil, an objective that learns by halves, and a robust balancer."""
