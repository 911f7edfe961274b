"""The mathematics of flows and flow maps. Imports nothing by itself."""
