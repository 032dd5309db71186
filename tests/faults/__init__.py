"""Faults done to small runs on purpose, and what the runs must make of them. See tests/faults/__main__.py."""
