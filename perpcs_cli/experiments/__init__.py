"""Many steps: sweeps, the papers' tables, what they cost, and what the engine is measured against."""
