"""Workspaces and sweeps as workflows of Snakemake: the same command lines, as jobs on one machine or several."""
