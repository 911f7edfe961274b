"""The mathematics of flows and flow maps. Importing it imports no torch."""
