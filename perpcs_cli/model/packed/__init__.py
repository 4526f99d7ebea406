"""Packed passes: the new tokens of many rows side by side in one line, and their recordings on a GPU."""
