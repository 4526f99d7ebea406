"""Whether an installation computes what it should."""
