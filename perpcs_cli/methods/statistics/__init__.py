"""Metrics of systems side by side, with paired bootstrap."""
