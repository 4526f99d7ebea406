"""A sweep's results as the papers' tables."""
