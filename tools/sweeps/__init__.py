"""Sweeps: grids of configs and seeds, run one by one or on several devices. `tools/sweep.py` is their command."""
