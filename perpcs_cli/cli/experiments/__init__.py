"""Commands for many runs: sweeps, tables, plans."""
