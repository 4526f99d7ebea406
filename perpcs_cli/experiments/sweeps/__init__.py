"""Grids of settings as command lines, and running them."""
