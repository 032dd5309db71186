"""Parts of tools/benchmark.py: what to run, how to time it, the machine's ceilings, and the report."""
